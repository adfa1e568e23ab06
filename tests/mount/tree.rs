//! A real source tree and every kind of oddity, looked at with the tools that people use: whatever they print
//! at the mount, they print at the origin.

use crate::common::{Setup, TestCluster, can_mount, noise, shell, skip};
use crate::{long_memory, mount_with};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages that this workspace uses, whose sources cargo has unpacked: some 2,000 files.
const PACKAGES: &[&str] =
    &["tokio-1*", "rustix-1*", "libc-0*", "rustls-0*", "axum-*", "clap_builder-*", "serde*"];

/// Attributes, access times apart: reading the origin may move those.
const LISTING: &str =
    "find . -printf '%P\\t%y %m %U %G %s %b %n %T@ %C@ %l\\0' | LC_ALL=C sort -z | sha256sum";

/// What a copy shares with its original.
const COPY_LISTING: &str = "find . -mindepth 1 ! -type d -printf '%P\\t%y %m %U %G %s %n %T@ %l\\0' \
                            -o -mindepth 1 -printf '%P\\t%y %m %U %G %T@\\0' | LC_ALL=C sort -z | sha256sum";

const TAR: &str = "tar --sort=name --format=posix --xattrs \
                   --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -c . | sha256sum";

fn fill(origin: &Path) {
    copy_packages(&origin.join("src"));
    add_odd_names(&origin.join("names"));
    add_kinds(&origin.join("kinds"));
    add_attributes(&origin.join("attributes"));
}

/// Copies sources of other people's packages; cargo had to unpack them to build this test.
fn copy_packages(to: &Path) {
    fs::create_dir_all(to).unwrap();
    let home =
        std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{}/.cargo", std::env::var("HOME").unwrap()));
    shell(Path::new(&home), &format!("cd registry/src/* && cp -a {} {}", PACKAGES.join(" "), to.display()));
    let count: usize = shell(to, "find . -type f | wc -l").trim().parse().unwrap();
    assert!(count >= 2_000, "{count} files only");
}

fn add_odd_names(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let long = "x".repeat(255);
    let names: [&[u8]; 10] = [
        b"new\nline",
        b"not \xff\xfe utf-8",
        b" blanks ",
        b"quote'\"`$(x)\\",
        b"-rf",
        b".hidden",
        b"...",
        "schön ☃".as_bytes(),
        b"\x01\x7f",
        long.as_bytes(),
    ];
    for name in names {
        fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let deep = dir.join("d".repeat(255)).join(OsStr::from_bytes(b"\xf0")).join("e".repeat(255));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("leaf"), "deep").unwrap();
}

fn add_kinds(dir: &Path) {
    fs::create_dir_all(dir.join("empty-directory")).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("file"), noise(1, 300_001)).unwrap();
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(&noise(2, 10_000), (32 << 20) + 5).unwrap();
    for (name, to) in
        [("link", "file"), ("dangling", "../nowhere"), ("loop", "loop"), ("absolute", "/etc/hosts")]
    {
        symlink(to, dir.join(name)).unwrap();
    }
    symlink("y".repeat(4000), dir.join("long-link")).unwrap();
    fs::hard_link(dir.join("file"), dir.join("second-name")).unwrap();
    fs::create_dir(dir.join("special")).unwrap();
    shell(&dir.join("special"), "mkfifo fifo && mknod null c 1 3 && mknod disk b 7 200");
}

fn add_attributes(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    for mode in [0o000, 0o400, 0o644, 0o751, 0o4755, 0o2755, 0o1777, 0o7777] {
        let path = dir.join(format!("mode-{mode:o}"));
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    shell(
        dir,
        "mkdir closed sticky && chmod 700 closed && chmod 1777 sticky && touch closed/inside
         touch owned && chown 12345:54321 owned && touch nobody && chown 65534:65534 nobody && chmod 600 nobody
         touch -d '1969-12-31 12:00:00.123456789 UTC' before-1970
         touch -d '2100-02-03 04:05:06.7 UTC' after-2038
         setfattr -n user.colour -v blue owned && setfattr -n user.empty owned
         setfattr -n user.large -v $(head -c 2000 /dev/zero | tr '\\0' v) owned && setfattr -n user.dir -v x sticky",
    );
}

fn same(at: [&Path; 2], command: &str) {
    let [want, got] = at.map(|dir| shell(dir, command));
    assert!(!want.trim().is_empty(), "{command} says nothing");
    assert!(want == got, "{command}\nwants\n{}\ngot\n{}", head(&want), head(&got));
}

fn head(text: &str) -> String {
    text.chars().take(5_000).collect()
}

#[test]
fn tools_print_at_the_mounts_what_they_print_at_the_origin() {
    if !can_mount("tools_print_at_the_mounts_what_they_print_at_the_origin") {
        return;
    }
    let mut test = Setup::default().start(fill);
    let origin = test.origin("onprem");
    let (cloud, onprem) = (test.mount("node-1", "cloud"), test.mount("node-2", "onprem"));
    same([&origin, &onprem], LISTING);
    same([&origin, &onprem], TAR);
    let at = [origin.as_path(), &cloud];
    same(at, LISTING);
    same(at, "LC_ALL=C ls -lR --time-style=full-iso");
    same(at, TAR);
    same(at, "getfattr -Rhd -m - . | LC_ALL=C sort");
    same(at, "stat -f -c '%S %s %b %l' . && stat -f -c %S kinds/file");
    shell(&cloud, &format!("diff -r --no-dereference -x special {} .", origin.display()));
    checksums(&origin, &cloud);
    hard_links_are_one_file(&cloud);
    copies_are_equal(&test, &origin, &cloud);
}

fn checksums(origin: &Path, mount: &Path) {
    let file = mount.parent().unwrap().join("sums");
    shell(origin, &format!("find . -type f -print0 | xargs -0 sha256sum > {}", file.display()));
    let checked = shell(mount, &format!("sha256sum --strict -c {} | grep -c ': OK$'", file.display()));
    assert!(checked.trim().parse::<usize>().unwrap() > 2_000);
}

fn hard_links_are_one_file(mount: &Path) {
    let inode = |name: &str| fs::metadata(mount.join("kinds").join(name)).unwrap().ino();
    assert_eq!(inode("file"), inode("second-name"));
    assert_ne!(inode("file"), inode("sparse"));
}

fn copies_are_equal(test: &TestCluster, origin: &Path, mount: &Path) {
    let copy = test.scratch.path().join("copy");
    fs::create_dir(&copy).unwrap();
    shell(mount, &format!("cp -a . {}", copy.display()));
    same([origin, &copy], COPY_LISTING);
    same([origin, &copy], TAR);
}

#[test]
fn programs_run_and_maps_read() {
    if !can_mount("programs_run_and_maps_read") {
        return;
    }
    let content = noise(3, 5_000_001);
    let mut test = Setup::default().start(|origin| {
        fs::write(origin.join("data"), &content).unwrap();
        fs::write(origin.join("script"), "#!/bin/sh\necho \"said $1\"\n").unwrap();
        shell(origin, "cp -L $(command -v sha256sum) program && chmod 755 script program");
    });
    let mount = test.mount("node-1", "cloud");
    assert_eq!(shell(&mount, "./script hello"), "said hello\n");
    assert_eq!(shell(&mount, "./program data"), shell(&test.origin("onprem"), "sha256sum data"));
    if Command::new("python3").arg("-V").output().is_err() {
        return skip("programs_run_and_maps_read", "python3");
    }
    let script = "import mmap, sys, hashlib\n\
        f = open('data', 'rb')\n\
        m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
        f.seek(4000000)\n\
        assert m[4000000:4000016] == f.read(16)\n\
        print(hashlib.sha256(m).hexdigest())";
    let hash = shell(&mount, &format!("python3 - <<'END'\n{script}\nEND"));
    assert_eq!(hash.trim(), shell(&mount, "sha256sum data").split_whitespace().next().unwrap());
    assert_eq!(fs::read(mount.join("data")).unwrap(), content);
}

/// Runs `command` as a user without any rights; gives whether it worked, and what it said.
fn as_nobody(dir: &Path, command: &str) -> (bool, String) {
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", command];
    let output = Command::new("setpriv").args(nobody).env("LC_ALL", "C").current_dir(dir).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Questions about names that `daemon` put to the next one.
fn asked(test: &TestCluster, daemon: &str) -> f64 {
    test.cluster.metrics(daemon).unwrap().sum("globalfs_names_asked_total")
}

#[test]
fn a_long_listing_and_a_copy_ask_nothing_of_files_without_extended_attributes() {
    if !can_mount("a_long_listing_and_a_copy_ask_nothing_of_files_without_extended_attributes") {
        return;
    }
    let mut test = long_memory().start(|origin| {
        fs::create_dir(origin.join("d")).unwrap();
        (0..500).for_each(|n| fs::write(origin.join(format!("d/{n}")), "x").unwrap());
        (0..20).for_each(|n| symlink(n.to_string(), origin.join(format!("d/link-{n}"))).unwrap());
        shell(&origin.join("d"), "setfattr -n user.colour -v blue 7");
    });
    let mount = mount_with(&mut test, "node", "cloud", "attribute_ttl: 1h\n", &[]);
    let copy = test.scratch.path().join("copy");
    let looks = format!("ls -l d; cp -a d {}; getfattr -d d/*", copy.display());
    assert_eq!(shell(&mount, "ls -l d | wc -l").trim(), "521");
    let seen = shell(&mount, &looks);
    assert!(seen.contains("user.colour=\"blue\"") && seen.contains("link-7 -> 7"), "{seen}");
    // Of the one file, its names and what `ls`, `cp` and `getfattr` want of it; the rest are other directories.
    for daemon in ["node", "cloud"] {
        let asked = asked(&test, daemon);
        assert!(asked < 20.0, "{daemon} asked {asked} times for 520 files");
    }
}

/// Holds promise 6 of docs/semantics.md.
#[test]
fn permissions_hold_for_other_users() {
    if !can_mount("permissions_hold_for_other_users") {
        return;
    }
    let mut test = Setup::default().start(|origin| add_attributes(&origin.join("a")));
    fs::set_permissions(test.scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let shared = mount_with(&mut test, "node-1", "cloud", "", &["-o", "allow_other"]);
    let private = test.mount("node-2", "cloud");
    let check = |command: &str, allowed: bool| {
        let (worked, said) =
            as_nobody(test.scratch.path(), &format!("cd {}/a && {command}", shared.display()));
        assert_eq!(worked, allowed, "{command}: {said}");
        assert!(allowed || said.contains("Permission denied"), "{command}: {said}");
    };
    check("ls -l .", true);
    check("cat mode-644 nobody", true);
    check("cat mode-400", false);
    check("cat mode-0", false);
    check("ls closed", false);
    check("cat closed/inside", false);
    check("test -r mode-644 && ! test -r mode-400", true);
    check("getfattr -n user.colour owned", true);
    let (worked, said) = as_nobody(test.scratch.path(), &format!("ls {}", private.display()));
    assert!(!worked && said.contains("Permission denied"), "{said}");
    assert!(shell(&private, "cat a/mode-0 a/closed/inside").contains('x'), "root may");
}

#[test]
fn a_mount_that_is_read_only_refuses_changes() {
    if !can_mount("a_mount_that_is_read_only_refuses_changes") {
        return;
    }
    let mut test = Setup::default().start(|origin| {
        fs::create_dir_all(origin.join("dir/empty")).unwrap();
        fs::write(origin.join("file"), "content").unwrap();
    });
    let before = shell(&test.origin("onprem"), LISTING);
    let read_only = mount_with(&mut test, "node-2", "cloud", "", &["-o", "ro"]);
    let own_site = mount_with(&mut test, "node-3", "onprem", "", &["-o", "ro"]);
    for mount in [read_only, own_site] {
        for command in [
            "touch new",
            "touch file",
            "mkdir new",
            "rm -f file",
            "rmdir dir/empty",
            "mv file new",
            "mv dir/empty x",
            "ln file new",
            "ln -s file new",
            "mkfifo new",
            "chmod 600 file",
            "chown 1:1 file",
            "echo x >> file",
            "echo x > file",
            "echo x > new",
            "truncate -s 0 file",
            "setfattr -n user.a -v b file",
            "dd if=/dev/zero of=file conv=notrunc count=1 status=none",
            "cp file new",
            "fallocate -l 9 file",
        ] {
            let output =
                Command::new("bash").args(["-c", command]).env("LC_ALL", "C").current_dir(&mount).output();
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains("Read-only file system"), "{command}: {said}");
        }
        assert_eq!(fs::read(mount.join("file")).unwrap(), b"content");
    }
    assert_eq!(shell(&test.origin("onprem"), LISTING), before);
}

#[test]
fn a_hundred_thousand_entries_are_listed() {
    if !can_mount("a_hundred_thousand_entries_are_listed") {
        return;
    }
    const COUNT: usize = 100_000;
    let mut test = Setup::default().start(|origin| {
        fs::create_dir(origin.join("many")).unwrap();
        for n in 0..COUNT {
            fs::write(origin.join(format!("many/entry-{n}")), &b"abcdefg"[..n % 8]).unwrap();
        }
    });
    let mount = test.mount("node-1", "cloud");
    let sizes = |dir: PathBuf| -> BTreeMap<OsString, u64> {
        let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect()
    };
    let listed = sizes(mount.join("many"));
    assert_eq!(listed.len(), COUNT);
    assert!(listed == sizes(test.origin("onprem").join("many")));
    same([&test.origin("onprem"), &mount], LISTING);
    let count = fs::read_dir(mount.join("many")).unwrap().count();
    assert_eq!(count, COUNT, "no entry comes twice");
}
