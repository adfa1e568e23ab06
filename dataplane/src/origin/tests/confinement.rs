//! Nothing outside the origin's directory can be reached, by any link, at any moment.

use super::*;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

const SECRET: &[u8] = b"outside";

fn fixture_with_secret() -> Fixture {
    let fixture = Fixture::new();
    fs::create_dir(fixture.outside("private")).unwrap();
    fs::write(fixture.outside("private/file"), SECRET).unwrap();
    fixture
}

#[tokio::test]
async fn links_out_are_shown_and_never_followed() {
    let fixture = fixture_with_secret();
    let absolute = fixture.outside("private");
    symlink(absolute.join("file"), fixture.at("absolute")).unwrap();
    symlink("../private/file", fixture.at("relative")).unwrap();
    symlink(&absolute, fixture.at("directory")).unwrap();
    symlink("../private", fixture.at("up")).unwrap();
    symlink("/proc/self/root", fixture.at("magic")).unwrap();
    for link in ["/absolute", "/relative", "/directory", "/up", "/magic"] {
        let attr = fixture.origin.stat(&global(link), soon()).await.unwrap();
        assert_eq!(attr.kind, globalfs_proto::FileKind::Symlink, "{link}");
        assert_eq!(fixture.read(link, attr.version(), 0, 1).await, Err(EINVAL), "{link}");
        assert_eq!(fixture.origin.list(&global(link), soon()).await, Err(ENOTDIR), "{link}");
    }
    let target = fixture.origin.read_link(&global("/relative"), soon()).await.unwrap();
    assert_eq!(target, b"../private/file"[..]);
    assert_eq!(fixture.origin.read_link(&GlobalPath::root(), soon()).await, Err(EINVAL));
}

#[tokio::test]
async fn a_link_in_the_middle_is_no_directory() {
    let fixture = fixture_with_secret();
    symlink(fixture.outside("private"), fixture.at("out")).unwrap();
    fs::create_dir(fixture.at("real")).unwrap();
    fs::write(fixture.at("real/file"), b"inside").unwrap();
    symlink("real", fixture.at("in")).unwrap();
    symlink("/proc/self/root", fixture.at("magic")).unwrap();
    let version = fixture.version("/real/file").await;
    for path in ["/out/file", "/in/file", "/magic/etc"] {
        let path = global(path);
        assert_eq!(fixture.origin.stat(&path, soon()).await, Err(ENOTDIR), "{path}");
        assert_eq!(fixture.origin.list(&path, soon()).await, Err(ENOTDIR), "{path}");
        assert_eq!(fixture.origin.read_link(&path, soon()).await, Err(ENOTDIR), "{path}");
        assert_eq!(fixture.origin.list_xattr(&path, soon()).await, Err(ENOTDIR), "{path}");
        assert_eq!(fixture.origin.fs_stat(&path, soon()).await, Err(ENOTDIR), "{path}");
        let span = ChunkSpan { first: ChunkIndex(0), count: 1 };
        let read = fixture.origin.read(&path, version, span, soon()).await;
        assert_eq!(read.err(), Some(ENOTDIR), "{path}");
    }
}

/// Swaps the directory `swapped` for a link to the outside and back, as fast as it can.
fn swap_until(stop: &AtomicBool, inside: &Path, outside: &Path) {
    let (place, aside) = (inside.join("swapped"), inside.join("aside"));
    while !stop.load(Ordering::Relaxed) {
        fs::rename(&place, &aside).unwrap();
        symlink(outside, &place).unwrap();
        fs::remove_file(&place).unwrap();
        fs::rename(&aside, &place).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_swapped_for_a_link_leaks_nothing() {
    let fixture = fixture_with_secret();
    fs::create_dir(fixture.at("swapped")).unwrap();
    fs::write(fixture.at("swapped/file"), b"inside!").unwrap();
    let outside_inode =
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(fixture.outside("private/file")).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let (inside, outside, stopped) = (fixture.at(""), fixture.outside("private"), stop.clone());
    let swapper = std::thread::spawn(move || swap_until(&stopped, &inside, &outside));
    let (mut answers, mut refusals, end) = (0, 0, std::time::Instant::now() + Duration::from_secs(2));
    while std::time::Instant::now() < end {
        match fixture.origin.stat(&global("/swapped/file"), soon()).await {
            Ok(attr) => {
                assert_ne!(attr.file.inode, outside_inode);
                answers += 1;
                match fixture.read("/swapped/file", attr.version(), 0, 1).await {
                    Ok(chunks) => assert_eq!(chunks[0].data, b"inside!"[..]),
                    Err(error) => assert!([ENOENT, ENOTDIR].contains(&error), "{error:?}"),
                }
            }
            Err(error) => {
                assert!([ENOENT, ENOTDIR].contains(&error), "{error:?}");
                refusals += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(answers > 0 && refusals > 0, "the race was run: {answers} answers, {refusals} refusals");
}
