//! What changes at the master's origin is seen through a mount at another site long before any time to live ends.

use crate::common::{TestCluster, can_mount};
use crate::{long_memory, mount_with, within};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a push may take on a busy machine; the time to live is an hour.
const SOON: Duration = Duration::from_secs(10);

fn is(path: PathBuf, wanted: &str) -> impl FnMut() -> Result<(), String> {
    let wanted = wanted.to_owned();
    move || match fs::read_to_string(&path) {
        Ok(text) if text == wanted => Ok(()),
        other => Err(format!("{}: {other:?}", path.display())),
    }
}

fn is_missing(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => Err(format!("{}: {:?}", path.display(), other.map(|found| found.len()))),
    }
}

fn look_at_all(mount: &Path) {
    for n in 0..20 {
        assert_eq!(fs::read_to_string(mount.join(format!("d/{n}"))).unwrap(), "old");
        assert!(is_missing(&mount.join(format!("d/new-{n}"))).is_ok());
    }
    assert_eq!(fs::read_dir(mount.join("d")).unwrap().count(), 21);
}

fn change_all(test: &TestCluster, mount: &Path) {
    let origin = test.origin("onprem");
    let begun = Instant::now();
    for n in 0..20 {
        fs::write(origin.join(format!("d/{n}")), "changed").unwrap();
        fs::write(origin.join(format!("d/new-{n}")), "there").unwrap();
    }
    for n in 0..20 {
        within(SOON, is(mount.join(format!("d/{n}")), "changed"));
        within(SOON, is(mount.join(format!("d/new-{n}")), "there"));
    }
    eprintln!("20 changed and 20 new files seen after {:?}", begun.elapsed());
    fs::remove_file(origin.join("d/0")).unwrap();
    within(SOON, || is_missing(&mount.join("d/0")));
    fs::rename(origin.join("d/sub"), origin.join("d/moved")).unwrap();
    within(SOON, is(mount.join("d/moved/deep"), "deep"));
    within(SOON, || is_missing(&mount.join("d/sub/deep")));
    within(SOON, || match fs::read_dir(mount.join("d")).unwrap().count() {
        40 => Ok(()),
        other => Err(format!("{other} entries")),
    });
}

/// Holds promise 4 of docs/semantics.md.
#[test]
fn a_change_at_the_master_is_seen_at_once() {
    if !can_mount("a_change_at_the_master_is_seen_at_once") {
        return;
    }
    let mut test = long_memory().start(|origin| {
        fs::create_dir_all(origin.join("d/sub")).unwrap();
        fs::write(origin.join("d/sub/deep"), "deep").unwrap();
        (0..20).for_each(|n| fs::write(origin.join(format!("d/{n}")), "old").unwrap());
    });
    let mount = mount_with(&mut test, "node-1", "cloud", "attribute_ttl: 1h\n", &[]);
    look_at_all(&mount);
    assert_eq!(fs::read_to_string(mount.join("d/sub/deep")).unwrap(), "deep");
    change_all(&test, &mount);
}
