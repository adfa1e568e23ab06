//! Changes made beside GlobalFS are told, wherever they happen to what was told.

use super::{Fixture, global, soon};
use crate::source::{ChangeStream, Directory, Source};
use futures_util::StreamExt;
use globalfs_proto::GlobalPath;
use globalfs_proto::limits::MAX_ENTRIES_UNASKED;
use rustix::fs::XattrFlags;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::time::timeout;

const BEAT: Duration = Duration::from_millis(100);

/// An origin of which somebody hears the changes.
struct Watched {
    fixture: Fixture,
    changes: ChangeStream,
}

impl Watched {
    async fn new() -> Self {
        let fixture = Fixture::new();
        let mut changes = fixture.origin.watch(BEAT);
        assert!(changes.next().await.unwrap().is_empty(), "it is there");
        Self { fixture, changes }
    }

    async fn list(&self, path: &str) {
        let listing = self.fixture.origin.list(&global(path), soon()).await.unwrap();
        assert!(listing.watched && listing.complete, "{path}");
    }

    /// What is told until there is nothing more.
    async fn told(&mut self) -> BTreeSet<String> {
        let mut told = BTreeSet::new();
        while let Ok(Some(changes)) = timeout(3 * BEAT, self.changes.next()).await {
            if changes.is_empty() {
                break;
            }
            if changes.everything {
                told.insert("everything".to_owned());
            }
            for directory in &changes.directories {
                told.extend(
                    directory.names.iter().map(|name| directory.path.join(name).unwrap().to_string()),
                );
                if directory.names.is_empty() {
                    told.insert(format!("{} as a whole", directory.path));
                }
            }
        }
        told
    }

    async fn expect(&mut self, names: &[&str]) {
        let told = self.told().await;
        assert_eq!(told, names.iter().map(|name| (*name).to_owned()).collect());
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.fixture.at(name)
    }
}

/// What somebody does to a file.
type Change<'a> = &'a dyn Fn(&Path);

#[tokio::test]
async fn each_kind_of_change_of_a_name_is_told() {
    let mut watched = Watched::new().await;
    fs::write(watched.at("file"), "old").unwrap();
    fs::create_dir(watched.at("dir")).unwrap();
    watched.list("/").await;
    let changes: [(&str, Change<'_>); 11] = [
        ("/file", &|at| fs::write(at, "new").unwrap()),
        ("/file", &|at| File::options().append(true).open(at).unwrap().write_all(b"x").unwrap()),
        ("/file", &|at| fs::set_permissions(at, fs::Permissions::from_mode(0o600)).unwrap()),
        ("/file", &|at| rustix::fs::setxattr(at, "user.a", b"1", XattrFlags::empty()).unwrap()),
        ("/file", &|at| rustix::fs::removexattr(at, "user.a").unwrap()),
        ("/file", &|at| File::options().write(true).open(at).unwrap().set_len(1).unwrap()),
        ("/file", &|at| fs::remove_file(at).unwrap()),
        ("/link", &|at| symlink("there", at).unwrap()),
        ("/made", &|at| fs::create_dir(at).unwrap()),
        ("/dir", &|at| fs::set_permissions(at, fs::Permissions::from_mode(0o700)).unwrap()),
        ("/dir", &|at| fs::remove_dir(at).unwrap()),
    ];
    for (name, change) in changes {
        change(&watched.at(&name[1..]));
        watched.expect(&[name]).await;
    }
    fs::rename(watched.at("link"), watched.at("moved")).unwrap();
    watched.expect(&["/link", "/moved"]).await;
    File::open(watched.at("moved")).err();
    fs::read_dir(watched.at("made")).unwrap().for_each(drop);
    watched.expect(&[]).await;
}

#[tokio::test]
async fn nothing_is_watched_for_nobody_and_nothing_told_of_what_was_not_listed() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.at("a/b")).unwrap();
    assert!(!fixture.origin.list(&GlobalPath::root(), soon()).await.unwrap().watched);
    assert_eq!(fixture.origin.watched_directories(), 0);
    let mut watched = Watched::new().await;
    fs::create_dir_all(watched.at("a/b")).unwrap();
    watched.list("/a").await;
    assert_eq!(watched.fixture.origin.watched_directories(), 2, "it and what is above it");
    fs::write(watched.at("in-the-root"), "x").unwrap();
    fs::write(watched.at("a/b/below"), "x").unwrap();
    watched.expect(&[]).await;
}

#[tokio::test]
async fn a_directory_that_is_moved_takes_its_watches_along() {
    let mut watched = Watched::new().await;
    fs::create_dir_all(watched.at("a/b/c")).unwrap();
    watched.list("/a/b/c").await;
    fs::rename(watched.at("a"), watched.at("z")).unwrap();
    watched.expect(&["/a", "/z"]).await;
    assert_eq!(watched.fixture.origin.watched_directories(), 1);
    fs::write(watched.at("z/b/c/new"), "x").unwrap();
    watched.expect(&[]).await;
    watched.list("/z/b/c").await;
    fs::write(watched.at("z/b/c/newer"), "x").unwrap();
    watched.expect(&["/z/b/c/newer"]).await;
    // Another directory takes the place.
    fs::create_dir_all(watched.at("a/b/c")).unwrap();
    watched.list("/a/b/c").await;
    fs::rename(watched.at("z/b/c"), watched.at("a/other")).unwrap();
    fs::remove_dir_all(watched.at("a/b/c")).unwrap();
    let told = watched.told().await;
    assert!(told.contains("/z/b/c") && told.contains("/a/b/c"), "{told:?}");
}

#[tokio::test]
async fn what_comes_along_is_watched_too_and_what_is_too_large_is_left_out() {
    let mut watched = Watched::new().await;
    fs::create_dir_all(watched.at("a/b/c")).unwrap();
    fs::write(watched.at("a/b/c/file"), "x").unwrap();
    fs::create_dir(watched.at("large")).unwrap();
    for n in 0..=MAX_ENTRIES_UNASKED {
        File::create(watched.at(&format!("large/{n}"))).unwrap();
    }
    let along = async |path: &str, below| {
        let mut found = watched.fixture.origin.look_up(&global(path), below, soon()).await.unwrap();
        let mut told = Vec::new();
        while let Some(Directory { path, listing }) = found.directories.recv().await {
            told.push((path.to_string(), listing.map(|listing| (listing.len(), listing.watched))));
        }
        (found.attr.is_some(), told)
    };
    let told = |path: &str, entries| (path.to_owned(), Some((entries, true)));
    let expected = vec![told("/a", 1), told("/", 2), told("/a/b", 1), told("/a/b/c", 1)];
    assert_eq!(along("/a", 1000).await, (true, expected.clone()));
    assert_eq!(along("/a", 0).await, (true, vec![]));
    assert_eq!(along("/none", 1000).await, (false, vec![told("/", 2)]));
    assert_eq!(along("/a/b/c/file", 1000).await, (true, vec![told("/a/b/c", 1)]));
    let large = |name: &str| (name.to_owned(), None);
    assert_eq!(along("/large/77", 16_000).await, (true, vec![large("/large")]));
    assert_eq!(along("/large", 16_000).await, (true, vec![large("/large"), told("/", 2)]));
    assert_eq!(along("/a", 5).await.1.len(), 2, "as far as the budget goes");
    let listing = watched.fixture.origin.list(&global("/large"), soon()).await.unwrap();
    assert_eq!(listing.len(), MAX_ENTRIES_UNASKED + 1, "whole for whoever asks for it");
    fs::write(watched.at("a/b/c/file"), "y").unwrap();
    watched.expect(&["/a/b/c/file"]).await;
}

#[tokio::test]
async fn a_storm_of_changes_is_told_or_everything_is() {
    let mut watched = Watched::new().await;
    watched.list("/").await;
    for n in 0..20_000 {
        File::create(watched.at(&format!("{n}"))).unwrap();
    }
    let told = watched.told().await;
    assert!(told.contains("everything") || told.len() == 20_000, "{} names told", told.len());
    let listing = watched.fixture.origin.list(&GlobalPath::root(), soon()).await.unwrap();
    assert!(listing.watched, "and it goes on");
    fs::write(watched.at("again"), "x").unwrap();
    watched.expect(&["/again"]).await;
}

/// Says to the process of its own in which a test runs that it is that process.
const INSIDE: &str = "GLOBALFS_TEST_FEW_WATCHES";

/// In a user namespace of its own, whose limit alone is lowered.
#[test]
fn where_the_kernel_grants_no_more_watches_directories_are_told_as_not_watched() {
    const NAME: &str = "origin::tests::watching::where_the_kernel_grants_no_more_watches_directories_are_told_as_not_watched";
    if std::env::var_os(INSIDE).is_some() {
        return with_three_watches();
    }
    let limit = "echo 3 > /proc/sys/user/max_inotify_watches";
    let namespace = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "sh", "-c", command]).env(INSIDE, "1");
        unshare.arg("sh").arg(std::env::current_exe().unwrap());
        unshare.output()
    };
    if !namespace(limit).is_ok_and(|tried| tried.status.success()) {
        return super::skip("user namespaces");
    }
    let run = namespace(&format!("{limit} && exec \"$1\" --exact {NAME} --nocapture")).unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::main(flavor = "current_thread")]
async fn with_three_watches() {
    let mut watched = Watched::new().await;
    for name in ["a", "b", "c"] {
        fs::create_dir(watched.at(name)).unwrap();
        fs::write(watched.at(name).join("file"), "x").unwrap();
    }
    let is_watched = async |watched: &Watched, path: &str| {
        let listing = watched.fixture.origin.list(&global(path), soon()).await.unwrap();
        assert!(listing.complete && !listing.is_empty(), "{path} is told, however it is watched");
        listing.watched
    };
    for (path, expected) in
        [("/", true), ("/a", true), ("/b", true), ("/c", false), ("/c", false), ("/a", true)]
    {
        assert_eq!(is_watched(&watched, path).await, expected, "{path}");
    }
    fs::write(watched.at("a/file"), "y").unwrap();
    fs::write(watched.at("c/file"), "y").unwrap();
    watched.expect(&["/a/file"]).await;
    fs::remove_dir_all(watched.at("b")).unwrap();
    assert!(watched.told().await.contains("/b"));
    assert!(is_watched(&watched, "/c").await, "there is room again");
}
