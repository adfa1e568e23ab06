//! What is left of an earlier run: reads every sidecar and every table of a bundle, removes what is damaged or
//! incomplete, and rebuilds the ledger in the order of last use.

use super::bundle::{self, MAX_TABLE, Table, is_small};
use super::directory::{self, Directory, Pair};
use super::sidecar::{self, PAGE};
use super::{copy, small};
use crate::model::bundles::{Bundles, place_of};
use crate::model::eviction::{BLOCK, FileKey, Ledger, Place, SEGMENT_CHUNKS};
use crate::model::hash_index::HashIndex;
use globalfs_proto::chunk::chunk_count;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ChunkHash, ChunkIndex};
use parking_lot::Mutex;
use rustix::fs::{SeekFrom, seek};
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Threads that scan: opening files waits for the disk more than for the CPU.
const SCAN_THREADS: usize = 4;

/// The hash of a full chunk of zeros, which is stored as a hole.
static ZERO_HASH: LazyLock<blake3::Hash> = LazyLock::new(|| blake3::hash(&[0; CHUNK_SIZE as usize]));

/// What is good.
struct Found {
    used_at_ns: i128,
    what: Kept,
}

enum Kept {
    Pair(Pages),
    Bundle { table: Table, written_at_ns: i128 },
}

/// A file with the masks of its segments.
struct Pages {
    key: FileKey,
    size: u64,
    segments: Vec<Page>,
}

struct Page {
    number: u32,
    present: u64,
    /// Present chunks that are all zeros and take no space.
    holes: u64,
}

/// Fills `ledger`, which may then be above its quota, `bundles`, and `index`, which may then name what is gone.
/// Blocks the thread.
pub(super) fn recover(
    directory: &Directory,
    ledger: &mut Ledger,
    bundles: &mut Bundles,
    index: &Mutex<HashIndex>,
) -> io::Result<()> {
    let mut found = scan(directory, index)?;
    found.sort_by_key(|file| file.used_at_ns);
    for Found { what, .. } in &found {
        match what {
            Kept::Pair(file) => enter(file, ledger),
            Kept::Bundle { table, .. } => {
                ledger.restore(&place_of(table.key, 0, table.length), small::data_cost(table.length));
            }
        }
    }
    enter_bundles(&found, bundles);
    tracing::info!(files = found.len(), used_bytes = ledger.used(), "the cache is recovered");
    Ok(())
}

/// In the order in which they were written: a file that was found damaged lies in a later one again.
fn enter_bundles(found: &[Found], bundles: &mut Bundles) {
    let mut tables: Vec<_> = found
        .iter()
        .filter_map(|found| match &found.what {
            Kept::Bundle { table, written_at_ns } => Some((written_at_ns, table)),
            Kept::Pair(_) => None,
        })
        .collect();
    tables.sort_by_key(|(written_at_ns, _)| **written_at_ns);
    tables.iter().for_each(|(_, table)| bundles.enter(table.key, &table.files));
}

fn enter(file: &Pages, ledger: &mut Ledger) {
    for page in &file.segments {
        for (bit, place) in present_places(file, page) {
            let cost = if page.holes & bit != 0 { 0 } else { place.data_cost() };
            ledger.restore(&place, cost);
        }
    }
}

/// The bit and place of each present chunk; bits behind the end of the file are dropped.
fn present_places<'a>(file: &'a Pages, page: &'a Page) -> impl Iterator<Item = (u64, Place)> + 'a {
    let first = u64::from(page.number) * u64::from(SEGMENT_CHUNKS);
    let set = (0..SEGMENT_CHUNKS).filter(|n| page.present & (1 << n) != 0);
    set.filter_map(move |n| {
        Some((1 << n, Place::new(file.key, file.size, ChunkIndex(first + u64::from(n)))?))
    })
}

fn scan(directory: &Directory, index: &Mutex<HashIndex>) -> io::Result<Vec<Found>> {
    let (next, found, failed) = (AtomicU16::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..SCAN_THREADS {
            scope.spawn(|| {
                while let Ok(fan) = u8::try_from(next.fetch_add(1, Ordering::Relaxed)) {
                    match scan_fan(directory, fan, index) {
                        Ok(mut files) => found.lock().append(&mut files),
                        Err(error) => *failed.lock() = Some(error),
                    }
                }
            });
        }
    });
    failed.into_inner().map_or_else(|| Ok(found.into_inner()), Err)
}

fn scan_fan(directory: &Directory, fan: u8, index: &Mutex<HashIndex>) -> io::Result<Vec<Found>> {
    let (mut found, mut halves) = (Vec::new(), BTreeMap::<FileKey, u8>::new());
    let entries = match fs::read_dir(directory.fan(fan)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        match key_in(&path).filter(|(key, _)| key.0[0] == fan) {
            Some((key, Kind::Half)) => *halves.entry(key).or_default() += 1,
            Some((key, Kind::Bundle)) => match examine_bundle(directory, key, index)? {
                Some(bundle) => found.push(bundle),
                None => directory.remove_bundle(key)?,
            },
            None if path.is_dir() => tracing::warn!(path = %path.display(), "a directory that is not ours"),
            None => directory::remove_file(&path)?,
        }
    }
    for (key, halves) in halves {
        match if halves == 2 { examine(directory, key, index)? } else { None } {
            Some(file) => found.push(file),
            None => directory.remove(key)?,
        }
    }
    Ok(found)
}

enum Kind {
    Half,
    Bundle,
}

/// The key in `KEY.data`, `KEY.side` or `KEY.bundle`.
fn key_in(path: &Path) -> Option<(FileKey, Kind)> {
    let (stem, kind) = path.file_name()?.to_str()?.split_once('.')?;
    let digits = stem.len() == 32 && stem.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let number = u128::from_str_radix(stem, 16).ok()?;
    let kind = match kind {
        "data" | "side" => Kind::Half,
        "bundle" => Kind::Bundle,
        _ => return None,
    };
    digits.then_some((FileKey(number.to_be_bytes()), kind))
}

/// `None` when the files are not good or hold nothing.
fn examine(directory: &Directory, key: FileKey, index: &Mutex<HashIndex>) -> io::Result<Option<Found>> {
    let Ok(pair) = directory.open_any(key) else { return Ok(None) };
    let meta = pair.data.metadata()?;
    let mut first = [0; sidecar::FIRST_LENGTH];
    let whole = pair.side.read_exact_at(&mut first, 0).is_ok();
    let Some(version) = sidecar::version_in(&first).filter(|_| whole) else { return Ok(None) };
    if is_small(&version) || sidecar::key_of(&version) != key || meta.len() != version.size {
        return Ok(None);
    }
    let segments = read_pages(directory, &pair, key, version.size, index)?;
    let file = Pages { key, size: version.size, segments };
    let empty = !file.segments.iter().any(|page| present_places(&file, page).next().is_some());
    let good = !empty && trim(directory, &pair, &file, meta.blocks() * 512)?;
    Ok(good.then(|| Found { used_at_ns: used_at_ns(&meta), what: Kept::Pair(file) }))
}

/// `None` when its table is not good or it has another length. Its files are verified when they are read.
fn examine_bundle(
    directory: &Directory,
    key: FileKey,
    index: &Mutex<HashIndex>,
) -> io::Result<Option<Found>> {
    let Ok(file) = directory.open_bundle(key) else { return Ok(None) };
    let meta = file.metadata()?;
    let mut first = vec![0; MAX_TABLE];
    let length = read_up_to(&file, &mut first, 0)?;
    let table = bundle::table_in(&first[..length]);
    let Some(table) = table.filter(|table| table.key == key && table.length == meta.len()) else {
        return Ok(None);
    };
    let mut index = index.lock();
    for bundled in &table.files {
        index.put(&bundled.hash, copy::whereabouts_of_bundled(bundled));
    }
    let what = Kept::Bundle { table, written_at_ns: written_at_ns(&meta) };
    Ok(Some(Found { used_at_ns: used_at_ns(&meta), what }))
}

fn written_at_ns(meta: &Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
}

fn used_at_ns(meta: &Metadata) -> i128 {
    let atime = i128::from(meta.atime()) * 1_000_000_000 + i128::from(meta.atime_nsec());
    atime.max(written_at_ns(meta))
}

/// Reads the pages that exist; one without a valid bit gives its space back.
fn read_pages(
    directory: &Directory,
    pair: &Pair,
    key: FileKey,
    size: u64,
    index: &Mutex<HashIndex>,
) -> io::Result<Vec<Page>> {
    let count = chunk_count(size).div_ceil(u64::from(SEGMENT_CHUNKS));
    let (mut pages, mut next) = (Vec::new(), 0);
    while let Some(number) = next_page(pair, next)?.filter(|number| *number < count) {
        next = number + 1;
        let mut bytes = vec![0; PAGE as usize];
        read_up_to(&pair.side, &mut bytes, number * PAGE)?;
        let present = sidecar::present_in(&bytes, key);
        let is_zero = |bit: &u32| sidecar::hash_in(&bytes, *bit) == ZERO_HASH.as_bytes();
        let zero_bits = (0..SEGMENT_CHUNKS).filter(|bit| present & (1 << bit) != 0).filter(is_zero);
        let holes = if directory.can_punch() { zero_bits.fold(0, |mask, bit| mask | 1 << bit) } else { 0 };
        match (present, u32::try_from(number)) {
            (0, _) if number > 0 && directory.can_punch() => {
                directory::punch(&pair.side, number * PAGE, PAGE)?
            }
            (0, _) | (_, Err(_)) => {}
            (_, Ok(number)) => {
                remember(&bytes, key, size, (number, present & !holes), index);
                pages.push(Page { number, present, holes });
            }
        }
    }
    Ok(pages)
}

/// Enters the chunks of one page.
fn remember(page: &[u8], key: FileKey, size: u64, (number, kept): (u32, u64), index: &Mutex<HashIndex>) {
    let first = u64::from(number) * u64::from(SEGMENT_CHUNKS);
    let mut index = index.lock();
    for bit in (0..SEGMENT_CHUNKS).filter(|bit| kept & (1 << bit) != 0) {
        let place = Place::new(key, size, ChunkIndex(first + u64::from(bit)));
        let hash = sidecar::hash_in(page, bit).try_into().map(ChunkHash);
        if let (Some(at), Ok(hash)) = (place.as_ref().and_then(copy::whereabouts_of), hash) {
            index.put(&hash, at);
        }
    }
}

/// The first page from `from` on that is not a hole.
fn next_page(pair: &Pair, from: u64) -> io::Result<Option<u64>> {
    match seek(&pair.side, SeekFrom::Data(from * PAGE)) {
        Ok(offset) => Ok(Some(offset / PAGE)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The number of bytes read. Where the file ends first, the rest stays zero.
fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Gives back the space of data without its bit, if there is any; false when the file has to go for that.
fn trim(directory: &Directory, pair: &Pair, file: &Pages, allocated: u64) -> io::Result<bool> {
    let mut covered: u64 = 0;
    for page in &file.segments {
        let kept = present_places(file, page).filter(|(bit, _)| page.holes & bit == 0);
        covered += BLOCK + kept.map(|(_, place)| place.data_cost()).sum::<u64>();
    }
    if allocated <= covered {
        return Ok(true);
    }
    if !directory.can_punch() {
        return Ok(false);
    }
    let mut at = 0;
    for page in &file.segments {
        for (_, place) in present_places(file, page).filter(|(bit, _)| page.holes & bit == 0) {
            punch_between(pair, at, place.offset)?;
            at = place.offset + place.length;
        }
    }
    punch_between(pair, at, file.size).map(|()| true)
}

fn punch_between(pair: &Pair, start: u64, end: u64) -> io::Result<()> {
    if start < end { directory::punch(&pair.data, start, end - start) } else { Ok(()) }
}
