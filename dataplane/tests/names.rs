//! Names over the network: a node, its site and the path's master as they are stacked in a cluster, over real
//! connections, with the requests that cross the long way counted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{endpoints, soon};
use futures_util::StreamExt;
use globalfs_dataplane::cache::{self, Cache};
use globalfs_dataplane::disk::{self, Preference};
use globalfs_dataplane::fetch::{self, Cached};
use globalfs_dataplane::origin::{self, Origin};
use globalfs_dataplane::remote::Remote;
use globalfs_dataplane::serve::Server;
use globalfs_dataplane::testing::MemorySource;
use globalfs_dataplane::{Source, source};
use globalfs_proto::{
    Change, ChangedDirectory, Changes, ChunkIndex, ChunkSpan, Existing, FileKind, FsError, GlobalPath,
    SiteName, Target,
};
use globalfs_transport::{Endpoint, Peer};
use rustix::fs::XattrFlags;
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// node -> site -> master, each hop a connection.
struct Chain {
    node: Cached,
    site: Cached,
    /// The site's way to the master: the long one.
    far: Remote,
    servers: [Arc<Server>; 2],
    scratch: TempDir,
}

impl Chain {
    fn new(ttl: Duration) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("origin")).unwrap();
        let name = SiteName::new("onprem").unwrap();
        let disk = disk::open(Preference::Auto).unwrap();
        let origin =
            Origin::open(&scratch.path().join("origin"), &name, disk, origin::Options::default()).unwrap();
        let [master, site] = endpoints();
        let (far_server, far) = connect(Arc::new(origin), master, site.clone());
        let far = far.with_content();
        let site_hop = hop(&scratch, "site", Arc::new(far.clone()), ttl);
        let [near, node] = endpoints();
        let (near_server, near) = connect(Arc::new(site_hop.clone()), near, node);
        let node = hop(&scratch, "node", Arc::new(near), ttl);
        Self { node, site: site_hop, far, servers: [far_server, near_server], scratch }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join("origin").join(name)
    }

    /// Questions that crossed the long way so far, the subscription apart.
    fn round_trips(&self) -> u64 {
        self.site.name_counters().asked_upstream
    }

    async fn stat(&self, text: &str) -> Result<u64, FsError> {
        self.node.stat(&path(text), soon()).await.map(|attr| attr.size)
    }

    /// As the kernel looks a path up: name by name.
    async fn walk_to(&self, text: &str) -> Result<u64, FsError> {
        let mut at = GlobalPath::root();
        let mut size = Ok(0);
        for name in path(text).components() {
            at = at.join(name).unwrap();
            size = self.node.stat(&at, soon()).await.map(|attr| attr.size);
        }
        size
    }

    /// As `find` goes through a tree: entries seen.
    async fn find(&self, text: &str) -> usize {
        let (mut queue, mut seen) = (VecDeque::from([path(text)]), 0);
        while let Some(directory) = queue.pop_front() {
            for entry in self.node.list(&directory, soon()).await.unwrap().iter() {
                let child = directory.join(&entry.name).unwrap();
                assert_eq!(self.node.stat(&child, soon()).await.unwrap(), entry.attr);
                seen += 1;
                if entry.attr.kind == FileKind::Directory {
                    queue.push_back(child);
                }
            }
        }
        seen
    }

    async fn watching(&self) {
        eventually("both hops hear changes", || {
            self.node.name_counters().is_watching && self.site.name_counters().is_watching
        })
        .await;
    }
}

fn connect(source: Arc<dyn Source>, serving: Endpoint, asking: Endpoint) -> (Arc<Server>, Remote) {
    let (address, identity) = (serving.local_addr().to_string(), serving.identity().clone());
    let server = Arc::new(Server::new(source, Arc::new(|_| Ok(()))));
    let handler = server.clone();
    tokio::spawn(async move { serving.serve(handler, CancellationToken::new()).await });
    (server, Remote::new(Peer::new(asking, address, identity)))
}

fn hop(scratch: &TempDir, name: &str, upstream: Arc<dyn Source>, ttl: Duration) -> Cached {
    let options = cache::Options { dir: scratch.path().join(name), quota_bytes: 64 << 20 };
    let cache = Cache::open(options, disk::open(Preference::Auto).unwrap()).unwrap();
    Cached::new(upstream, cache, fetch::Options { metadata_ttl: ttl, ..fetch::Options::default() })
}

fn path(text: &str) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

async fn eventually(what: &str, reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_deep_file_costs_one_round_trip_and_its_neighbours_none() {
    let chain = Chain::new(LONG);
    fs::create_dir_all(chain.at("a/b/c/d")).unwrap();
    fs::write(chain.at("a/b/c/d/file"), "four").unwrap();
    fs::write(chain.at("a/b/c/d/other"), "fives").unwrap();
    assert_eq!(chain.walk_to("/a/b/c/d/file").await, Ok(4));
    assert_eq!(chain.round_trips(), 1, "five names");
    assert_eq!(chain.walk_to("/a/b/c/d/other").await, Ok(5));
    assert_eq!(chain.round_trips(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_missing_cost_one_round_trip_in_all() {
    let chain = Chain::new(LONG);
    fs::create_dir_all(chain.at("lib/package")).unwrap();
    fs::write(chain.at("lib/package/module.py"), "").unwrap();
    let kinds = ["cpython-312.so", "abi3.so", "so", "pyc"];
    for module in 0..500 {
        for kind in kinds {
            let missing = chain.walk_to(&format!("/lib/package/m{module}.{kind}")).await;
            assert_eq!(missing, Err(FsError::NOT_FOUND));
        }
    }
    assert_eq!(chain.round_trips(), 1, "2,000 names that are not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn walking_a_tree_costs_one_round_trip() {
    let chain = Chain::new(LONG);
    for directory in 0..40 {
        fs::create_dir_all(chain.at(&format!("tree/d{directory}"))).unwrap();
        for file in 0..50 {
            fs::write(chain.at(&format!("tree/d{directory}/f{file}")), vec![0; file]).unwrap();
        }
    }
    let before = chain.far.peer().counters();
    assert_eq!(chain.find("/tree").await, 2_040);
    let after = chain.far.peer().counters();
    println!("2,040 entries: {} bytes received", after.bytes_received - before.bytes_received);
    assert_eq!(chain.round_trips(), 1, "40 directories, 2,000 files");
    assert_eq!(chain.far.counters().directories, 41);
    assert!(after.bytes_received - before.bytes_received < 100_000);
}

/// As `ls -l` and `cp -a` look at each name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_listing_costs_one_round_trip_and_one_for_each_file_with_attributes() {
    let chain = Chain::new(LONG);
    fs::create_dir(chain.at("d")).unwrap();
    for n in 0..500 {
        fs::write(chain.at(&format!("d/{n:03}")), "x").unwrap();
    }
    for n in 0..20 {
        symlink(format!("{n:03}"), chain.at(&format!("d/link-{n}"))).unwrap();
    }
    let set = |key| rustix::fs::setxattr(chain.at("d/007"), key, b"v", XattrFlags::empty());
    set("user.key").unwrap();
    let look = async || {
        let listing = chain.node.list(&path("/d"), soon()).await.unwrap();
        let mut with = Vec::new();
        for entry in listing.iter() {
            let file = path("/d").join(&entry.name).unwrap();
            chain.node.stat(&file, soon()).await.unwrap();
            if entry.attr.kind == FileKind::Symlink {
                chain.node.read_link(&file, soon()).await.unwrap();
            }
            for key in ["security.selinux", "system.posix_acl_access"] {
                let told = chain.node.get_xattr(&file, key.as_bytes(), soon()).await;
                assert_eq!(told, Err(FsError::Os(61)), "{file} {key}");
            }
            let names = chain.node.list_xattr(&file, soon()).await.unwrap();
            with.extend((!names.is_empty()).then(|| (file.to_string(), names)));
        }
        with
    };
    let keys = |text: &'static str| vec![("/d/007".to_owned(), text.into())];
    assert_eq!(look().await, keys("user.key\0"));
    assert_eq!(chain.round_trips(), 4, "three of them about the file that has some");
    chain.watching().await;
    set("user.other").unwrap();
    let on = |name: &str, key| rustix::fs::setxattr(chain.at(name), key, b"v", XattrFlags::empty());
    on("d/008", "user.new").unwrap();
    let begun = Instant::now();
    while chain.node.list_xattr(&path("/d/008"), soon()).await.unwrap() != "user.new\0" {
        assert!(begun.elapsed() < Duration::from_secs(10), "the change is told");
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_at_once_are_one_question() {
    let chain = Arc::new(Chain::new(LONG));
    fs::create_dir_all(chain.at("d")).unwrap();
    (0..200).for_each(|n| fs::write(chain.at(&format!("d/{n}")), "x").unwrap());
    let asks = (0..200).map(|n| {
        let chain = chain.clone();
        tokio::spawn(async move { chain.walk_to(&format!("/d/{n}")).await })
    });
    for ask in futures_util::future::join_all(asks).await {
        assert_eq!(ask.unwrap(), Ok(1));
    }
    assert!(chain.round_trips() <= 2, "{} questions", chain.round_trips());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_change_is_seen_at_once_and_asked_for_no_sooner() {
    let chain = Chain::new(LONG);
    fs::create_dir_all(chain.at("d/e")).unwrap();
    fs::write(chain.at("d/file"), "old").unwrap();
    assert_eq!(chain.walk_to("/d/file").await, Ok(3));
    assert_eq!(chain.stat("/d/new").await, Err(FsError::NOT_FOUND));
    chain.watching().await;
    let asked = chain.round_trips();
    for _ in 0..100 {
        assert_eq!(chain.node.stat_fresh(&path("/d/file"), soon()).await.unwrap().size, 3);
        assert_eq!(chain.node.stat_fresh(&path("/d/new"), soon()).await, Err(FsError::NOT_FOUND));
    }
    assert_eq!(chain.round_trips(), asked, "an open of what is watched asks nobody");
    let begun = Instant::now();
    fs::write(chain.at("d/file"), "newer").unwrap();
    fs::write(chain.at("d/new"), "x").unwrap();
    while chain.stat("/d/file").await != Ok(5) || chain.stat("/d/new").await != Ok(1) {
        assert!(begun.elapsed() < Duration::from_secs(10), "the change is told");
        sleep(Duration::from_millis(1)).await;
    }
    println!("a change was seen after {:?}", begun.elapsed());
    fs::rename(chain.at("d"), chain.at("moved")).unwrap();
    let begun = Instant::now();
    while chain.stat("/d/file").await.is_ok() || chain.stat("/moved/file").await != Ok(5) {
        assert!(begun.elapsed() < Duration::from_secs(10), "the move is told");
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(chain.stat("/d/e").await, Err(FsError::NOT_FOUND));
}

/// One round trip from where it was written to who reads it elsewhere: the attributes bring the bytes along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_that_was_written_just_now_comes_with_its_attributes() {
    let chain = Chain::new(LONG);
    fs::create_dir(chain.at("d")).unwrap();
    chain.node.list(&path("/d"), soon()).await.unwrap();
    chain.watching().await;
    fs::write(chain.at("d/large"), vec![1; 100_000]).unwrap();
    fs::write(chain.at("d/small"), "just written").unwrap();
    // The origin reads no file whose times may still stand still.
    sleep(Duration::from_millis(100)).await;
    let sent = || chain.servers[0].counters().chunks;
    let read = async |name: &str| {
        let file = path(name);
        let attr = chain.node.stat(&file, soon()).await.unwrap();
        let along = sent();
        let span = ChunkSpan { first: ChunkIndex(0), count: 1 };
        let mut stream = chain.node.read(&file, attr.version(), span, soon()).await.unwrap();
        let chunk = stream.recv().await.unwrap().unwrap();
        (chunk.data.len(), along, sent())
    };
    assert_eq!(read("/d/small").await, (12, 1, 1), "it came along");
    assert_eq!(read("/d/large").await, (100_000, 1, 2), "it is asked for");
    assert_eq!(chain.servers[1].counters().chunks, 2, "a node is asked for what it wants");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_hears_of_what_it_asked_about_and_of_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    fs::create_dir_all(scratch.path().join("a/b")).unwrap();
    fs::create_dir(scratch.path().join("z")).unwrap();
    let disk = disk::open(Preference::Auto).unwrap();
    let site = SiteName::new("onprem").unwrap();
    let origin = Arc::new(Origin::open(scratch.path(), &site, disk, origin::Options::default()).unwrap());
    let [serving, asking] = endpoints();
    let (server, remote) = connect(origin.clone(), serving, asking);
    let mut changes = remote.watch(Duration::from_millis(100));
    assert!(changes.next().await.unwrap().is_empty());
    assert!(remote.list(&path("/a/b"), soon()).await.unwrap().watched);
    assert!(origin.list(&path("/z"), soon()).await.unwrap().watched, "somebody else asked about it");
    fs::write(scratch.path().join("z/elsewhere"), "x").unwrap();
    sleep(Duration::from_millis(300)).await;
    fs::write(scratch.path().join("a/b/file"), "x").unwrap();
    fs::rename(scratch.path().join("a"), scratch.path().join("moved")).unwrap();
    let mut told = BTreeSet::new();
    while !told.contains("/a") {
        let heard = timeout(Duration::from_secs(10), changes.next()).await.unwrap().unwrap();
        for directory in &heard.directories {
            told.extend(directory.names.iter().map(|name| directory.path.join(name).unwrap().to_string()));
        }
    }
    assert_eq!(told, BTreeSet::from(["/a".to_owned(), "/a/b/file".to_owned()]), "and not of /moved");
    assert!((1..=2).contains(&server.counters().changes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_is_renewed_before_its_answer_ends_and_misses_nothing() {
    const EVERY: Duration = Duration::from_millis(20);
    const TIME: Duration = Duration::from_millis(1500);
    let source = MemorySource::new();
    source.set_watched(true);
    let [serving, asking] = endpoints();
    let (_server, remote) = connect(Arc::new(source.clone()), serving, asking);
    let remote = remote.with_watch_time(TIME);
    let mut changes = remote.watch(Duration::from_millis(100));
    assert!(changes.next().await.unwrap().is_empty());
    assert!(remote.list(&path("/"), soon()).await.unwrap().watched);
    let begun = remote.peer().counters().requests_started;
    let teller = tokio::spawn(async move {
        for n in 0..300 {
            let directories = vec![ChangedDirectory { path: path("/"), names: vec![n.to_string().into()] }];
            source.hub().tell(Arc::new(Changes::of(directories)));
            sleep(EVERY).await;
        }
    });
    let mut told = BTreeSet::new();
    while told.len() < 300 {
        let heard = timeout(TIME, changes.next()).await.unwrap().expect("it goes on");
        assert!(!heard.everything, "nothing was lost");
        told.extend(heard.directories.iter().flat_map(|directory| directory.names.clone()));
    }
    teller.await.unwrap();
    let renewed = remote.peer().counters().requests_started - begun;
    assert!((4..=6).contains(&renewed), "renewed {renewed} times in 6 s");
    assert!(remote.list(&path("/"), soon()).await.unwrap().watched, "by the same number");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extended_attributes_that_are_set_are_seen_at_once() {
    let chain = Chain::new(LONG);
    fs::write(chain.at("file"), "x").unwrap();
    rustix::fs::setxattr(chain.at("file"), "user.one", b"1", XattrFlags::empty()).unwrap();
    let file = path("/file");
    let names = async || chain.node.list_xattr(&file, soon()).await.unwrap();
    assert_eq!(names().await, "user.one\0");
    let target = Target { path: file.clone(), file: chain.node.stat(&file, soon()).await.unwrap().file };
    let (name, value) = ("user.two".into(), "2".into());
    let change = Change::SetXattr { target, name, value, existing: Existing::Replace };
    chain.node.change(&change, soon()).await.unwrap();
    assert_eq!(names().await, "user.one\0user.two\0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_subscription_brings_the_time_to_live_back() {
    let ttl = Duration::from_millis(400);
    let chain = Chain::new(ttl);
    fs::create_dir(chain.at("d")).unwrap();
    fs::write(chain.at("d/file"), "x").unwrap();
    chain.stat("/d/file").await.unwrap();
    chain.watching().await;
    sleep(ttl * 2).await;
    chain.stat("/d/file").await.unwrap();
    let asked = chain.round_trips();
    for _ in 0..6 {
        sleep(ttl / 2).await;
        chain.stat("/d/file").await.unwrap();
    }
    assert_eq!(chain.round_trips(), asked, "watched: it counts for long");
    chain.servers[0].end_watches();
    eventually("the site hears nothing", || !chain.site.name_counters().is_watching).await;
    let asked = chain.round_trips();
    for _ in 0..6 {
        sleep(ttl).await;
        chain.stat("/d/file").await.unwrap();
    }
    assert!(chain.round_trips() >= asked + 4, "not watched: it is asked for again and again");
}

#[tokio::test]
async fn every_layer_tells_the_same() {
    let chain = Chain::new(LONG);
    fs::create_dir_all(chain.at("d/e")).unwrap();
    fs::write(chain.at("d/file"), "x").unwrap();
    let whole = async |source: &dyn Source, text: &str| {
        let mut found = source.look_up(&path(text), 1000, soon()).await.unwrap();
        let mut told = Vec::new();
        while let Some(source::Directory { path, listing }) = found.directories.recv().await {
            let listing = listing.unwrap();
            let mut names: Vec<_> =
                listing.iter().map(|e| (e.name.clone(), e.attr.file, e.attr.size)).collect();
            names.sort();
            told.push((path.to_string(), listing.attr.file, listing.complete, names));
        }
        (found.attr.map(|attr| attr.file), told)
    };
    for text in ["/d", "/d/file", "/d/none", "/none", "/"] {
        let far = whole(&chain.far, text).await;
        assert_eq!(whole(&chain.site, text).await, far, "{text} at the site");
        assert_eq!(whole(&chain.node, text).await, far, "{text} at the node");
    }
}
