//! A node that sees its site's origin writes to it by its own kernel: the bytes are where they belong at once, others see
//! them, and what is owed comes home, whoever is killed meanwhile.

use super::{mount_with, within};
use crate::common::{Setup, TestCluster, can_mount, noise, shell};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const POLICIES: &str = "\
policies:
  - {name: results, pattern: /results/**, primary: onprem, sync_mode: async}
";

const SOON: Duration = Duration::from_secs(20);

const LENGTH: usize = 3_000_000;

/// Stores bytes into a mapping that outlives its descriptor, and says so, until a line is read.
const MAPPED: &str = "import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(file, 0)
os.close(file)
memory[0:6] = b'stored'
print('stored', flush=True)
sys.stdin.readline()
memory[6:11] = b' late'
";

/// A node of the site that masters the directory, which sees its origin, and another one of the same site.
struct Direct {
    test: TestCluster,
    site: &'static str,
    mount: PathBuf,
    other: PathBuf,
    /// The directory in the origin of its master, and at its home.
    origin: PathBuf,
    home: PathBuf,
}

fn start(site: &'static str) -> Direct {
    let mut test = Setup { policy_yaml: POLICIES.into(), ..Setup::default() }.start(|origin| {
        fs::create_dir_all(origin.join("results/job")).unwrap();
        fs::write(origin.join("results/job/old"), "old content").unwrap();
    });
    fs::create_dir_all(test.origin(site)).unwrap();
    let yaml = format!("direct: {}\n", test.origin(site).display());
    let mount = mount_with(&mut test, "node-1", site, &yaml, &[]).join("results/job");
    let other = mount_with(&mut test, "node-2", site, "", &[]).join("results/job");
    let [origin, home] = [site, "onprem"].map(|site| test.origin(site).join("results/job"));
    if site != "onprem" {
        // With the first change the site takes the lease.
        shell(&mount, "echo first > first");
    }
    let direct = Direct { test, site, mount, other, origin, home };
    direct.all_closed();
    direct
}

impl Direct {
    /// How many files of the mount the kernel writes to by itself, as the daemon knows.
    fn open(&self) -> usize {
        let dir = self.test.scratch.path().join("cluster").join(self.site).join("state/direct");
        fs::read_dir(dir).unwrap().count()
    }

    fn all_closed(&self) {
        within(SOON, || if self.open() == 0 { Ok(()) } else { Err(format!("{} are open", self.open())) });
    }

    /// What is in the origin of the master comes home, and both other mounts show it.
    fn same(&self, name: &str, want: &[u8]) {
        assert!(fs::read(self.origin.join(name)).unwrap() == want, "{name} in the origin");
        assert!(fs::read(self.mount.join(name)).unwrap() == want, "{name} at the node");
        let is_same = |path: &Path| match fs::read(path) {
            Ok(found) if found == want => Ok(()),
            Ok(found) => Err(format!("{}: {} bytes", path.display(), found.len())),
            Err(error) => Err(format!("{}: {error}", path.display())),
        };
        within(SOON, || is_same(&self.other.join(name)));
        within(SOON, || is_same(&self.home.join(name)));
    }
}

fn writes_and_comes_home(site: &'static str) {
    let direct = start(site);
    let content = noise(7, LENGTH);
    let mut file = File::create(direct.mount.join("file")).unwrap();
    file.write_all(&content).unwrap();
    assert_eq!(direct.open(), 1, "the kernel writes by itself");
    assert!(fs::read(direct.origin.join("file")).unwrap() == content, "at once, before it is closed");
    assert_eq!(file.metadata().unwrap().len(), LENGTH as u64);
    assert_eq!(direct.mount.join("file").metadata().unwrap().len(), LENGTH as u64);
    drop(file);
    direct.same("file", &content);
    direct.all_closed();
    let changed = fs::metadata(direct.origin.join("file")).unwrap();
    let seen = fs::metadata(direct.mount.join("file")).unwrap();
    assert_eq!((seen.mtime(), seen.mtime_nsec()), (changed.mtime(), changed.mtime_nsec()));
    // What is there already, in the middle, at the end, cut off.
    shell(
        &direct.mount,
        "printf NEW | dd of=file bs=1 seek=1000 conv=notrunc status=none; printf end >> file; \
         printf more >> old; : > first; truncate -s 2500000 file",
    );
    let mut want = content;
    want[1000..1003].copy_from_slice(b"NEW");
    want.truncate(2_500_000);
    direct.same("file", &want);
    direct.same("old", b"old contentmore");
    direct.same("first", b"");
    direct.all_closed();
}

/// Holds promises 7, 9 and 10 of docs/semantics.md.
#[test]
fn a_node_writes_to_its_origin_by_itself_at_home() {
    if can_mount("a_node_writes_to_its_origin_by_itself_at_home") {
        writes_and_comes_home("onprem");
    }
}

/// Holds promises 7, 10 and 18 of docs/semantics.md.
#[test]
fn a_node_writes_to_its_origin_by_itself_under_a_lease() {
    if can_mount("a_node_writes_to_its_origin_by_itself_under_a_lease") {
        writes_and_comes_home("cloud");
    }
}

#[test]
fn all_that_is_done_to_an_open_file_is_done_to_one() {
    if !can_mount("all_that_is_done_to_an_open_file_is_done_to_one") {
        return;
    }
    let direct = start("cloud");
    let path = direct.mount.join("file");
    let options = || File::options().read(true).write(true).create(true).clone();
    let mut file = options().open(&path).unwrap();
    file.write_all(b"0123456789").unwrap();
    let mut read = File::open(&path).unwrap();
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "0123456789");
    let mut append = File::options().append(true).open(&path).unwrap();
    append.write_all(b"ab").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 12);
    file.set_len(4).unwrap();
    append.write_all(b"cd").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123cd");
    let mode = fs::metadata(&path).unwrap().mode() & 0o777;
    shell(
        &direct.mount,
        "chmod 600 file && fallocate -o 100000 -l 50 file && python3 -c 'import os
f = os.open(\"file\", os.O_RDWR); g = os.open(\"copy\", os.O_RDWR | os.O_CREAT)
assert os.lseek(f, 0, os.SEEK_HOLE) <= 4096, \"hole\"
assert os.copy_file_range(f, g, 6, 0, 3) == 6
assert os.pread(g, 9, 0) == bytes(3) + b\"0123cd\"'",
    );
    assert_ne!(mode, 0o600);
    let seen = file.metadata().unwrap();
    assert_eq!((seen.len(), seen.mode() & 0o777), (100_050, 0o600));
    assert_eq!(fs::metadata(&path).unwrap().ino(), seen.ino(), "it is one node");
    // Through the other node of the site, as a change of the daemon's.
    within(SOON, || {
        let found = fs::read(direct.other.join("file")).map_err(|error| error.to_string())?;
        if found.starts_with(b"0123cd\0") { Ok(()) } else { Err(format!("{} bytes", found.len())) }
    });
    let theirs = File::options().write(true).open(direct.other.join("file")).unwrap();
    theirs.write_all_at(b"THEIRS", 50).unwrap();
    drop(theirs);
    let mut part = [0; 6];
    file.read_exact_at(&mut part, 50).unwrap();
    assert_eq!(&part, b"THEIRS");
    // A name that is taken away or replaced while the file is open.
    shell(&direct.mount, "mv file moved && echo another > file && rm moved");
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"still").unwrap();
    file.read_exact_at(&mut part, 0).unwrap();
    assert_eq!(&part, b"stilld");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop((file, read, append));
    direct.same("file", b"another\n");
    assert!(!direct.origin.join("moved").exists());
    // With direct writes of whole blocks, and a file that is written by its second name.
    shell(
        &direct.mount,
        "dd if=/dev/zero of=blocks bs=4096 count=3 oflag=direct status=none && ln blocks second && \
         printf x | dd of=second conv=notrunc status=none",
    );
    let mut want = vec![0; 3 * 4096];
    want[0] = b'x';
    direct.same("blocks", &want);
    direct.same("second", &want);
    direct.all_closed();
}

#[test]
fn what_a_mapping_stores_after_its_file_was_closed_comes_home_and_holds_the_lease() {
    if !can_mount("what_a_mapping_stores_after_its_file_was_closed_comes_home_and_holds_the_lease") {
        return;
    }
    let direct = start("cloud");
    shell(&direct.mount, "printf 'nothing yet' > file");
    let mut program = Command::new("python3");
    program.args(["-c", MAPPED]).arg(direct.mount.join("file"));
    program.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut program = program.spawn().unwrap();
    let mut said = [0; 7];
    program.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let home = direct.home.join("file");
    within(SOON, || match fs::read(&home) {
        Ok(found) if found == b"storedg yet" => Ok(()),
        found => Err(format!("{found:?}")),
    });
    let drained = direct.test.cluster.admin(&["drain", "cloud", "--timeout", "3s"]);
    assert!(drained.is_err(), "it is open to write");
    drop(program.stdin.take());
    assert!(program.wait().unwrap().success());
    within(SOON, || match fs::read(&home) {
        Ok(found) if found == b"stored late" => Ok(()),
        found => Err(format!("{found:?}")),
    });
    direct.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
    assert_eq!(fs::read(home).unwrap(), b"stored late");
}

/// Holds promise 20 of docs/semantics.md.
#[test]
fn what_a_kernel_writes_comes_home_whoever_is_killed() {
    if !can_mount("what_a_kernel_writes_comes_home_whoever_is_killed") {
        return;
    }
    let mut direct = start("cloud");
    let mut file = File::create(direct.mount.join("file")).unwrap();
    file.write_all(b"before").unwrap();
    direct.wait_for_home(b"before");
    direct.test.cluster.kill("cloud").unwrap();
    file.write_all(b", while nobody is there").unwrap();
    direct.test.cluster.start_site("cloud").unwrap();
    direct.wait_for_home(b"before, while nobody is there");
    file.write_all(b", after").unwrap();
    direct.wait_for_home(b"before, while nobody is there, after");
    assert_eq!(direct.open(), 1);
    // Its kernel goes on without the mount, which nobody else would notice.
    direct.test.cluster.kill("node-1").unwrap();
    file.write_all(b", alone").unwrap();
    direct.wait_for_home(b"before, while nobody is there, after, alone");
    let drained = direct.test.cluster.admin(&["drain", "cloud", "--timeout", "3s"]).unwrap_err().to_string();
    drop(file);
    direct.all_closed();
    direct.test.cluster.admin(&["drain", "cloud", "--timeout", "20s"]).unwrap();
    assert!(drained.contains("/results/job"), "{drained}");
    let home = fs::read_to_string(direct.home.join("file")).unwrap();
    assert_eq!(home, "before, while nobody is there, after, alone");
}

impl Direct {
    fn wait_for_home(&self, want: &[u8]) {
        let home = self.home.join("file");
        within(SOON, || match fs::read(&home) {
            Ok(found) if found == want => Ok(()),
            found => Err(format!("{found:?}")),
        });
    }
}

#[test]
fn a_subtree_does_not_leave_its_home_while_a_kernel_writes_there() {
    if !can_mount("a_subtree_does_not_leave_its_home_while_a_kernel_writes_there") {
        return;
    }
    let mut direct = start("onprem");
    let cloud = mount_with(&mut direct.test, "node-3", "cloud", "", &[]).join("results/job");
    let mut file = File::create(direct.mount.join("log")).unwrap();
    file.write_all(b"one").unwrap();
    shell(&cloud, "echo from afar > afar");
    let leases = direct.test.cluster.admin(&["lease", "list", "--json"]).unwrap();
    assert!(!leases.contains("/results/job"), "{leases}");
    file.write_all(b", two").unwrap();
    drop(file);
    direct.same("log", b"one, two");
    direct.same("afar", b"from afar\n");
}

/// Holds promise 12 of docs/semantics.md.
#[test]
fn a_full_disk_is_told_to_who_writes() {
    if !can_mount("a_full_disk_is_told_to_who_writes") {
        return;
    }
    let direct = start_on_a_small_disk();
    let mut file = File::create(direct.mount.join("file")).unwrap();
    assert_eq!(direct.open(), 1, "the kernel writes by itself");
    let block = vec![1; 1 << 20];
    let error = (0..64).find_map(|_| file.write_all(&block).err()).unwrap();
    assert_eq!(error.raw_os_error(), Some(28), "no space is left");
    file.set_len(3).unwrap();
    file.sync_all().unwrap();
    drop(file);
    direct.same("file", &[1; 3]);
    let size = 4 << 20;
    fs::write(direct.mount.join("more"), noise(1, size)).unwrap();
    direct.same("more", &noise(1, size));
}

fn start_on_a_small_disk() -> Direct {
    let mut test = Setup { policy_yaml: POLICIES.into(), ..Setup::default() }.start(|origin| {
        fs::create_dir_all(origin.join("results/job")).unwrap();
        shell(origin, "mount -t tmpfs -o size=16m small results/job");
    });
    let yaml = format!("direct: {}\n", test.origin("onprem").display());
    let mount = mount_with(&mut test, "node-1", "onprem", &yaml, &[]).join("results/job");
    let other = mount_with(&mut test, "node-2", "onprem", "", &[]).join("results/job");
    let origin = test.origin("onprem").join("results/job");
    Direct { test, site: "onprem", mount, other, home: origin.clone(), origin }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // The small disk, if there is one.
        let _ = Command::new("umount").arg("-l").arg(&self.home).output();
    }
}

#[test]
fn where_passthrough_is_off_all_goes_through_the_daemon() {
    if !can_mount("where_passthrough_is_off_all_goes_through_the_daemon") {
        return;
    }
    let mut direct = start("onprem");
    let yaml = format!("direct: {}\n", direct.test.origin("onprem").display());
    let at = mount_with(&mut direct.test, "node-3", "onprem", &yaml, &["-o", "passthrough=off"]);
    let mut file = File::create(at.join("results/job/file")).unwrap();
    file.write_all(b"through the daemon").unwrap();
    assert_eq!(direct.open(), 0);
    drop(file);
    direct.same("file", b"through the daemon");
}
