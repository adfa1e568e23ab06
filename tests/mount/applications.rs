//! Programs that depend on what a file system promises, on a mount of their directory's home and on one of the site that
//! holds it: git, SQLite, cargo, rsync, tar. What they leave is the same at home.

use super::mount_with;
use super::writes::{Place, Written, start_at};
use crate::common::{can_mount, shell};
use std::fs;
use std::path::Path;

/// What a program may take. It takes seconds; the machine may be busy.
const LIMIT_S: u32 = 120;

const GIT: &str = "export HOME=$PWD; git config --global user.email a@b; git config --global user.name c
git init -q -b main r; cd r; for n in $(seq 60); do seq $((n * 100)) > f$n; done; git add .; git commit -qm one
for n in $(seq 20); do echo $n >> f$n; git commit -qam $n; done; git mv f2 g2; git commit -qam moved
git checkout -qb side HEAD~5; echo side > side; git add side; git commit -qm side; git merge -q -m both main
git gc -q; git fsck --strict 2>&1; git status --short
cd ..; git clone -q r local; git clone -q --no-local r copy; cd copy; git log --oneline | wc -l
echo more > more; git add more; git commit -qm more; git push -q origin HEAD:pushed; git fsck --strict 2>&1
cd ../r; git log --oneline pushed | wc -l; git repack -adq; git worktree add -q ../tree pushed; cat ../tree/more";

/// Two writers, each of which reads what it wrote last before it writes on.
const SQLITE: &str = "import os, sqlite3, sys
mode, places, rows = sys.argv[1], sys.argv[2:4], 60
def connect(place): return sqlite3.connect(place + '/' + mode, timeout=60, isolation_level=None)
def write(place, writer):
    db = connect(place)
    for n in range(rows):
        db.execute('begin immediate')
        last = db.execute('select coalesce(max(n), -1) from t where writer = ?', (writer,)).fetchone()[0]
        assert last == n - 1, (writer, n, last)
        db.execute('insert into t values (?, ?, ?)', (writer, n, os.urandom(n * 79 % 5000)))
        db.execute('commit')
    db.close()
db = connect(places[0])
assert db.execute('pragma journal_mode=' + mode).fetchone()[0] == mode.lower()
db.execute('create table t (writer integer, n integer, content blob)'); db.close()
for writer, place in enumerate(places):
    if os.fork() == 0:
        write(place, writer); os._exit(0)
assert [os.wait()[1] for _ in places] == [0, 0]
db = connect(places[1])
assert db.execute('pragma integrity_check').fetchone()[0] == 'ok'
print(mode, db.execute('select count(*) from t').fetchone()[0])
";

const CARGO: &str = "unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR RUSTFLAGS; mkdir -p tiny/src; cd tiny
printf '[package]\\nname = \"tiny\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n[workspace]\\n' > Cargo.toml
printf 'fn main() { println!(\"cargo::rustc-env=ANSWER=40\"); }' > build.rs
echo 'pub fn answer() -> u32 { env!(\"ANSWER\").parse::<u32>().unwrap() + 2 }' > src/lib.rs
echo 'fn main() { println!(\"{}\", tiny::answer()); }' > src/main.rs
cargo build -q --offline; target/debug/tiny; cargo build --offline 2>&1 | grep -c Compiling || true
sed -i 's/+ 2/+ 3/' src/lib.rs; cargo build -q --offline; target/debug/tiny
cargo clean -q; test ! -e target; cargo run -q --offline";

/// Everything that an archive can carry.
const MAKE_TREE: &str = "mkdir -p a/b/c a/empty; cd a; seq 30000 > numbers; seq 10 > 'a name with spaces'; echo x > b/é
for n in $(seq 50); do head -c $((n * 313)) /dev/urandom > b/c/$n; done; ln numbers b/again; ln numbers b/c/third
ln -s numbers link; ln -s /nowhere/at/all b/dangling; mkfifo b/fifo; mknod b/null c 1 3
truncate -s 5M sparse; printf end | dd of=sparse bs=1 seek=3000000 conv=notrunc status=none
chmod 4755 b/c/1; chmod 0 b/c/2; chmod 2770 b; chown 1234:2345 b/c/3 b/c; chown -h 7:8 link
setfattr -n user.colour -v blue numbers; setfattr -n trusted.kept -v yes b/c; setfattr -n user.empty b/c/5
python3 -c \"import os, struct
entries = [(1, 6, -1), (2, 4, 1234), (4, 4, -1), (16, 6, -1), (32, 0, -1)]
acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHi', *entry) for entry in entries)
os.setxattr('b/c/6', 'system.posix_acl_access', acl); os.setxattr('b/c', 'system.posix_acl_default', acl)\"
touch -d '2001-02-03 04:05:06.123456789' numbers b/c/7; touch -h -d @1000000000.5 link; touch -d @1 b/c empty .";

/// Prints nothing if the second tree is the first, with owners, modes, times, names of one file, attributes and lists.
const DIFFERS: &str = "rsync -aHAXnic --delete --numeric-ids";

const TAR: &str = "tar --xattrs --xattrs-include='*' --acls --numeric-owner";

fn bounded(directory: &Path, script: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("set -euo pipefail\n{script}\n")).unwrap();
    shell(directory, &format!("timeout -k 5 {LIMIT_S} bash {}", file.path().display()))
}

fn at_both(test: &str, work: impl Fn(&mut Written)) {
    if !can_mount(test) {
        return;
    }
    for place in [Place::Home, Place::Held] {
        let mut written = start_at(place);
        work(&mut written);
        written.same();
    }
}

#[test]
fn git_works() {
    at_both("git_works", |written| {
        let said = bounded(&written.mount, GIT);
        assert_eq!(said, "24\n25\nmore\n");
    });
}

#[test]
fn sqlite_works_with_two_writers() {
    at_both("sqlite_works_with_two_writers", |written| {
        let program = written.test.scratch.path().join("sqlite.py");
        fs::write(&program, SQLITE).unwrap();
        let site = if written.place == Place::Home { "onprem" } else { "cloud" };
        let mount = written.mount.clone();
        let run = |mode: &str, second: &Path| {
            let script =
                format!("python3 {} {mode} {} {}", program.display(), mount.display(), second.display());
            assert_eq!(bounded(&mount, &script), format!("{mode} 120\n"));
        };
        ["WAL", "DELETE", "PERSIST"].iter().for_each(|mode| run(mode, &mount));
        // Its log is shared in memory, so only rollback works on two nodes, as SQLite says.
        let neighbour = mount_with(&mut written.test, "node-2", site, "", &["-o", "rw,allow_other"]);
        run("TRUNCATE", &neighbour.join(written.directory));
    });
}

#[test]
fn cargo_builds() {
    at_both("cargo_builds", |written| assert_eq!(bounded(&written.mount, CARGO), "42\n0\n43\n43\n"));
}

/// Holds promise 18 of docs/semantics.md.
#[test]
fn rsync_and_tar_carry_all_there_and_back() {
    at_both("rsync_and_tar_carry_all_there_and_back", |written| {
        let local = written.test.scratch.path().join("local");
        fs::create_dir(&local).unwrap();
        bounded(&local, MAKE_TREE);
        let (here, there) = (local.display(), written.mount.display());
        let script = format!(
            "rsync -aHAXS --numeric-ids {here}/a/ {there}/r; {DIFFERS} {here}/a/ {there}/r/
             rsync -aHAXS --numeric-ids {there}/r/ {here}/r; {DIFFERS} {here}/a/ {here}/r/
             {TAR} -C {here}/a -cf {there}/in.tar .; mkdir {there}/t; {TAR} -C {there}/t -xpf {there}/in.tar
             {DIFFERS} {here}/a/ {there}/t/; {TAR} -C {there}/t -cf {here}/out.tar .
             mkdir {here}/t; {TAR} -C {here}/t -xpf {here}/out.tar; {DIFFERS} {here}/a/ {here}/t/"
        );
        assert_eq!(bounded(&written.mount, &script), "");
        written.same();
        let home = written.test.origin("onprem").join(written.directory);
        let script = format!("for tree in r t; do {DIFFERS} {here}/a/ {}/$tree/; done", home.display());
        assert_eq!(bounded(&local, &script), "");
    });
}
