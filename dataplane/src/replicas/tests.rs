//! Replicas of a source in memory in an origin on disk: made, followed, read, given up.

use super::*;
use crate::disk::PosixDisk;
use crate::origin::Options;
use crate::source::{ChangeStream, Chunk};
use crate::testing::MemorySource;
use globalfs_proto::limits::CHUNK_SIZE;
use globalfs_proto::{ByteRange, ChangedDirectory, Changes, SiteName, WantedFile};
use std::fs;
use std::sync::atomic::AtomicBool;

/// All beneath `/r` is to be here, but for what is beneath `/r/own`, which is this site's own.
struct Below {
    when: When,
    reads_on: bool,
    gone: AtomicBool,
}

impl Rules for Below {
    fn rule(&self, path: &GlobalPath) -> Option<Rule> {
        let (priority, patience, deadline) = (0, Duration::from_secs(1), None);
        let is_meant = path.starts_with(&at("/r")) && !self.is_own(path) && !self.gone.load(Ordering::SeqCst);
        is_meant.then(|| Rule { policy: "p".into(), when: self.when, priority, patience, deadline })
    }

    fn roots(&self) -> Vec<GlobalPath> {
        vec![at("/r")]
    }

    fn may_hold(&self, directory: &GlobalPath) -> bool {
        directory.is_root() || self.rule(directory).is_some()
    }

    fn is_own(&self, path: &GlobalPath) -> bool {
        path.starts_with(&at("/r/own"))
    }

    fn reads_on(&self, path: &GlobalPath) -> bool {
        self.reads_on && (path.is_root() || path.starts_with(&at("/r")))
    }
}

struct One(MemorySource);

impl Sites for One {
    fn source(&self, _: &SiteName) -> FsResult<Arc<dyn Source>> {
        Ok(Arc::new(self.0.clone()))
    }

    fn changes(&self) -> ChangeStream {
        self.0.hub().subscribe()
    }
}

struct World {
    dirs: [tempfile::TempDir; 2],
    master: MemorySource,
    rules: Arc<Below>,
    replicas: Replicas,
    copies: Copies,
    stop: CancellationToken,
}

fn at(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn start(when: When, fill: impl FnOnce(&MemorySource)) -> World {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let master = MemorySource::new();
    master.put_directory("/r");
    fill(&master);
    let (site, disk) = (SiteName::new("cloud").unwrap(), Arc::new(PosixDisk::default()));
    let origin = Origin::open(dirs[0].path(), &site, disk, Options::default()).unwrap();
    let rules = Arc::new(Below { when, reads_on: true, gone: AtomicBool::new(false) });
    let replicas = Replicas::open(dirs[1].path(), origin, rules.clone()).unwrap();
    let copies = Copies::new(replicas.clone(), Arc::new(master.clone()));
    let stop = CancellationToken::new();
    let source = Arc::new(master.clone());
    let masters = Masters { direct: source.clone(), cached: source, sites: Arc::new(One(master.clone())) };
    tokio::spawn(replicas.clone().run(masters, stop.clone()));
    World { dirs, master, rules, replicas, copies, stop }
}

impl World {
    fn here(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.dirs[0].path().join(path)).ok()
    }

    fn tell(&self, directory: &str, name: &str) {
        let names = vec![bytes::Bytes::copy_from_slice(name.as_bytes())];
        let directories = vec![ChangedDirectory { path: at(directory), names }];
        self.master.hub().tell(Arc::new(Changes::of(directories)));
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            let state = (self.replicas.missing(), self.replicas.trouble());
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: {state:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_settled(&self) {
        self.until("settled", |world| world.replicas.is_surveyed() && world.replicas.missing().is_empty())
            .await;
    }

    async fn read(&self, path: &str) -> FsResult<Vec<u8>> {
        let attr = self.copies.stat(&at(path), soon()).await?;
        let span = ByteRange::new(0, attr.size).unwrap().chunks();
        let mut chunks = self.copies.read(&at(path), attr.version(), span, soon()).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            bytes.extend_from_slice(&chunk?.data);
        }
        Ok(bytes)
    }
}

#[tokio::test]
async fn what_is_here_is_read_here_and_the_rest_where_it_is() {
    let long = vec![7; 3 * CHUNK_SIZE as usize + 9];
    let world = start(When::AtOnce, |master| {
        master.put_file("/r/a", "one");
        master.put_file("/r/long", long.clone());
        master.put_directory("/r/own");
        master.put_file("/r/own/x", "not here");
    });
    world.until_settled().await;
    assert_eq!((world.here("r/a"), world.here("r/own/x")), (Some("one".into()), None));
    let before = world.master.chunks_read();
    assert_eq!(world.read("/r/a").await.unwrap(), b"one");
    assert_eq!(world.read("/r/long").await.unwrap(), long);
    assert_eq!(world.master.chunks_read(), before, "it was read here");
    // Cut short by somebody: what is missing comes from the master, and the file is his.
    fs::write(world.dirs[0].path().join("r/long"), "mine").unwrap();
    assert_eq!(world.read("/r/long").await.unwrap(), long);
    world.until("told", |world| world.replicas.obstructed() == 1).await;
    assert_eq!(world.here("r/long"), Some("mine".into()));
    world.stop.cancel();
}

#[tokio::test]
async fn many_files_come_from_both() {
    let world = start(When::AtOnce, |master| {
        (0..20).for_each(|n| _ = master.put_file(&format!("/r/{n}"), format!("{n}!")))
    });
    world.until_settled().await;
    for n in [3, 4] {
        fs::write(world.dirs[0].path().join(format!("r/{n}")), "damaged").unwrap();
    }
    world.master.put_file("/beside", "beside");
    let mut wanted = Vec::new();
    for path in (0..20).map(|n| at(&format!("/r/{n}"))).chain([at("/beside")]) {
        let version = world.copies.stat(&path, soon()).await.unwrap().version();
        wanted.push(WantedFile { path, version });
    }
    let before = world.master.chunks_read();
    let mut chunks = world.copies.read_files(wanted, soon()).await.unwrap();
    let mut read: BTreeMap<usize, Chunk> = BTreeMap::new();
    while let Some((place, chunk)) = chunks.recv().await {
        assert!(read.insert(place, chunk.unwrap()).is_none(), "each once");
    }
    assert_eq!(read.len(), 21);
    assert!((0..20).all(|n| read[&n].data == format!("{n}!").as_bytes()));
    assert_eq!(world.master.chunks_read() - before, 3, "the damaged ones, and what is no replica");
    world.stop.cancel();
}

#[tokio::test]
async fn changes_are_followed_and_others_files_stay() {
    let world = start(When::InBackground, |master| {
        master.put_directory("/r/d");
        master.put_file("/r/d/x", "one");
        master.put_file("/r/d/y", "one");
    });
    fs::create_dir(world.dirs[0].path().join("mine")).unwrap();
    world.until_settled().await;
    world.master.put_file("/r/d/x", "two");
    world.tell("/r/d", "x");
    world.until("followed", |world| world.here("r/d/x").as_deref() == Some("two")).await;
    fs::write(world.dirs[0].path().join("r/d/mine"), "mine").unwrap();
    world.master.remove("/r/d/x");
    world.master.remove("/r/d/y");
    world.master.remove("/r/d");
    world.tell("/r", "d");
    world.until("removed", |world| world.here("r/d/x").is_none() && world.here("r/d/y").is_none()).await;
    world.until_settled().await;
    assert_eq!(world.here("r/d/mine"), Some("mine".into()));
    world.rules.gone.store(true, Ordering::SeqCst);
    world.replicas.look_again();
    world.until("no policy wants it", |world| world.replicas.totals().files == 0).await;
    assert!(world.dirs[0].path().join("r/d/mine").exists() && world.dirs[0].path().join("mine").exists());
    world.stop.cancel();
}

#[tokio::test]
async fn names_are_told_while_the_master_is_away() {
    let world = start(When::AtOnce, |master| {
        master.put_directory("/r/d");
        master.put_file("/r/d/x", "one");
        master.put_symlink("/r/link", "d/x");
        master.put_file("/beside", "beside");
    });
    world.until_settled().await;
    let before = world.copies.stat(&at("/r/d/x"), soon()).await.unwrap();
    world.master.set_failure(Some(FsError::Unreachable("cut".to_owned())));
    assert_eq!(world.copies.stat(&at("/r/d/x"), soon()).await, Ok(before), "as its master told");
    assert_eq!(world.read("/r/d/x").await.unwrap(), b"one");
    assert_eq!(world.copies.read_link(&at("/r/link"), soon()).await.unwrap(), &b"d/x"[..]);
    let listing = world.copies.list(&at("/r"), soon()).await.unwrap();
    let names: BTreeSet<_> = listing.iter().map(|entry| entry.name.to_vec()).collect();
    assert_eq!(names, [b"d".to_vec(), b"link".to_vec()].into());
    assert_eq!(world.copies.stat(&at("/r/none"), soon()).await, Err(FsError::NOT_FOUND));
    assert!(world.copies.stat(&GlobalPath::root(), soon()).await.is_ok(), "the way there");
    assert!(matches!(world.copies.stat(&at("/beside"), soon()).await, Err(FsError::Unreachable(_))));
    world.stop.cancel();
}

#[tokio::test]
async fn what_was_read_becomes_a_replica_and_is_given_up_for_a_lease() {
    let world = start(When::OnceRead, |master| {
        master.put_file("/r/x", "one");
        master.put_file("/r/y", "one");
    });
    world.until_settled().await;
    assert_eq!((world.here("r/x"), world.here("r/y")), (None, None));
    assert_eq!(world.read("/r/x").await.unwrap(), b"one");
    world.until("brought", |world| world.here("r/x").is_some()).await;
    world.until_settled().await;
    assert_eq!(world.here("r/y"), None);
    world.replicas.ask(&at("/r"), 7);
    world.until("asked for", |world| world.here("r/y").is_some()).await;
    let reserved = world.replicas.give_up(&at("/r")).await.unwrap();
    assert!(!world.dirs[0].path().join("r").exists());
    world.replicas.ask(&at("/r"), 8);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!world.dirs[0].path().join("r").exists(), "nothing is brought there meanwhile");
    drop(reserved);
    world.replicas.ask(&at("/r"), 9);
    world.until("asked for again", |world| world.here("r/y").is_some()).await;
    world.stop.cancel();
}

#[tokio::test]
async fn a_tree_goes_that_has_more_directories_than_are_removed_at_a_time() {
    let world = start(When::AtOnce, |master| {
        master.put_directory("/r/d");
        for n in 0..super::bring::REMOVED_AT_ONCE + 10 {
            master.put_directory(&format!("/r/d/{n}"));
            master.put_file(&format!("/r/d/{n}/x"), "x");
        }
    });
    world.until_settled().await;
    let gone = tokio::time::timeout(Duration::from_secs(60), world.replicas.give_up(&at("/r"))).await;
    let _reserved = gone.expect("it ends").unwrap();
    assert!(!world.dirs[0].path().join("r").exists());
    world.stop.cancel();
}

#[tokio::test]
async fn who_waits_hears_when_it_is_here() {
    let world = start(When::InBackground, |master| _ = master.put_file("/r/x", "one"));
    world.until_settled().await;
    let attr = world.master.put_file("/r/x", "two");
    world.replicas.bring_now(&at("/r/x"), attr, soon()).await.unwrap();
    assert_eq!(world.here("r/x"), Some("two".into()));
    let beside = world.replicas.bring_now(&at("/beside"), attr, soon()).await;
    assert!(matches!(beside, Err(FsError::Refused(_))));
    world.stop.cancel();
}
