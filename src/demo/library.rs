//! The tour through the client library, for where FUSE is not permitted.

use super::place::{CLOUD, ONPREM};
use super::sample::{FIELD, FIELD_SIZE};
use super::{Tour, check_first_read, check_no_move, check_rest};
use crate::client::{Client, File};
use anyhow::{Result, ensure};
use globalfs_proto::{Attr, FileKind};
use jiff::Timestamp;
use std::os::unix::fs::FileExt;
use tokio::runtime::Handle;

const MIB: u64 = 1 << 20;
/// Where the first read begins: in the middle of the file.
const PART_START: u64 = 32 * MIB;

/// Shows the tour; `refusal` is why nothing can be mounted here, and what that would need.
pub(super) fn show(tour: &mut Tour<'_>, refusal: &str) -> Result<()> {
    tour.narrator
        .text("=> No mount is possible on this machine, for the reason above. The tour goes on with the")?;
    tour.narrator
        .text("   client library, which has the same bytes and the same rules. A mount would need:")?;
    tour.narrator.text(format_args!("   {}", needs(refusal)))?;
    let at_cloud = client(tour, "node-1")?;
    same_tree(tour, &at_cloud)?;
    let first = first_read(tour, &at_cloud)?;
    second_read(tour)?;
    whole_file(tour, &at_cloud, first)
}

/// The part of the refusal that tells what to do.
fn needs(refusal: &str) -> &str {
    refusal.split_once("): ").map_or(refusal, |(_, needs)| needs)
}

fn client(tour: &Tour<'_>, node: &str) -> Result<Client> {
    tour.narrator.text(format_args!("> client = Client::connect(\"run/{node}.yaml\")"))?;
    let config = tour.cluster.dir().join(format!("{node}.yaml"));
    Handle::current().block_on(Client::connect(config))
}

fn same_tree(tour: &mut Tour<'_>, at_cloud: &Client) -> Result<()> {
    tour.narrator.title("The same tree at both sites")?;
    tour.cluster.add_node("login-1", ONPREM, "1GiB", "")?;
    let at_onprem = client(tour, "login-1")?;
    tour.narrator.text("> client.read_dir(\"/datasets/climate\")   at cloud:")?;
    let (here, there) = (walk(at_cloud)?, walk(&at_onprem)?);
    for line in here.iter().filter(|line| line.contains("/datasets/climate/")) {
        tour.narrator.text(line)?;
    }
    ensure!(here == there && here.len() > 300, "the trees differ");
    let moved = tour.moved()?.file_bytes;
    ensure!(moved == 0, "listing moved {moved} bytes of contents");
    tour.narrator.text(format_args!(
        "=> {} entries, with equal names, sizes, owners, times at both; of the contents, nothing has moved",
        here.len()
    ))
}

/// A line for each entry of the tree, in order.
fn walk(client: &Client) -> Result<Vec<String>> {
    let (mut lines, mut todo) = (Vec::new(), vec![String::new()]);
    while let Some(dir) = todo.pop() {
        let at = if dir.is_empty() { "/" } else { &dir };
        for entry in Handle::current().block_on(client.read_dir(at))?.iter() {
            let (path, attr) = (format!("{dir}/{}", String::from_utf8_lossy(&entry.name)), &entry.attr);
            let Attr { size, mode, uid, gid, mtime_ns, .. } = attr;
            let mtime = Timestamp::from_nanosecond((*mtime_ns).into())?;
            lines.push(format!("{size:>9} {path:<34} {mode:o} {uid}:{gid} {mtime}"));
            if attr.kind == FileKind::Directory {
                todo.push(path);
            }
        }
    }
    lines.sort_unstable();
    Ok(lines)
}

fn first_read(tour: &Tour<'_>, client: &Client) -> Result<u64> {
    tour.narrator.title("The first read at cloud moves what is read")?;
    let before = tour.moved()?;
    read_part(tour, client)?;
    let moved = tour.tell_moved(before)?;
    check_first_read(moved, MIB)?;
    Ok(moved)
}

fn second_read(tour: &mut Tour<'_>) -> Result<()> {
    tour.narrator.title("The second reader at cloud moves nothing")?;
    tour.cluster.add_node("node-2", CLOUD, "1GiB", "")?;
    let second = client(tour, "node-2")?;
    let before = tour.moved()?;
    read_part(tour, &second)?;
    check_no_move(tour.tell_moved(before)?)
}

fn read_part(tour: &Tour<'_>, client: &Client) -> Result<()> {
    tour.narrator.text(format_args!("> client.open(\"/{FIELD}\").read_at(32 MiB, 1 MiB)   of 64 MiB"))?;
    let file = open(client)?;
    compare(tour, &file, PART_START..PART_START + MIB)?;
    tour.narrator.text(format_args!("=> the bytes are those of {ONPREM}/{FIELD}"))
}

fn whole_file(tour: &Tour<'_>, client: &Client, first: u64) -> Result<()> {
    tour.narrator.title("The whole file, verified")?;
    let before = tour.moved()?;
    compare(tour, &open(client)?, 0..FIELD_SIZE)?;
    let moved = tour.tell_moved(before)?;
    check_rest(moved, first, FIELD_SIZE)?;
    tour.narrator.text("=> each byte is that of onprem; what had moved before did not move again")
}

fn open(client: &Client) -> Result<File> {
    Ok(Handle::current().block_on(client.open(format!("/{FIELD}")))?)
}

/// Reads `range` through the library and compares it with the origin's own file.
fn compare(tour: &Tour<'_>, file: &File, range: std::ops::Range<u64>) -> Result<()> {
    ensure!(file.attr().size == FIELD_SIZE, "the file has {} bytes at cloud", file.attr().size);
    let origin = std::fs::File::open(tour.origin_file(FIELD))?;
    let mut wanted = vec![0; MIB as usize];
    for offset in range.step_by(MIB as usize) {
        origin.read_exact_at(&mut wanted, offset)?;
        let bytes = Handle::current().block_on(file.read_at(offset, wanted.len()))?;
        ensure!(bytes == wanted, "the bytes from {offset} on are not those of onprem");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_what_to_do() {
        let refusal =
            "FUSE is not available (/dev/fuse: No such file (os error 2)): load it with 'modprobe fuse'";
        assert_eq!(needs(refusal), "load it with 'modprobe fuse'");
        assert_eq!(needs("no"), "no");
    }
}
