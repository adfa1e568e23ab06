//! From mounting to unmounting: in front and in the background, by hand and by fstab, politely and by force.

use crate::common::{Setup, TestCluster, can_mount, noise, run, shell};
use crate::within;
use globalfs::local::is_mounted;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn cluster() -> TestCluster {
    Setup::default().start(|origin| fs::write(origin.join("file"), noise(1, 1_000_000)).unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A mount in the background, which goes with this value.
struct Background(PathBuf);

impl Background {
    fn new(test: &TestCluster) -> Self {
        let at = test.scratch.path().join("mnt-background");
        fs::create_dir(&at).unwrap();
        Self(at)
    }

    fn assert_reads(&self) {
        assert_eq!(fs::read(self.0.join("file")).unwrap(), noise(1, 1_000_000));
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if is_mounted(&self.0) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

/// The line of `/proc/self/mounts` for a mount point.
fn mount_line(at: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().find(|line| line.split(' ').nth(1) == Some(text(at))).unwrap().to_owned()
}

#[test]
fn a_mount_in_the_background_is_ready_when_the_command_returns() {
    if !can_mount("a_mount_in_the_background_is_ready_when_the_command_returns") {
        return;
    }
    let mut test = cluster();
    let config = test.cluster.add_node("node", "cloud", "1GiB", "").unwrap();
    let mount = Background::new(&test);
    let programs = test.cluster.programs().clone();
    let args = ["mount", text(&mount.0), "--config", text(&config), "-o", "ro,allow_other"];
    for program in [&programs.globalfs_fuse, &programs.globalfs] {
        assert_eq!(run(program, &args), (0, String::new(), String::new()));
        mount.assert_reads();
        let line = mount_line(&mount.0);
        assert!(line.contains(" fuse.globalfs ro,") && line.contains("allow_other"), "{line}");

        let (code, _, said) = run(program, &args);
        assert!(code == 1 && said.contains("is mounted already"), "{code} {said}");
        assert_eq!(run(program, &["umount", text(&mount.0)]), (0, String::new(), String::new()));
        assert!(!is_mounted(&mount.0));
        assert_eq!(fs::read_dir(&mount.0).unwrap().count(), 0);
    }
}

#[test]
fn what_hinders_a_mount_is_told() {
    if !can_mount("what_hinders_a_mount_is_told") {
        return;
    }
    let mut test = cluster();
    let config = test.cluster.add_node("node", "cloud", "1GiB", "").unwrap();
    let mount = Background::new(&test);
    let program = test.cluster.programs().globalfs_fuse.clone();
    let check = |at: &Path, options: &str, code: i32, reason: &str| {
        let mut args = vec!["mount", text(at), "--config", text(&config)];
        args.extend(["-o", options].iter().filter(|_| !options.is_empty()));
        let (found, _, said) = run(&program, &args);
        assert!(
            found == code && said.contains(reason),
            "wanted {code} and '{reason}', got {found} and '{said}'"
        );
        assert!(said.starts_with("globalfs") && said.lines().count() == 1, "{said}");
    };
    check(&mount.0.join("none"), "", 1, "No such file or directory");
    check(&test.origin("onprem").join("file"), "", 1, "not a directory");
    check(&mount.0, "allow_othr", 2, "did you mean 'allow_other'?");
    check(&mount.0, "ro,threads=99", 2, "threads");
    let (code, _, said) = run(&program, &["umount", text(&mount.0)]);
    assert!(code == 1 && said.contains("cannot unmount"), "{code} {said}");
    assert!(!is_mounted(&mount.0));
}

#[test]
fn fstab_speaks_to_the_helper() {
    if !can_mount("fstab_speaks_to_the_helper") {
        return;
    }
    let mut test = cluster();
    let config = test.cluster.add_node("node", "cloud", "1GiB", "").unwrap();
    let mount = Background::new(&test);
    let helper = test.scratch.path().join("mount.globalfs");
    symlink(&test.cluster.programs().globalfs_fuse, &helper).unwrap();
    let options = "ro,_netdev,nofail,noexec,allow_other,x-systemd.automount";
    assert_eq!(run(&helper, &[text(&config), text(&mount.0), "-f", "-o", options]).0, 0);
    assert!(!is_mounted(&mount.0), "-f only rehearses");
    let (code, _, said) =
        run(&helper, &[text(&config), text(&mount.0), "-n", "-o", options, "-t", "globalfs"]);
    assert_eq!((code, said.as_str()), (0, ""));
    mount.assert_reads();
    let line = mount_line(&mount.0);
    assert!(
        line.starts_with(text(&config)) && line.contains("noexec") && line.contains("allow_other"),
        "{line}"
    );
    shell(test.scratch.path(), "umount mnt-background");
    assert!(!is_mounted(&mount.0), "umount(8) needs no help");
}

#[test]
fn a_mount_in_use_leaves_only_lazily() {
    if !can_mount("a_mount_in_use_leaves_only_lazily") {
        return;
    }
    let mut test = cluster();
    let mount = test.mount("node", "cloud");
    let program = test.cluster.programs().globalfs.clone();
    let open = File::open(mount.join("file")).unwrap();
    let (code, _, said) = run(&program, &["umount", text(&mount)]);
    assert!(code == 1 && said.contains("busy") && said.contains("--lazy"), "{code} {said}");
    assert!(is_mounted(&mount));
    assert_eq!(run(&program, &["umount", "--lazy", text(&mount)]).0, 0);
    assert!(!is_mounted(&mount));
    assert_eq!(std::io::read_to_string(&open).map_err(|e| e.kind()), Err(std::io::ErrorKind::InvalidData));
    drop(open);
    let pid = test.cluster.pid("node").unwrap();
    within(Duration::from_secs(10), || match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) if !stat.contains(") Z ") => Err(format!("still runs: {stat}")),
        _ => Ok(()),
    });
}

#[test]
fn sigterm_unmounts() {
    if !can_mount("sigterm_unmounts") {
        return;
    }
    let mut test = cluster();
    let mount = test.mount("node", "cloud");
    assert_eq!(fs::read(mount.join("file")).unwrap().len(), 1_000_000);
    assert!(test.cluster.stop("node").unwrap(), "the exit code is 0");
    assert!(!is_mounted(&mount));
    test.cluster.start_mount("node", &mount, &[]).unwrap();
    let open = File::open(mount.join("file")).unwrap();
    assert!(test.cluster.stop("node").unwrap(), "also with a file open");
    assert!(!is_mounted(&mount));
    drop(open);
}

#[test]
fn a_killed_mount_can_be_mounted_over() {
    if !can_mount("a_killed_mount_can_be_mounted_over") {
        return;
    }
    let mut test = cluster();
    let mount = test.mount("node", "cloud");
    for _ in 0..3 {
        let open = File::open(mount.join("file")).unwrap();
        test.cluster.kill("node").unwrap();
        assert!(is_mounted(&mount) && fs::read(mount.join("file")).is_err(), "it is stale now");
        test.cluster.start_mount("node", &mount, &[]).unwrap();
        assert_eq!(fs::read(mount.join("file")).unwrap(), noise(1, 1_000_000));
        drop(open);
    }
    assert!(test.cluster.stop("node").unwrap());
    assert!(!is_mounted(&mount), "no stale mount is left below");
}
