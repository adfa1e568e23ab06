//! Mounting, unmounting and what is left behind. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::mounted::{Mounted, errno, inside, mount_at, skip};
use common::ways::Way;
use common::{MemoryVolume, path};
use globalfs_fuse::{Detach, MountError};
use globalfs_proto::FileKind;
use rustix::process::{Resource, Rlimit};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const ECONNABORTED: i32 = 103;
const ENOTCONN: i32 = 107;
const ECANCELED: i32 = 125;

#[test]
fn unmounting_waits_for_open_files_or_does_not() {
    if !inside("unmounting_waits_for_open_files_or_does_not") {
        return;
    }
    let mounted = Mounted::new("");
    mounted.volume.file("/f", "content");
    let mut file = File::open(mounted.at("f")).unwrap();
    let busy = mounted.session.unmount(Detach::WhenUnused).unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
    mounted.session.unmount(Detach::Now).unwrap();
    assert_eq!(fs::read_dir(mounted.directory.path()).unwrap().count(), 0, "out of the tree");
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
    let short = Duration::from_millis(100);
    let wait = async || tokio::time::timeout(short, mounted.session.wait()).await;
    assert!(mounted.runtime.block_on(wait()).is_err(), "a file is open");
    drop(file);
    let long = async || tokio::time::timeout(Duration::from_secs(10), mounted.session.wait()).await;
    mounted.runtime.block_on(long()).unwrap();
    mounted.session.unmount(Detach::WhenUnused).unwrap();
}

#[test]
fn who_waits_for_a_mount_that_does_not_answer_is_released_by_force() {
    if !inside("who_waits_for_a_mount_that_does_not_answer_is_released_by_force") {
        return;
    }
    let mounted = Mounted::new("");
    mounted.volume.file("/f", "content");
    let mut file = File::open(mounted.at("f")).unwrap();
    mounted.volume.read_ms.store(600_000, Ordering::Relaxed);
    let begun = Instant::now();
    let reader = std::thread::spawn(move || errno(file.read(&mut [0])));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!reader.is_finished());
    globalfs_fuse::abort(mounted.session.mountpoint()).unwrap();
    assert!([ECONNABORTED, ENOTCONN].contains(&reader.join().unwrap()));
    assert!(begun.elapsed() < Duration::from_secs(10), "took {:?}", begun.elapsed());
}

#[test]
fn mount_points_are_checked() {
    if !inside("mount_points_are_checked") {
        return;
    }
    let mounted = Mounted::new("fsname=onprem,threads=3");
    mounted.volume.file("/f", "x");
    let (volume, runtime, at) = (&mounted.volume, &mounted.runtime, mounted.session.mountpoint());
    let error = |at: &Path| mount_at(volume, at, "", runtime).err().unwrap();
    assert!(matches!(error(at), MountError::AlreadyMounted(_)));
    let none = error(Path::new("/no/such/place"));
    assert!(
        matches!(&none, MountError::MountPoint { source, .. } if source.kind() == io::ErrorKind::NotFound)
    );
    assert!(error(Path::new("/proc/version")).to_string().contains("directory"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|l| l.contains(at.to_str().unwrap())).unwrap();
    assert!(line.contains(" rw,nosuid,nodev") && line.contains("- fuse.globalfs onprem "), "{line}");
    assert!(line.contains("default_permissions"), "{line}");
    let device = line.split(' ').nth(2).unwrap();
    let read_ahead = fs::read_to_string(format!("/sys/class/bdi/{device}/read_ahead_kb"));
    assert_eq!(read_ahead.unwrap().trim(), "1024");
    assert!(Command::new("umount").arg(at).status().unwrap().success());
    let ended = async || tokio::time::timeout(Duration::from_secs(10), mounted.session.wait()).await;
    runtime.block_on(ended()).expect("wait returns when others unmount");
    drop(mount_at(volume, at, "", runtime).unwrap());
    assert_eq!(fs::read_dir(at).unwrap().count(), 0, "dropping a session unmounts");
}

#[test]
fn a_mount_left_by_a_killed_program_is_replaced() {
    const PLACE: &str = "GLOBALFS_TEST_PLACE";
    let name = "a_mount_left_by_a_killed_program_is_replaced";
    if !inside(name) {
        return;
    }
    let (volume, runtime) = (MemoryVolume::new(), Runtime::new().unwrap());
    volume.file("/f", "content");
    if let Some(place) = std::env::var_os(PLACE) {
        let _session = mount_at(&volume, Path::new(&place), "", &runtime).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let mut killed = Command::new(std::env::current_exe().unwrap());
        killed.args(["--exact", name, "--nocapture"]).env(PLACE, directory.path()).stdout(Stdio::null());
        let mut killed = killed.spawn().unwrap();
        let start = Instant::now();
        while fs::read(directory.path().join("f")).ok().as_deref() != Some(b"content") {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(20));
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        let said = errno(fs::read_dir(directory.path()));
        assert!([ENOTCONN, ECANCELED, ECONNABORTED].contains(&said), "{said}");
        let session = mount_at(&volume, directory.path(), "", &runtime).unwrap();
        assert_eq!(fs::read(directory.path().join("f")).unwrap(), b"content");
        session.unmount(Detach::WhenUnused).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left below");
    }
}

#[test]
fn users_mount_through_fusermount3() {
    const PLACE: &str = "GLOBALFS_TEST_PLACE";
    let name = "users_mount_through_fusermount3";
    if let Some(place) = std::env::var_os(PLACE) {
        let (volume, runtime) = (MemoryVolume::new(), Runtime::new().unwrap());
        volume.put(&path("/f"), FileKind::Regular, 0o644, "content".into());
        let other = mount_at(&volume, Path::new(&place), "allow_other", &runtime);
        assert!(matches!(other, Err(MountError::AllowOther)), "{:?}", other.err());
        let session = mount_at(&volume, Path::new(&place), "", &runtime).unwrap();
        let file = session.mountpoint().join("f");
        assert_eq!(fs::read(&file).unwrap(), b"content");
        assert_eq!(session.uses_io_uring(), Way::of_this_run() == Way::Rings);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(mounts.contains("- fuse.globalfs globalfs "), "{mounts}");
        let open = File::open(&file).unwrap();
        let busy = session.unmount(Detach::WhenUnused).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy, "{busy}");
        drop(open);
        session.unmount(Detach::WhenUnused).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        return;
    }
    if ["fusermount3", "setpriv"].iter().any(|tool| Command::new(tool).arg("--version").output().is_err()) {
        skip(name, "fusermount3 and setpriv");
        return;
    }
    if !inside(name) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (program, place) = (directory.path().join("program"), directory.path().join("place"));
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::create_dir(&place).unwrap();
    std::os::unix::fs::chown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    open_device_to_users(&directory.path().join("device"));
    let output = Command::new("setpriv")
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()])
        .arg(program)
        .args(["--exact", name, "--nocapture"])
        .env(PLACE, place)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `fusermount3` refuses a user without a name.
const NOBODY: u32 = 65534;

/// Puts a device that users may open over `/dev/fuse`, in this namespace alone.
fn open_device_to_users(scratch: &Path) {
    const SCRIPT: &str = "mkdir $0; mount -t tmpfs -o dev,mode=755 tmpfs $0
        mknod -m 666 $0/fuse c 10 229; mount --bind $0/fuse /dev/fuse";
    assert!(Command::new("sh").args(["-ec", SCRIPT]).arg(scratch).status().unwrap().success());
}

/// Names of the threads of this program that belong to mounts.
fn threads_of_mounts() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let ours = |name: &String| name.starts_with("globalfs-mount") || name.starts_with("globalfs-ring");
    names.filter(ours).collect()
}

#[test]
fn unmounting_under_load_ends_everything() {
    if !inside("unmounting_under_load_ends_everything") {
        return;
    }
    for abort in [false, true] {
        let mounted = Mounted::new("attr_timeout=0,entry_timeout=0,threads=3");
        mounted.volume.file("/small", "x");
        mounted.volume.file("/large", vec![7; 2_000_000]);
        let connection = connection_number(mounted.session.mountpoint());
        assert!(threads_of_mounts().len() >= 3, "{:?}", threads_of_mounts());
        let (reads, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for name in ["small", "large", "small", "large", "small", "large"] {
                let (at, reads, stop) = (mounted.at(name), &reads, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        // After the end there is an empty directory, or a mount without a connection.
                        if fs::read(&at).is_ok() && fs::metadata(&at).is_ok() {
                            reads.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let began = Instant::now();
            while reads.load(Ordering::Relaxed) < 500 && began.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let done =
                if abort { abort_connection(&connection) } else { mounted.session.unmount(Detach::Now) };
            // A reader that is in a file keeps a detached mount until it closes it.
            let ended = async || tokio::time::timeout(Duration::from_secs(20), mounted.session.wait()).await;
            let ended = mounted.runtime.block_on(ended());
            // Before anything can fail: the others end by this alone.
            stop.store(true, Ordering::Relaxed);
            done.unwrap();
            ended.expect("the mount ends");
        });
        assert!(reads.into_inner() >= 500, "the load ran");
        mounted.eventually("its threads end", |_| threads_of_mounts().is_empty());
    }
}

/// With too few descriptors for rings, which is one way in which they cannot be had.
#[test]
fn a_mount_that_gets_no_rings_goes_on_without() {
    if !inside("a_mount_that_gets_no_rings_goes_on_without") {
        return;
    }
    let (volume, runtime) = (MemoryVolume::new(), Runtime::new().unwrap());
    volume.file("/f", "content");
    let directory = tempfile::tempdir().unwrap();
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let is_free = |fd: &u64| !Path::new(&format!("/proc/self/fd/{fd}")).exists();
    // One for the device, and one that is needed now and then.
    let last = (0..).filter(is_free).nth(1);
    let few = Rlimit { current: last.map(|fd| fd + 1), maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, few).unwrap();
    let session = mount_at(&volume, directory.path(), "io_uring=on", &runtime);
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
    let session = session.unwrap();
    assert_eq!(fs::read(session.mountpoint().join("f")).unwrap(), b"content");
    assert!(!session.uses_io_uring());
}

/// What an administrator does about a mount that hangs.
fn abort_connection(number: &str) -> io::Result<()> {
    const SCRIPT: &str = "cd /sys/fs/fuse/connections; [ -e $0 ] || mount -t fusectl none .
        echo 1 >/sys/fs/fuse/connections/$0/abort";
    let status = Command::new("sh").args(["-ec", SCRIPT, number]).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

/// The number by which the kernel's control directory knows the mount at `mountpoint`.
fn connection_number(mountpoint: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(mountpoint.to_str().unwrap())).unwrap();
    line.split([' ', ':']).nth(3).unwrap().to_owned()
}
