//! What goes wrong on the way, who looks on meanwhile, and what is not in the batch.

use super::tests::{LARGE, Sites, shell, sites, sites_in, soon};
use super::*;
use crate::home::side::HomeSide;
use crate::home::survey::survey;
use crate::source::{Chunk, ChunkStream, FileChunks, HashStream, Listing};
use async_trait::async_trait;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{BringHome, ChunkSpan, Fence, FsStat, Version};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The first site seen over a line that breaks, and that counts.
struct Line {
    far: Origin,
    /// Chunks until it breaks.
    left: AtomicU64,
    chunks: AtomicU64,
    reads: AtomicU64,
    at_once: AtomicU64,
    most_at_once: AtomicU64,
}

impl Line {
    fn to(sites: &Sites, left: u64) -> Arc<Self> {
        let zero = AtomicU64::default;
        let (far, left) = (sites.origins[0].clone(), left.into());
        Arc::new(Self { far, left, chunks: zero(), reads: zero(), at_once: zero(), most_at_once: zero() })
    }

    fn carries(&self, chunk: FsResult<Chunk>) -> FsResult<Chunk> {
        let left = self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        left.map_err(|_| FsError::Unreachable("the line broke".to_owned()))?;
        self.chunks.fetch_add(1, Relaxed);
        chunk
    }
}

#[async_trait]
impl Source for Line {
    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        self.far.stat(path, deadline).await
    }

    async fn list(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        self.far.list(path, deadline).await
    }

    async fn read_link(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.far.read_link(path, deadline).await
    }

    async fn get_xattr(&self, path: &GlobalPath, name: &[u8], deadline: Deadline) -> FsResult<Bytes> {
        self.far.get_xattr(path, name, deadline).await
    }

    async fn list_xattr(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Bytes> {
        self.far.list_xattr(path, deadline).await
    }

    async fn fs_stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<FsStat> {
        self.far.fs_stat(path, deadline).await
    }

    async fn read(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<ChunkStream> {
        self.reads.fetch_add(1, Relaxed);
        let now = self.at_once.fetch_add(1, Relaxed) + 1;
        self.most_at_once.fetch_max(now, Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.at_once.fetch_sub(1, Relaxed);
        let mut far = self.far.read(path, version, span, deadline).await?;
        let (sender, stream) = mpsc::channel(span.count as usize + 1);
        while let Some(chunk) = far.recv().await {
            let chunk = self.carries(chunk);
            let broken = chunk.is_err();
            sender.send(chunk).await.unwrap();
            if broken {
                break;
            }
        }
        Ok(stream)
    }

    async fn hashes(
        &self,
        path: &GlobalPath,
        version: Version,
        span: ChunkSpan,
        deadline: Deadline,
    ) -> FsResult<HashStream> {
        self.far.hashes(path, version, span, deadline).await
    }

    async fn read_files(&self, files: Vec<WantedFile>, deadline: Deadline) -> FsResult<FileChunks> {
        self.far.read_files(files, deadline).await
    }
}

fn global(path: &str) -> GlobalPath {
    GlobalPath::new(path.as_bytes()).unwrap()
}

impl Sites {
    fn at(&self, site: usize) -> &Path {
        self.dirs[site].path()
    }

    /// What `path` is at the first site now.
    async fn item(&self, path: &str) -> HomeItem {
        let attr = self.origins[0].stat(&global(path), soon()).await.ok();
        HomeItem { path: global(path), attr, same_as: None }
    }

    async fn bring_paths(&self, paths: &[&str]) -> Vec<FsResult<()>> {
        let mut items = Vec::new();
        for path in paths {
            items.push(self.item(path).await);
        }
        self.bring_items(items).await
    }

    fn at_both(&self, script: &str) -> [String; 2] {
        [0, 1].map(|site| shell(self.at(site), script))
    }

    fn assert_same(&self, script: &str) {
        let [there, here] = self.at_both(script);
        assert_eq!(here, there, "{script}");
    }
}

fn is_stale(outcome: &FsResult<()>) -> bool {
    matches!(outcome, Err(FsError::Stale(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_stay_holes_when_a_chunk_changes() {
    let sites = sites();
    shell(sites.at(0), "truncate -s 1G f; printf x | dd of=f bs=1 seek=99999999 conv=notrunc status=none");
    sites.same().await;
    shell(sites.at(0), "printf y | dd of=f bs=1 seek=600000000 conv=notrunc status=none");
    sites.same().await;
    let blocks: u64 = shell(sites.at(1), "stat -c %b f").trim().parse().unwrap();
    assert!(blocks <= 4 * CHUNK_SIZE / 512, "{blocks} blocks");
}

#[tokio::test(flavor = "multi_thread")]
async fn scattered_changes_are_read_at_a_time_and_alone() {
    let sites = sites();
    shell(sites.at(0), "head -c 64M /dev/urandom > f");
    sites.same().await;
    shell(
        sites.at(0),
        "for n in $(seq 0 25 500); do printf zzzz | dd of=f bs=1 seek=$((n * 131072 + 7)) conv=notrunc status=none; done",
    );
    let line = Line::to(&sites, u64::MAX);
    let outcomes = sites.bring_from(vec![sites.item("/f").await], line.clone(), soon()).await;
    assert_eq!(outcomes, [Ok(())]);
    sites.assert_same("md5sum f; stat -c '%s %y' f");
    assert_eq!(line.chunks.load(Relaxed), 21);
    assert!(line.most_at_once.load(Relaxed) > 2, "a round trip for each would take long");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_was_cut_off_is_gone_on_with() {
    let sites = sites();
    shell(sites.at(0), "head -c 24M /dev/urandom > new; head -c 24M /dev/urandom > old");
    shell(sites.at(1), "echo before > old");
    let items = [sites.item("/new").await, sites.item("/old").await];
    let line = Line::to(&sites, 150);
    let outcomes = sites.bring_from(items.to_vec(), line.clone(), soon()).await;
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(FsError::Unreachable(_)))), "{outcomes:?}");
    assert_eq!(shell(sites.at(1), "cat old"), "before\n", "nothing of it shows");
    line.left.store(u64::MAX, Relaxed);
    assert_eq!(sites.bring_from(items.to_vec(), line.clone(), soon()).await, [Ok(()), Ok(())]);
    sites.assert_same("md5sum *; stat -c '%s %y' *; ls -A");
    let again = line.chunks.load(Relaxed) - 2 * 192;
    assert!(again <= 2 * 16, "{again} chunks were read twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_all_and_begins_nothing_more() {
    let sites = sites();
    shell(
        sites.at(0),
        "mkdir d; head -c 3000000 /dev/urandom > d/large; echo small > d/small; ln -s x d/link",
    );
    let items = survey(&sites.origins[0], &GlobalPath::root(), LARGE, soon()).await.unwrap().unwrap();
    let count = items.len();
    let late = Deadline::after(Duration::ZERO);
    let outcomes = sites.bring_from(items, Line::to(&sites, u64::MAX), late).await;
    assert_eq!(outcomes, vec![Err(FsError::Deadline); count]);
    assert_eq!(shell(sites.at(1), "ls -A"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_sees_half_of_a_file() {
    let sites = sites();
    shell(
        sites.at(0),
        "head -c 3000000 /dev/zero | tr '\\0' a > large; head -c 70000 /dev/zero | tr '\\0' a > small",
    );
    sites.same().await;
    let done = Arc::new(AtomicBool::new(false));
    let readers = ["large", "small"].map(|name| {
        let (path, done) = (sites.at(1).join(name), done.clone());
        std::thread::spawn(move || {
            let mut looks = 0;
            while !done.load(Relaxed) {
                let content = std::fs::read(&path).unwrap();
                assert!(matches!(content.len(), 3_000_000 | 70_000), "{}", content.len());
                assert!(content.iter().all(|byte| *byte == content[0]), "two contents in one file");
                looks += 1;
            }
            looks
        })
    });
    for round in 0..20 {
        let letter = if round % 2 == 0 { 'b' } else { 'a' };
        shell(
            sites.at(0),
            &format!(
                "for f in 'large 3000000' 'small 70000'; do set -- $f; head -c $2 /dev/zero | tr '\\0' {letter} > $1; done"
            ),
        );
        assert_eq!(sites.bring_paths(&["/large", "/small"]).await, [Ok(()), Ok(())]);
    }
    done.store(true, Relaxed);
    assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_are_not_told_keep_their_times() {
    let sites = sites();
    shell(
        sites.at(0),
        "mkdir d; echo one > d/f; head -c 2000000 /dev/urandom > d/g; echo 1 > d/gone; ln -s a d/l",
    );
    sites.same().await;
    shell(sites.at(0), "touch -d @1000000000 d .");
    assert_eq!(sites.bring_paths(&["/d", "/"]).await, [Ok(()), Ok(())]);
    shell(sites.at(0), "echo two > d/f; printf x >> d/g; rm d/gone; touch -d @1000000000.5 d; chmod 600 d/g");
    assert_eq!(sites.bring_paths(&["/d"]).await, [Ok(())]);
    assert_eq!(sites.bring_paths(&["/d/f", "/d/g", "/d/gone", "/d/l"]).await, vec![Ok(()); 4]);
    sites.assert_same("find . -printf '%p %m %s %T@\\n' | sort");
}

#[tokio::test(flavor = "multi_thread")]
async fn access_lists_come_over_and_none_is_inherited() {
    // User 1000 may read.
    const LIST: &str =
        "0x0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000400ffffffff";
    let sites = sites();
    let set = format!("setfattr -v {LIST} -n system.posix_acl");
    shell(
        sites.at(0),
        &format!(
            "mkdir d; echo x > d/small; head -c 2M /dev/urandom > d/large; {set}_access d/small d/large; {set}_default d"
        ),
    );
    sites.same().await;
    let told = shell(sites.at(1), "getfattr -R -m - d");
    assert_eq!(told.matches("posix_acl").count(), 3, "{told}");
    shell(
        sites.at(0),
        "setfattr -x system.posix_acl_access d/small; setfattr -x system.posix_acl_access d/large; mkdir d/new",
    );
    shell(
        sites.at(0),
        "setfattr -x system.posix_acl_default d/new; echo x > d/f; setfattr -x system.posix_acl_access d/f",
    );
    sites.same().await;
    assert_eq!(
        shell(sites.at(1), "getfattr -R -m - d | grep -c posix_acl"),
        "2\n",
        "that of d, and the one of d/new itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_that_has_changed_or_gone_is_stale() {
    let sites = sites();
    shell(sites.at(0), "for f in a b c; do head -c 3000000 /dev/urandom > $f; done; mkdir d; echo x > e");
    shell(sites.at(1), "head -c 3000000 /dev/urandom > b");
    let mut items = Vec::new();
    for path in ["/a", "/b", "/c", "/e"] {
        items.push(sites.item(path).await);
    }
    shell(sites.at(0), "rm a b; printf more >> c");
    let outcomes = sites.bring_items(items).await;
    assert!(outcomes[..3].iter().all(is_stale) && outcomes[3].is_ok(), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_batch_says_against_itself_is_said_again() {
    let sites = sites();
    shell(
        sites.at(0),
        "mkdir gone file; echo y > gone/y; echo z > file/z; echo twice > twice; echo fine > fine",
    );
    shell(sites.at(1), "mkdir gone file");
    let (y, z) = (sites.item("/gone/y").await, sites.item("/file/z").await);
    let twice = sites.item("/twice").await;
    shell(sites.at(0), "rm -r file; echo now > file");
    let gone = HomeItem { path: global("/gone"), attr: None, same_as: None };
    let (file, fine) = (sites.item("/file").await, sites.item("/fine").await);
    let outcomes = sites.bring_items(vec![gone, y, z, file, fine, twice.clone(), twice]).await;
    let told: Vec<_> = outcomes.iter().map(|outcome| (outcome.is_ok(), is_stale(outcome))).collect();
    let (ok, stale) = ((true, false), (false, true));
    assert_eq!(told, [ok, stale, stale, ok, ok, ok, stale], "{outcomes:?}");
    assert_eq!(shell(sites.at(1), "ls -A; cat file"), "file\nfine\ntwice\nnow\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_under_the_hidden_name_is_not_written_to() {
    let sites = sites();
    for name in ["small", "large"] {
        let hash = blake3::hash(format!("/{name}").as_bytes()).to_hex();
        let hidden = format!(".globalfs-home-{}", &hash.as_str()[..32]);
        for plant in ["ln victim", "ln -s victim", "mkdir -p", "mknod -m 666"] {
            let kind = if plant.starts_with("mknod") { "c 1 7" } else { "" };
            shell(
                sites.at(0),
                &format!("head -c {} /dev/urandom > {name}", if name == "small" { 9 } else { 2_000_000 }),
            );
            shell(sites.at(1), &format!("printf mine > victim; {plant} {hidden} {kind}"));
            assert_eq!(sites.bring_paths(&[&format!("/{name}")]).await, [Ok(())], "{plant}");
            assert_eq!(
                shell(sites.at(1), "head -c 4 victim; stat -c %h victim; rm victim; rm -rf .globalfs*"),
                "mine1\n",
                "{plant}"
            );
            sites.assert_same(&format!("md5sum {name}; ls -A | grep hidden || true"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_does_not_leave_by_a_link_that_is_swapped_in() {
    let sites = sites();
    let outside = tempfile::tempdir().unwrap();
    let kept = outside.path().join("kept/sub");
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::write(kept.join("file"), "").unwrap();
    let (done, top, out) =
        (Arc::new(AtomicBool::new(false)), sites.at(1).join("d"), outside.path().to_owned());
    let swapping = done.clone();
    let swapper = std::thread::spawn(move || {
        let (aside, kept) = (top.with_file_name("aside"), top.join("kept"));
        while !swapping.load(Relaxed) {
            let _ = std::fs::create_dir_all(kept.join("sub"));
            let _ = std::fs::rename(&top, &aside);
            let _ = std::os::unix::fs::symlink(&out, &top);
            let _ = std::fs::remove_file(&top);
            let _ = std::fs::rename(&aside, &top);
        }
    });
    for _ in 0..300 {
        let gone = |path| HomeItem { path: global(path), attr: None, same_as: None };
        // Who loses a race says so; that is all.
        let _ = sites.bring_items(vec![gone("/d/kept/sub/file"), gone("/d/kept"), gone("/d")]).await;
    }
    done.store(true, Relaxed);
    swapper.join().unwrap();
    assert!(kept.join("file").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_batch_brings_nothing_back_and_one_that_nobody_waits_for_ends() {
    let sites = sites();
    shell(sites.at(0), "mkdir d; echo x > d/f; head -c 40M /dev/urandom > d/large");
    let (side, line) = (HomeSide::new(Receiver::new(sites.origins[1].clone())), Line::to(&sites, u64::MAX));
    let bring = |scope: &str, fence, batch, items: &[HomeItem]| {
        let bring = BringHome { scope: global(scope), fence: Fence(fence), batch, items: items.to_vec() };
        side.bring_home(bring, line.clone(), soon())
    };
    let made = [sites.item("/d").await, sites.item("/d/f").await];
    let gone = [HomeItem { path: global("/d/f"), attr: None, same_as: None }];
    for (batch, items) in [(1, &made[..]), (2, &gone), (2, &gone)] {
        let mut answers = bring("/d", 5, batch, items).await.unwrap();
        while let Some(settled) = answers.recv().await {
            assert_eq!(settled.outcome, Ok(()));
        }
    }
    for (scope, fence, batch) in [("/d", 5, 1), ("/d", 4, 9), ("/", 4, 9)] {
        assert!(matches!(bring(scope, fence, batch, &made).await, Err(FsError::Refused(_))));
    }
    assert_eq!(shell(sites.at(1), "ls -A d"), "");
    drop(bring("/d", 5, 3, &[sites.item("/d/large").await]).await.unwrap());
    let mut answers = bring("/", 6, 1, &made).await.unwrap();
    assert_eq!(answers.recv().await.map(|settled| settled.outcome), Some(Ok(())));
    assert!(!sites.at(1).join("d/large").exists());
}

/// A small file system of its own; `None` where none can be mounted.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        assert!(std::env::var("GLOBALFS_TEST_FULL").as_deref() != Ok("1"), "missing: the right to mount");
        eprintln!("SKIPPED: no right to mount");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing_half() {
    const ENOSPC: FsResult<()> = Err(FsError::Os(28));
    let Some(small) = Small::mount("8m") else { return };
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in(small.0.path()).unwrap());
    let sites = sites_in([there, here]);
    shell(
        sites.at(0),
        "head -c 6M /dev/urandom > large; head -c 900K /dev/urandom > small; echo tiny > tiny; mkdir d",
    );
    shell(sites.at(1), "echo old > large; head -c 7400K /dev/zero | tr '\\0' x > ballast");
    let paths = ["/large", "/small", "/tiny", "/d"];
    let outcomes = sites.bring_paths(&paths).await;
    assert_eq!((&outcomes[..2], &outcomes[3]), (&[ENOSPC, ENOSPC][..], &Ok(())), "{outcomes:?}");
    assert_eq!(shell(sites.at(1), "cat large; ls -A | grep -v tiny"), "old\nballast\nd\nlarge\n");
    shell(sites.at(1), "rm ballast");
    assert_eq!(sites.bring_paths(&paths).await, vec![Ok(()); 4]);
    sites.assert_same("md5sum large small tiny; ls -A");
}

/// What is mounted inside the origin is another file system, and is flushed, too.
#[tokio::test(flavor = "multi_thread")]
async fn mounts_inside_are_reached() {
    let Some(small) = Small::mount("8m") else { return };
    let sites = sites();
    shell(sites.at(0), "mkdir m; echo x > m/f");
    shell(sites.at(1), &format!("mkdir m; mount --bind {} m", small.0.path().display()));
    let outcomes = sites.bring_paths(&["/m/f"]).await;
    let there = std::fs::read(small.0.path().join("f")).ok();
    shell(sites.at(1), "umount -l m");
    assert_eq!((outcomes, there.as_deref()), (vec![Ok(())], Some(&b"x\n"[..])));
}
