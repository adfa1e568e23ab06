//! What programs do with files beside reading and writing them: holes, and files without a name.

use super::mount_with;
use crate::common::{Setup, can_mount, shell};
use std::fs;

/// Says what it finds in a file of 1 MiB that has data in its first bytes, at 512 KiB, and nowhere else.
const HOLES: &str = "import errno, os
f = os.open('holes', os.O_RDONLY)
say = lambda at, how: os.lseek(f, at, how)
print(say(0, os.SEEK_DATA) == 0, say(0, os.SEEK_HOLE) <= 65536, say(100000, os.SEEK_DATA) == 524288)
print(say(524288, os.SEEK_HOLE) < 600000, say(700000, os.SEEK_HOLE) == 700000)
for at in (700000, 1 << 20, 1 << 30):
    try: print(say(at, os.SEEK_DATA))
    except OSError as error: print(errno.errorcode[error.errno])
";

/// Holds promise 25 of docs/semantics.md.
#[test]
fn holes_are_found_where_they_are() {
    if !can_mount("holes_are_found_where_they_are") {
        return;
    }
    let mut test = Setup::default().start(|origin| {
        shell(origin, "truncate -s 1M holes; echo x | dd of=holes conv=notrunc status=none");
        shell(origin, "echo x | dd of=holes bs=512K seek=1 conv=notrunc status=none");
    });
    let script = test.scratch.path().join("holes.py").display().to_string();
    fs::write(&script, HOLES).unwrap();
    let want = shell(&test.origin("onprem"), &format!("python3 {script}"));
    assert_eq!(want, "True True True\nTrue True\nENXIO\nENXIO\nENXIO\n");
    for (node, site) in [("node-1", "onprem"), ("node-2", "cloud")] {
        let mount = mount_with(&mut test, node, site, "", &["-o", "rw"]);
        assert_eq!(shell(&mount, &format!("python3 {script}")), want, "{site}");
        shell(&mount, "cp --sparse=auto holes copy; cmp holes copy; rm copy");
    }
    let mount = test.scratch.path().join("mnt-node-1");
    let both = "python3 -c \"import os; f = os.open('holes', os.O_RDWR); os.pwrite(f, b'x', 800000)
print(os.lseek(f, 700000, os.SEEK_DATA) <= 800000, os.lseek(f, 1000000, os.SEEK_HOLE))\"";
    assert_eq!(shell(&mount, both), "True 1000000\n");
}

const COPY: &str = "import os
f, g = os.open('large', os.O_RDONLY), os.open('copy', os.O_RDWR | os.O_CREAT)
at, size = 0, os.fstat(f).st_size
while at < size: at += os.copy_file_range(f, g, size - at, at, at)
assert os.copy_file_range(f, g, 100, size, 0) == 0
assert os.copy_file_range(g, g, 10, 5, size + 7) == 10 and os.fstat(g).st_size == size + 17
assert os.pread(g, 20, size) == bytes(7) + os.pread(f, 10, 5)
os.ftruncate(g, size)
";

/// Holds promise 27 of docs/semantics.md.
#[test]
fn copies_are_made_where_the_files_are() {
    if !can_mount("copies_are_made_where_the_files_are") {
        return;
    }
    let mut test = Setup::default().start(|origin| {
        fs::write(origin.join("large"), crate::common::noise(5, 100 << 20)).unwrap();
    });
    let script = test.scratch.path().join("copy.py").display().to_string();
    fs::write(&script, COPY).unwrap();
    for (node, site) in [("node-1", "onprem"), ("node-2", "cloud")] {
        let mount = mount_with(&mut test, node, site, "", &["-o", "rw"]);
        let moved = test.wan_bytes("cloud");
        shell(&mount, &format!("rm -f copy; python3 {script}"));
        assert!(test.wan_bytes("cloud") - moved < 16 << 20, "the bytes stay where they are");
        assert_eq!(shell(&mount, "cmp large copy && echo same"), "same\n");
        assert_eq!(shell(&test.origin("onprem"), "cmp large copy && echo same"), "same\n");
    }
}

/// A file without a name, and what becomes of it.
const NAMELESS: &str = "import os
f = os.open('.', os.O_TMPFILE | os.O_RDWR, 0o640)
os.write(f, b'content')
print(os.fstat(f).st_nlink, os.listdir('.'), os.pread(f, 7, 0))
os.link(f'/proc/self/fd/{f}', 'named', src_dir_fd=os.open('.', os.O_RDONLY), follow_symlinks=True)
print(os.fstat(f).st_nlink, os.listdir('.'), open('named').read())
os.write(f, b' more'); os.close(f)
print(os.stat('named').st_nlink, '%o' % os.stat('named').st_mode, open('named').read())
g = os.open('.', os.O_TMPFILE | os.O_WRONLY); os.write(g, b'gone'); os.close(g)
for n in range(100):
    g = os.open('.', os.O_TMPFILE | os.O_WRONLY)
    os.link(f'/proc/self/fd/{g}', 'again', src_dir_fd=os.open('.', os.O_RDONLY), follow_symlinks=True)
    os.write(g, b'x'); os.close(g)
    # Its other name may be on its way out; nobody sees it.
    seen = [os.stat('again').st_nlink for n in range(5)]
    assert seen == [1] * 5, (n, seen)
    os.remove('again')
";

/// Holds promise 26 of docs/semantics.md.
#[test]
fn a_file_without_a_name_may_get_one() {
    if !can_mount("a_file_without_a_name_may_get_one") {
        return;
    }
    let mut test = Setup::default().start(|origin| fs::create_dir(origin.join("d")).unwrap());
    let mount = mount_with(&mut test, "node-1", "onprem", "", &["-o", "rw"]);
    let script = test.scratch.path().join("nameless.py").display().to_string();
    fs::write(&script, NAMELESS).unwrap();
    let said = shell(&mount.join("d"), &format!("umask 0; python3 {script}"));
    let want = "0 [] b'content'\n1 ['named'] content\n1 100640 content more\n";
    assert_eq!(said, want);
    let there = test.origin("onprem").join("d");
    super::within(std::time::Duration::from_secs(10), || {
        let names = shell(&there, "ls -A; stat -c %h named");
        if names == "named\n1\n" { Ok(()) } else { Err(names) }
    });
}
