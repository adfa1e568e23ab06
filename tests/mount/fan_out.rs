//! Many mounts of one site that read the same cold data at the same time.

use crate::common::{Setup, can_mount, noise};
use std::fs;
use std::thread;

const MIB: usize = 1 << 20;
const MOUNTS: usize = 4;

#[test]
fn four_mounts_move_cold_data_once() {
    if !can_mount("four_mounts_move_cold_data_once") {
        return;
    }
    let bytes = noise(11, 64 * MIB);
    let small: Vec<Vec<u8>> = (0..200).map(|n| noise(100 + n, 8 * 1024)).collect();
    let mut test = Setup::default().start(|origin| {
        fs::write(origin.join("large"), &bytes).unwrap();
        fs::create_dir(origin.join("small")).unwrap();
        for (n, content) in small.iter().enumerate() {
            fs::write(origin.join(format!("small/{n:03}")), content).unwrap();
        }
    });
    let mounts: Vec<_> = (0..MOUNTS).map(|n| test.mount(&format!("reader-{n}"), "cloud")).collect();
    let before = test.wan_bytes("cloud");
    thread::scope(|scope| {
        for mount in &mounts {
            scope.spawn(|| {
                assert!(fs::read(mount.join("large")).unwrap() == bytes);
                for entry in fs::read_dir(mount.join("small")).unwrap() {
                    let path = entry.unwrap().path();
                    let n: usize = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
                    assert!(fs::read(path).unwrap() == small[n]);
                }
            });
        }
    });
    let moved = test.wan_bytes("cloud") - before;
    let read = (bytes.len() + small.len() * 8 * 1024) as u64;
    assert!(moved * 100 <= read * 105, "{moved} bytes over the WAN for {read}");
}
