//! Locks between the nodes of a site: `fcntl`, `flock`, and a database that depends on them.

use super::{mount_with, within};
use crate::common::{Setup, TestCluster, can_mount, shell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Takes locks as its first argument says, and tells on its standard output what comes of it.
const LOCKER: &str = "import errno, fcntl, os, signal, struct, sys, time
how, path = sys.argv[1], sys.argv[2]
f = os.open(path, os.O_RDWR | os.O_CREAT)
def say(*words): print(*words, flush=True)
def attempt(work):
    try: work(); return 'ok'
    except OSError as error: return errno.errorcode[error.errno]
take = lambda kind, *where: attempt(lambda: fcntl.lockf(f, kind, *where))
if how == 'hold': say(take(fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)); time.sleep(600)
if how == 'flock': say(attempt(lambda: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB))); time.sleep(600)
if how == 'look':
    say(take(fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 5), take(fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 14))
    say(take(fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0), take(fcntl.LOCK_SH | fcntl.LOCK_NB, 5, 15))
    asked = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, start, length, pid = struct.unpack('hhqqi4x', fcntl.fcntl(f, fcntl.F_GETLK, asked))
    say(kind == fcntl.F_WRLCK, start, length, pid)
    say(attempt(lambda: fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)))
if how == 'wait': say('begins'); say(take(fcntl.LOCK_EX, 10, 5))
if how == 'alarm':
    class Woken(Exception): pass
    def wake(*_): raise Woken
    signal.signal(signal.SIGALRM, wake); signal.setitimer(signal.ITIMER_REAL, 1)
    try: fcntl.lockf(f, fcntl.LOCK_EX); say('got it')
    except Woken: say('woken')
";

struct Mounted {
    test: TestCluster,
    one: PathBuf,
    two: PathBuf,
}

impl Mounted {
    fn start() -> Self {
        let mut test = Setup::default().start(|origin| fs::write(origin.join("f"), "content").unwrap());
        let one = mount_with(&mut test, "node-1", "onprem", "", &["-o", "rw"]);
        let two = mount_with(&mut test, "node-2", "onprem", "", &["-o", "rw"]);
        fs::write(test.scratch.path().join("locker.py"), LOCKER).unwrap();
        Self { test, one, two }
    }

    fn run(&self, mount: &Path, how: &str) -> String {
        shell(mount, &format!("timeout 60 python3 {} {how} f", self.script()))
    }

    fn begin(&self, mount: &Path, how: &str) -> Process {
        let script = self.script();
        let mut command = Command::new("python3");
        command.args([script.as_str(), how, "f"]).current_dir(mount).stdout(Stdio::piped());
        Process(command.spawn().unwrap())
    }

    fn script(&self) -> String {
        self.test.scratch.path().join("locker.py").display().to_string()
    }
}

struct Process(Child);

impl Process {
    /// Its next line.
    fn says(&mut self) -> String {
        use std::io::Read;
        let (mut line, mut byte) = (Vec::new(), [0]);
        let stdout = self.0.stdout.as_mut().unwrap();
        while stdout.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Holds promise 23 of docs/semantics.md.
#[test]
fn nodes_of_a_site_see_each_others_locks() {
    if !can_mount("nodes_of_a_site_see_each_others_locks") {
        return;
    }
    let mounted = Mounted::start();
    // Bytes 5 to 14 of one mount; those of another process of the same node count as well.
    let mut holder = mounted.begin(&mounted.one, "hold");
    assert_eq!(holder.says(), "ok");
    let seen = mounted.run(&mounted.two, "look");
    let pid = holder.0.id();
    assert_eq!(seen, "EAGAIN EAGAIN\nok ok\nTrue 5 10 0\nok\n");
    let near = mounted.run(&mounted.one, "look");
    assert_eq!(near, format!("EAGAIN EAGAIN\nok ok\nTrue 5 10 {pid}\nok\n"));
    let mut waiter = mounted.begin(&mounted.two, "wait");
    assert_eq!(waiter.says(), "begins");
    std::thread::sleep(Duration::from_secs(1));
    assert!(waiter.0.try_wait().unwrap().is_none(), "it waits");
    // A holder that is killed gives its locks away.
    let begun = Instant::now();
    holder.kill();
    assert_eq!(waiter.says(), "ok");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let mut whole = mounted.begin(&mounted.one, "flock");
    assert_eq!(whole.says(), "ok");
    assert!(mounted.run(&mounted.two, "look").ends_with("EAGAIN\n"), "flock is seen, too");
}

/// Holds promise 23 of docs/semantics.md.
#[test]
fn who_waits_for_a_lock_can_be_interrupted_and_killed() {
    if !can_mount("who_waits_for_a_lock_can_be_interrupted_and_killed") {
        return;
    }
    let mounted = Mounted::start();
    let mut holder = mounted.begin(&mounted.one, "hold");
    assert_eq!(holder.says(), "ok");
    for mount in [&mounted.one, &mounted.two] {
        assert_eq!(mounted.run(mount, "alarm"), "woken\n");
        let mut waiter = mounted.begin(mount, "wait");
        assert_eq!(waiter.says(), "begins");
        std::thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        waiter.kill();
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

/// Holds promise 23 of docs/semantics.md.
#[test]
fn a_restart_of_the_daemon_costs_no_lock_and_a_dead_mount_loses_its_own() {
    if !can_mount("a_restart_of_the_daemon_costs_no_lock_and_a_dead_mount_loses_its_own") {
        return;
    }
    let mut mounted = Mounted::start();
    let mut holder = mounted.begin(&mounted.one, "hold");
    assert_eq!(holder.says(), "ok");
    mounted.test.cluster.kill("onprem").unwrap();
    mounted.test.cluster.start_site("onprem").unwrap();
    let seen = mounted.run(&mounted.two, "look");
    assert_eq!(seen, "EAGAIN EAGAIN\nok ok\nTrue 5 10 0\nok\n");
    let mut waiter = mounted.begin(&mounted.two, "wait");
    assert_eq!(waiter.says(), "begins");
    mounted.test.cluster.kill("node-1").unwrap();
    let begun = Instant::now();
    assert_eq!(waiter.says(), "ok");
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
}

/// Holds promise 23 of docs/semantics.md.
#[test]
fn databases_of_two_nodes_count_exactly() {
    if !can_mount("databases_of_two_nodes_count_exactly") {
        return;
    }
    let mounted = Mounted::start();
    let program = "import sqlite3, sys
db = sqlite3.connect('d.db', timeout=60, isolation_level=None)
for n in range(int(sys.argv[1])):
    db.execute('begin immediate')
    db.execute('update t set n = n + 1')
    db.execute('insert into log values (?, ?)', (sys.argv[2], n))
    db.execute('commit')
";
    let script = mounted.test.scratch.path().join("count.py");
    fs::write(&script, program).unwrap();
    let make = "python3 -c \"import sqlite3; db = sqlite3.connect('d.db')
db.execute('create table t (n integer)'); db.execute('create table log (who text, n integer)')
db.execute('insert into t values (0)'); db.commit()\"";
    shell(&mounted.one, make);
    let begun = Instant::now();
    let run = |mount: &Path, who: &str| {
        let mut command = Command::new("python3");
        command.args([script.to_str().unwrap(), "50", who]).current_dir(mount);
        command.spawn().unwrap()
    };
    let all = [(&mounted.one, "a"), (&mounted.two, "b"), (&mounted.one, "c"), (&mounted.two, "d")];
    let children: Vec<_> = all.iter().map(|(mount, who)| run(mount, who)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    eprintln!("200 transactions from two nodes: {:?}", begun.elapsed());
    let read = "python3 -c \"import sqlite3; db = sqlite3.connect('d.db')
print(db.execute('select n, (select count(*) from log) from t').fetchone(), db.execute('pragma integrity_check').fetchone())\"";
    for mount in [&mounted.one, &mounted.two] {
        assert_eq!(shell(mount, read), "(200, 200) ('ok',)\n");
    }
    within(Duration::from_secs(5), || {
        let there = shell(&mounted.test.origin("onprem"), read);
        if there == "(200, 200) ('ok',)\n" { Ok(()) } else { Err(there) }
    });
}
