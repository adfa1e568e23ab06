//! Mounts that cannot be made, and one whose daemon is not where the configuration says.

use crate::common::commands::{Outcome, altered, command, eventually, free_address};
use crate::common::{Setup, can_mount, programs};
use globalfs::local::{Process, is_mounted};
use std::ffi::OsStr;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn mount(mountpoint: &Path, config: &Path, more: &[&str]) -> Outcome {
    let args = ["mount".as_ref(), mountpoint.as_os_str(), "--config".as_ref(), config.as_os_str()];
    let args = args.into_iter().chain(more.iter().map(OsStr::new));
    Outcome::of(command(&programs().globalfs_fuse, args))
}

#[test]
fn mounts_that_cannot_be_made() {
    if !can_mount("mounts_that_cannot_be_made") {
        return;
    }
    let mut test = Setup::default().start(|_| {});
    let config = test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
    let here = test.scratch.path().join("mnt");
    fs::create_dir(&here).unwrap();
    let unknown = altered(&config, "unknown.yaml", &[("state_dir", "unknown")]);
    let other = altered(&config, "other.yaml", &[("node", "n2")]);
    for how in [&[][..], &["--foreground"]] {
        let check = |at: &Path, config: &Path, words: &[&str]| {
            mount(at, config, how).fails(1, words);
            assert!(!is_mounted(&here));
        };
        let (none, file) = (here.join("none"), config.as_path());
        check(&none, &config, &["globalfs-fuse: cannot mount on", "/mnt/none: No such file or directory"]);
        check(file, &config, &["cannot mount on", "n1.yaml: not a directory"]);
        check(&here, &unknown, &["no certificate in", "/unknown", "globalfs node register"]);
        check(&here, &other, &["is that of node n1 of site cloud, the configuration is for node n2"]);
        let misspelt = [how, &["-o", "ro,allow_othr"]].concat();
        mount(&here, &config, &misspelt)
            .fails(2, &["unknown mount option 'allow_othr', did you mean 'allow_other'?"]);
    }
    let dev_without_fuse = "mount -t tmpfs none /dev && exec \"$@\"";
    let program = programs().globalfs_fuse;
    let args =
        ["-m", "bash", "-c", dev_without_fuse, "-", program.to_str().unwrap(), "mount", "--foreground"];
    let rest = [here.as_os_str(), "--config".as_ref(), config.as_os_str()];
    let hidden = command(Path::new("/usr/bin/unshare"), args.iter().map(OsStr::new).chain(rest));
    Outcome::of(hidden).fails(1, &["FUSE is not available", "modprobe fuse", "--device /dev/fuse"]);
}

/// A mount in the foreground, taken away with this value whatever happened.
struct Foreground {
    process: Option<Process>,
    at: PathBuf,
}

impl Foreground {
    fn start(at: PathBuf, config: &Path) -> Self {
        fs::create_dir_all(&at).unwrap();
        let mut command = Command::new(programs().globalfs_fuse);
        command.arg("mount").arg(&at).arg("--foreground").arg("--config").arg(config);
        let process = Process::spawn(command, config.with_extension("log")).unwrap();
        let mounted = Self { process: Some(process), at };
        eventually("the mount", || is_mounted(&mounted.at).then_some(()).ok_or("nothing there".into()));
        mounted
    }

    fn end(&mut self) -> bool {
        self.process.take().is_some_and(|process| process.terminate().unwrap())
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        drop(self.process.take());
        if is_mounted(&self.at) {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

#[test]
fn a_daemon_that_is_not_there() {
    if !can_mount("a_daemon_that_is_not_there") {
        return;
    }
    let mut test = Setup::default().start(|_| {});
    let config = test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let onprem = test.cluster.site_address("onprem").to_string();
    let wrong = [
        ("closed", free_address().to_string(), "No route to host"),
        ("silent", silent.local_addr().unwrap().to_string(), ""),
        ("other-site", onprem, "Permission denied"),
        ("no-name", "no-such-host.invalid:7441".into(), ""),
    ];
    for (name, address, word) in wrong {
        let changes = [("daemon", &*address), ("deadline", "3s")];
        let config = altered(&config, &format!("{name}.yaml"), &changes);
        let mut mounted = Foreground::start(test.scratch.path().join(name), &config);
        let started = Instant::now();
        let listed = Outcome::of(command(Path::new("ls"), [OsStr::new("-a"), mounted.at.as_os_str()]));
        listed.fails(2, &["ls: cannot ", word]);
        assert!(started.elapsed() < Duration::from_secs(15), "{name} took {:?}", started.elapsed());
        assert!(mounted.end() && !is_mounted(&mounted.at), "{name} ends cleanly");
    }
}
