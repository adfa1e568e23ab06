//! Failures around writing at a site that is not the home: a full disk at either end, a mount that is taken away from under a
//! program, and all that can die at once.

use super::leases::tree;
use super::within;
use crate::common::wan::Wan;
use crate::common::{Setup, TestCluster, can_mount, run, shell};
use globalfs::local::{Places, is_mounted};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const POLICIES: &str = "\
policies:
  - {name: results, pattern: /results/**, primary: onprem, sync_mode: async}
";

/// What the other site or a restarted daemon may take until it is where the first one is.
const SOON: Duration = Duration::from_secs(30);

/// A file system in memory that is soon full. It goes with this value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        shell(at.parent().unwrap(), &format!("mount -t tmpfs -o size=4m small {}", at.display()));
        Self(at.to_owned())
    }

    fn grow(&self) {
        shell(Path::new("/"), &format!("mount -o remount,size=64m {}", self.0.display()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A mount of `cloud`, which holds `results/job`.
struct Holder {
    small: Option<SmallDisk>,
    test: TestCluster,
    job: PathBuf,
}

impl Holder {
    /// The origin of the site `small` lies on a small disk, if it is named.
    fn start(small: Option<&str>, places: Places) -> Self {
        let mut disk = None;
        let setup = Setup { policy_yaml: POLICIES.into(), ..Setup::default() };
        let mut test = setup.start_at(places, |origin| {
            let at = |site: &str| origin.with_file_name(format!("{site}-origin"));
            disk = small.map(|site| SmallDisk::mount(&at(site)));
            fs::create_dir(origin.join("results")).unwrap();
        });
        let job = test.mount("node-1", "cloud").join("results/job");
        shell(job.parent().unwrap(), "mkdir job && touch job/begun && rm job/begun");
        let holder = Self { small: disk, test, job };
        assert!(holder.admin(&["lease", "list", "--json"]).contains("\"cloud\""));
        holder
    }

    fn admin(&self, args: &[&str]) -> String {
        self.test.cluster.admin(args).unwrap()
    }

    fn origin(&self, site: &str) -> PathBuf {
        self.test.origin(site).join("results/job")
    }

    fn sync(&self) {
        self.admin(&["sync", "/results/job", "--wait", "--timeout", "60s"]);
        let [home, here] = ["onprem", "cloud"].map(|site| self.origin(site));
        assert_eq!(tree(&home), tree(&here));
        within(SOON, || {
            let hidden = shell(self.test.scratch.path(), "find *-origin -name '.globalfs-*'");
            if hidden.is_empty() { Ok(()) } else { Err(hidden) }
        });
    }
}

/// Holds promise 18, promise 20 of docs/semantics.md.
#[test]
fn a_full_disk_at_home_is_told_and_all_comes_when_there_is_room() {
    if !can_mount("a_full_disk_at_home_is_told_and_all_comes_when_there_is_room") {
        return;
    }
    let holder = Holder::start(Some("onprem"), Places::default());
    shell(&holder.job, "echo first > first; head -c 1M /dev/urandom > one; sync one");
    holder.sync();
    shell(
        &holder.job,
        "for n in $(seq 8); do head -c 1M /dev/urandom > $n; sync $n; done; mv one 1; rm first",
    );
    within(SOON, || {
        let status = holder.admin(&["status"]);
        let is_told = status.contains("AT RISK") && status.to_lowercase().contains("no space");
        if is_told { Ok(()) } else { Err(status) }
    });
    let late = holder.test.cluster.admin(&["sync", "/results/job", "--wait", "--timeout", "3s"]);
    let late = format!("{:#}", late.unwrap_err());
    assert!(late.contains("not in time") && late.to_lowercase().contains("no space"), "{late}");
    let metrics = holder.test.cluster.metrics("cloud").unwrap();
    assert_eq!(metrics.sum("globalfs_pending_troubled_leases"), 1.0);
    let said =
        shell(&holder.job, "mkdir later; seq 1000 > later/x; mv later/x x; cat 1 8 x | wc -c; ls | wc -l");
    assert_eq!(said, format!("{}\n10\n", 2 * 1024 * 1024 + 3893), "the holder goes on");
    holder.small.as_ref().unwrap().grow();
    holder.sync();
    within(SOON, || {
        let status = holder.admin(&["status"]);
        if status.contains("AT RISK") { Err(status) } else { Ok(()) }
    });
}

/// Writes files of 300 kB until one fails, and says where: at which call, and how.
const FILL: &str = "import errno, os, sys
how, n = sys.argv[1], 0
while True:
    n += 1; at = 'open'
    try:
        f = os.open(f'{how}-{n}', os.O_WRONLY | os.O_CREAT)
        try:
            at = 'write'
            for part in range(3): os.write(f, bytes([n % 251]) * 100000)
            if how == 'fsync': at = 'fsync'; os.fsync(f)
        finally:
            if at == 'write': at = 'close'
            try: os.close(f)
            except OSError:
                if at != 'fsync': raise
    except OSError as error:
        print(n - 1, errno.errorcode[error.errno]); break
";

/// Holds promise 12 of docs/semantics.md.
#[test]
fn a_full_disk_at_the_holder_fails_the_writer_and_nothing_else() {
    if !can_mount("a_full_disk_at_the_holder_fails_the_writer_and_nothing_else") {
        return;
    }
    let holder = Holder::start(Some("cloud"), Places::default());
    let program = holder.test.scratch.path().join("fill.py");
    fs::write(&program, FILL).unwrap();
    for how in ["close", "fsync"] {
        let said = shell(&holder.job, &format!("timeout 60 python3 {} {how}", program.display()));
        let (whole, error) = said.trim().split_once(' ').unwrap();
        let whole: u64 = whole.parse().unwrap();
        assert!(error == "ENOSPC" && (8..=14).contains(&whole), "{how}: {said}");
        for n in 1..=whole {
            let there = fs::read(holder.job.join(format!("{how}-{n}"))).unwrap();
            assert!(there == vec![(n % 251) as u8; 300_000], "{how}-{n}, {} bytes", there.len());
        }
        let said = shell(&holder.job, &format!("rm {how}-1 {how}-2; echo fits > fits; cat fits; rm {how}-*"));
        assert_eq!(said, "fits\n");
        shell(
            &holder.job,
            "for n in $(seq 20); do head -c 100000 /dev/urandom > small-$n; done; sync small-*",
        );
        holder.sync();
        shell(&holder.job, "rm small-*");
    }
    holder.sync();
}

/// Writes and closes file after file until it fails or is told to stop; says of each that it is closed.
const WRITER: &str = "import os, sys
place, stop, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
while not os.path.exists(stop):
    n += 1
    try:
        with open(f'{place}/{n}', 'wb', buffering=0) as f:
            for part in range(4): f.write(b'%d ' % n * 2000)
    except OSError as error:
        if len(sys.argv) > 4: continue
        break
    print(n, flush=True)
";

/// A program that writes files into a directory.
struct Writer {
    child: Child,
    stop: PathBuf,
}

impl Writer {
    fn start(scratch: &Path, directory: &Path, first: u32, more: &[&str]) -> Self {
        let (program, stop) = (scratch.join("writer.py"), scratch.join("stop"));
        fs::write(&program, WRITER).unwrap();
        let _ = fs::remove_file(&stop);
        let mut command = Command::new("python3");
        command.arg(&program).arg(directory).arg(&stop).arg(first.to_string()).args(more);
        Self { child: command.stdout(Stdio::piped()).spawn().unwrap(), stop }
    }

    /// Which files it has closed.
    fn stop(self) -> Vec<u32> {
        fs::write(&self.stop, "").unwrap();
        let output = self.child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
    }
}

fn are_whole(directory: &Path, files: &[u32]) {
    for n in files {
        let wanted = format!("{n} ").repeat(8000);
        let there = fs::read_to_string(directory.join(n.to_string()));
        let length = there.as_ref().map(String::len);
        assert!(there.as_ref().ok() == Some(&wanted), "{n} of {}: {length:?}", files.len());
    }
}

/// Waits until the writer that began behind `first` has closed some files.
fn await_files(origin: &Path, first: u32) {
    let file = origin.join((first + 15).to_string());
    within(SOON, || if file.exists() { Ok(()) } else { Err(file.display().to_string()) });
}

fn rest() {
    std::thread::sleep(Duration::from_millis(700));
}

/// Holds promise 7 of docs/semantics.md.
#[test]
fn a_mount_that_ends_under_a_writer_loses_nothing_that_was_closed() {
    if !can_mount("a_mount_that_ends_under_a_writer_loses_nothing_that_was_closed") {
        return;
    }
    let mut holder = Holder::start(None, Places::default());
    let (scratch, here) = (holder.test.scratch.path().to_owned(), holder.origin("cloud"));
    let mount = scratch.join("mnt-node-1");
    let at = mount.to_str().unwrap();
    let program = holder.test.cluster.programs().globalfs.clone();

    let writer = Writer::start(&scratch, &holder.job, 0, &[]);
    await_files(&here, 0);
    assert!(holder.test.cluster.stop("node-1").unwrap(), "the exit code is 0");
    assert!(!is_mounted(&mount));
    let closed = writer.stop();
    assert!(closed.len() > 10, "{closed:?}");
    are_whole(&here, &closed);

    holder.test.cluster.start_mount("node-1", &mount, &[]).unwrap();
    let writer = Writer::start(&scratch, &holder.job, 100_000, &[]);
    let open = fs::File::create(holder.job.join("open")).unwrap();
    await_files(&here, 100_000);
    let (code, _, said) = run(&program, &["umount", at]);
    assert!(code == 1 && said.contains("busy"), "{code} {said}");
    rest();
    assert_eq!(run(&program, &["umount", "--lazy", at]).0, 0);
    let closed = writer.stop();
    assert!(closed.len() > 10, "{closed:?}");
    are_whole(&here, &closed);
    drop(open);
    holder.sync();
}

/// Holds promise 19, promise 20 of docs/semantics.md.
#[test]
fn both_ends_and_the_link_fail_at_once_and_nothing_is_lost() {
    if !can_mount("both_ends_and_the_link_fail_at_once_and_nothing_is_lost") {
        return;
    }
    let wan = Wan::new();
    let mut holder = Holder::start(None, wan.places());
    let scratch = holder.test.scratch.path().to_owned();
    let mut closed = Vec::new();
    for round in 0..3 {
        let writer = Writer::start(&scratch, &holder.job, round * 100_000, &["goes on"]);
        await_files(&holder.origin("cloud"), round * 100_000);
        wan.cut();
        let cluster = &mut holder.test.cluster;
        ["cloud", "onprem", "coordinator"].iter().for_each(|name| cluster.kill(name).unwrap());
        cluster.start_site("cloud").unwrap();
        rest();
        let starts = |cluster: &mut globalfs::local::LocalCluster| {
            cluster.start_coordinator().and_then(|()| cluster.start_site("onprem")).unwrap();
        };
        match round {
            0 => (wan.heal(), starts(cluster)),
            _ => (starts(cluster), wan.heal()),
        };
        rest();
        closed.extend(writer.stop());
    }
    let rounds = [0, 1, 2].map(|round| closed.iter().filter(|n| **n / 100_000 == round).count());
    assert!(rounds.iter().all(|files| *files > 10), "{rounds:?}");
    within(SOON, || {
        let synced = holder.test.cluster.admin(&["sync", "/results/job", "--wait", "--timeout", "60s"]);
        synced.map(drop).map_err(|error| format!("{error:#}"))
    });
    holder.sync();
    [holder.origin("onprem"), holder.job.clone()].iter().for_each(|place| are_whole(place, &closed));
}
