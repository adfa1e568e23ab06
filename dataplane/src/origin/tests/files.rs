//! Many small files: each as a read of its own would give it.

use super::*;
use globalfs_proto::{Attr, WantedFile};
use std::collections::BTreeMap;

impl Fixture {
    /// What is told of each file: all its bytes, or the error.
    async fn read_files(&self, files: &[WantedFile]) -> Vec<FsResult<Vec<u8>>> {
        let mut stream = self.origin.read_files(files.to_vec(), soon()).await.unwrap();
        let mut told: BTreeMap<usize, FsResult<Vec<u8>>> = BTreeMap::new();
        while let Some((number, chunk)) = stream.recv().await {
            let so_far = told.entry(number).or_insert_with(|| Ok(Vec::new()));
            match (so_far, chunk) {
                (Ok(bytes), Ok(chunk)) => bytes.extend_from_slice(&chunk.data),
                (so_far, Err(error)) => *so_far = Err(error),
                (Err(error), Ok(_)) => panic!("a chunk behind {error}"),
            }
        }
        (0..files.len()).map(|number| told.remove(&number).unwrap()).collect()
    }

    async fn wanted(&self, path: &str) -> WantedFile {
        WantedFile { path: global(path), version: self.version(path).await }
    }
}

#[tokio::test]
async fn old_and_young_files_come_whole() {
    let fixture = Fixture::new();
    let contents: Vec<Vec<u8>> = (1..60_usize).map(|n| vec![n as u8; n * n * 100]).collect();
    for (n, content) in contents.iter().enumerate() {
        fs::write(fixture.at(&format!("{n}")), content).unwrap();
        if n == contents.len() / 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let mut files = Vec::new();
    for n in 0..contents.len() {
        files.push(fixture.wanted(&format!("/{n}")).await);
    }
    let told = fixture.read_files(&files).await;
    assert!(told.into_iter().zip(&contents).all(|(told, content)| told.unwrap() == *content));
}

#[tokio::test]
async fn each_failure_is_told_and_ends_no_other_file() {
    let fixture = Fixture::new();
    for name in ["good", "changed", "shorter", "replaced", "gone"] {
        fs::write(fixture.at(name), vec![1; 300_000]).unwrap();
    }
    fs::create_dir(fixture.at("directory")).unwrap();
    fs::write(fixture.outside("secret"), b"secret").unwrap();
    let mut files = Vec::new();
    for name in ["/good", "/changed", "/shorter", "/replaced", "/gone", "/directory"] {
        files.push(fixture.wanted(name).await);
    }
    std::os::unix::fs::symlink(fixture.outside("secret"), fixture.at("link")).unwrap();
    files.push(WantedFile { path: global("/link"), version: files[0].version });
    tokio::time::sleep(Duration::from_millis(50)).await;
    fs::write(fixture.at("changed"), vec![2; 300_000]).unwrap();
    fs::write(fixture.at("shorter"), b"x").unwrap();
    fs::write(fixture.at("new"), vec![3; 300_000]).unwrap();
    fs::rename(fixture.at("new"), fixture.at("replaced")).unwrap();
    fs::remove_file(fixture.at("gone")).unwrap();
    let told = fixture.read_files(&files).await;
    assert_eq!(told[0], Ok(vec![1; 300_000]));
    for (number, name) in [(1, "/changed"), (2, "/shorter"), (3, "/replaced")] {
        let now = fixture.origin.stat(&global(name), soon()).await.unwrap();
        assert_eq!(
            told[number],
            Err(FsError::Stale(Some(Box::new(Attr { no_xattrs: false, ..now })))),
            "{name}"
        );
    }
    assert_eq!(told[4..], [Err(ENOENT), Err(EISDIR), Err(EINVAL)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_is_ever_a_mix_of_two_contents() {
    let fixture = Fixture::new();
    let at = fixture.at("busy");
    let write = move |n: u8| fs::write(&at, vec![n; 200_000]).unwrap();
    write(0);
    let writer = std::thread::spawn(move || {
        for n in 1..60 {
            write(n);
            std::thread::sleep(Duration::from_millis(u64::from(n) % 30));
        }
    });
    let (mut read, mut stale) = (0, 0);
    while !writer.is_finished() {
        let file = fixture.wanted("/busy").await;
        if file.version.size != 200_000 {
            continue;
        }
        match &fixture.read_files(&[file]).await[0] {
            Ok(bytes) => {
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "bytes of two contents");
                read += 1;
            }
            Err(FsError::Stale(_)) => stale += 1,
            Err(other) => panic!("{other}"),
        }
    }
    writer.join().unwrap();
    assert!(read + stale > 0);
}
