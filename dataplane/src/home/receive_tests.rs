//! From one real origin to another: everything comes over as it is, and again after whatever has changed.

use super::*;
use crate::disk::PosixDisk;
use crate::home::survey::{Limits, survey};
use crate::origin::Options;
use globalfs_proto::SiteName;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(super) struct Sites {
    pub(super) dirs: [tempfile::TempDir; 2],
    pub(super) origins: [Origin; 2],
}

pub(super) const LARGE: Limits = Limits { entries: 100_000, bytes: 1 << 40 };

pub(super) fn sites() -> Sites {
    sites_in([tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()])
}

pub(super) fn sites_in(dirs: [tempfile::TempDir; 2]) -> Sites {
    let open = |dir: &tempfile::TempDir, name| {
        let site = SiteName::new(name).unwrap();
        Origin::open(dir.path(), &site, Arc::new(PosixDisk::default()), Options::default()).unwrap()
    };
    let origins = [open(&dirs[0], "cloud"), open(&dirs[1], "onprem")];
    Sites { dirs, origins }
}

pub(super) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

pub(super) fn shell(dir: &Path, script: &str) -> String {
    let output = Command::new("bash").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Names, kinds, modes, owners, links, sizes, times, targets, contents, extended attributes.
fn tree(dir: &Path) -> String {
    shell(
        dir,
        "find . -printf '%P %y %m %U %G %n %s %T@ %l\\n' | sed 's/^\\(.* d [0-9]* [0-9]* [0-9]* [0-9]*\\) [0-9]* /\\1 /' \
         | sort; find . -type f | sort | xargs -rd '\\n' md5sum; getfattr -R -d -m - . 2>/dev/null | sort; \
         find . -type p -o -type c | sort",
    )
}

impl Sites {
    /// All that is at the first comes to the second, and what is only there goes.
    pub(super) async fn bring(&self) -> Vec<FsResult<()>> {
        let all = |origin: &Origin| {
            let origin = origin.clone();
            async move { survey(&origin, &GlobalPath::root(), LARGE, soon()).await.unwrap().unwrap() }
        };
        let mut items = all(&self.origins[0]).await;
        let there: Vec<HomeItem> = all(&self.origins[1]).await;
        let known: std::collections::HashSet<_> = items.iter().map(|item| item.path.clone()).collect();
        let gone = there.into_iter().filter(|item| !known.contains(&item.path));
        items.extend(gone.map(|item| HomeItem { attr: None, same_as: None, ..item }));
        self.bring_items(items).await
    }

    pub(super) async fn bring_items(&self, items: Vec<HomeItem>) -> Vec<FsResult<()>> {
        self.bring_from(items, Arc::new(self.origins[0].clone()), soon()).await
    }

    pub(super) async fn bring_from(
        &self,
        items: Vec<HomeItem>,
        from: Arc<dyn Source>,
        deadline: Deadline,
    ) -> Vec<FsResult<()>> {
        let (count, receiver) = (items.len(), Receiver::new(self.origins[1].clone()));
        let mut answers = receiver.bring(items, from, deadline);
        let mut outcomes = vec![None; count];
        while let Some(Settled { item, outcome }) = answers.recv().await {
            assert!(outcomes[item as usize].replace(outcome).is_none(), "each is answered once");
        }
        outcomes.into_iter().map(|outcome| outcome.expect("each is answered")).collect()
    }

    pub(super) async fn same(&self) {
        let outcomes = self.bring().await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(tree(self.dirs[1].path()), tree(self.dirs[0].path()));
    }
}

const EVERYTHING: &str = "set -e
    mkdir -p a/b/c 'odd name'; : > empty; echo small > a/small; head -c 133120 /dev/urandom > a/b/middle
    head -c 5000000 /dev/urandom > a/large; truncate -s 150M sparse; printf x | dd of=sparse bs=1 seek=99999999 conv=notrunc status=none
    printf 'n' > $'odd name/new\\nline'; ln -s ../small a/b/link; ln a/small a/b/again; ln a/large hard; mkfifo pipe; mknod null c 1 3
    setfattr -n user.colour -v blue a/small; setfattr -n user.d -v dir a/b; setfacl -m u:1000:r a/b/middle || true
    setfacl -d -m u:1000:rx a/b/c || true; chown -h 1:2 a/b/link; chown 1000:100 a/small; chmod 4751 a/b/middle; chmod 1777 a
    touch -d '2001-02-03 04:05:06.123456789' a/small a/b/c; touch -h -d @1234567890 a/b/link; chmod 0 empty";

#[tokio::test]
async fn a_tree_with_everything_comes_over_as_it_is() {
    let sites = sites();
    shell(sites.dirs[0].path(), EVERYTHING);
    sites.same().await;
    let blocks = shell(sites.dirs[1].path(), "stat -c %b sparse; ls -A a | grep -c globalfs || true");
    let (blocks, hidden) = blocks.trim().split_once('\n').unwrap();
    assert!(blocks.parse::<u64>().unwrap() < 1000, "holes stay holes");
    assert_eq!(hidden, "0");
    sites.same().await;
    shell(
        sites.dirs[0].path(),
        "rm -r a; echo file > a; rm pipe; mkdir pipe; rm null; ln -s x null; rm hard",
    );
    sites.same().await;
}

#[tokio::test]
async fn whatever_changes_comes_over() {
    let seed =
        std::env::var("GLOBALFS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("GLOBALFS_SEED={seed}");
    let (mut random, sites) = (SmallRng::seed_from_u64(seed), sites());
    for _ in 0..60 {
        let mut script = String::new();
        for _ in 0..random.random_range(1..8) {
            let mut name = || ["a", "b", "c", "d/a", "d/b", "d/e/a", "d/e", "d"][random.random_range(0..8)];
            let (one, other) = (name(), name());
            let size = [0, 1, 5000, 300_000, 1_500_000][random.random_range(0..5)];
            script += &match random.random_range(0..9) {
                0 | 1 => format!("head -c {size} /dev/urandom > {one}"),
                2 => format!("printf more >> {one}"),
                3 => format!("mkdir -p {one}"),
                4 => format!("mv -T {one} {other}"),
                5 => format!("rm -rf {one}"),
                6 => format!("ln {one} {other}"),
                7 => format!("chmod 7{size:03} {one}; setfattr -n user.x -v {size} {one}")
                    .replace("1500000", "55"),
                _ => format!("printf mid | dd of={one} bs=1 seek=200000 conv=notrunc"),
            };
            script += " 2>/dev/null\n";
        }
        shell(sites.dirs[0].path(), &(script + "true"));
        sites.same().await;
    }
}

#[tokio::test]
async fn of_a_large_file_only_what_changed_is_read() {
    let sites = sites();
    shell(sites.dirs[0].path(), "head -c 20000000 /dev/urandom > f");
    sites.same().await;
    let read = || sites.origins[0].counters().bytes_read.load(std::sync::atomic::Ordering::Relaxed);
    let before = read();
    shell(sites.dirs[0].path(), "printf changed | dd of=f bs=1 seek=10000000 conv=notrunc status=none");
    sites.same().await;
    // Hashing reads, too, but is not counted as delivered.
    assert!(read() - before <= 2 * globalfs_proto::limits::CHUNK_SIZE, "{}", read() - before);
    let before = read();
    shell(sites.dirs[0].path(), "chmod 600 f; touch f");
    sites.same().await;
    assert_eq!(read() - before, 0, "attributes alone");
}

#[tokio::test]
async fn an_error_of_one_path_ends_no_other_and_what_changed_is_stale() {
    let sites = sites();
    shell(
        sites.dirs[0].path(),
        "echo a > a; echo b > b; head -c 300000 /dev/zero > c; mkdir d; echo e > d/e; ln -s x l",
    );
    let items = survey(&sites.origins[0], &GlobalPath::root(), LARGE, soon()).await.unwrap().unwrap();
    shell(sites.dirs[0].path(), "echo other > a; rm c; rm l");
    let outcomes = sites.bring_items(items.clone()).await;
    for (item, outcome) in items.iter().zip(outcomes) {
        let stale = [&b"/a"[..], b"/c", b"/l"].contains(&item.path.as_bytes());
        assert_eq!(matches!(outcome, Err(FsError::Stale(_))), stale, "{item:?} {outcome:?}");
        assert!(stale || outcome.is_ok());
    }
    assert_eq!(shell(sites.dirs[1].path(), "cat b d/e"), "b\ne\n");
    sites.same().await;
}

#[tokio::test]
async fn removal_never_follows_a_link() {
    let sites = sites();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("keep"), "").unwrap();
    let out = outside.path().display();
    shell(sites.dirs[1].path(), &format!("mkdir -p d/e; ln -s {out} d/e/out; ln -s {out} top"));
    let gone =
        |path: &str| HomeItem { path: GlobalPath::new(path.as_bytes()).unwrap(), attr: None, same_as: None };
    let outcomes =
        sites.bring_items(vec![gone("/d"), gone("/top/keep"), gone("/missing/x"), gone("/top")]).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(outside.path().join("keep").exists());
    assert_eq!(shell(sites.dirs[1].path(), "ls -A"), "");
}
