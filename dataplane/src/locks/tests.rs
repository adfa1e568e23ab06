//! Both sides together: mounts of several nodes, a daemon that dies, a network that loses answers.

use super::*;
use crate::model::locks::LockPlace;
use globalfs_proto::{FileId, FsError, FsResult, Lock, LockKind, LockMode, LockOwner, LockRange, NodeName};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A daemon that can be restarted, and the way to it.
struct Daemon {
    dir: TempDir,
    keeper: Mutex<LockKeeper>,
    is_down: AtomicBool,
    /// What is asked is done, and the answer lost.
    loses_answers: AtomicBool,
}

struct Way(Arc<Daemon>, NodeName);

impl Daemon {
    fn start() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Mutex::new(LockKeeper::open(dir.path()).unwrap());
        let (is_down, loses_answers) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { dir, keeper, is_down, loses_answers })
    }

    fn restart(&self) {
        *self.keeper.lock() = LockKeeper::open(self.dir.path()).unwrap();
    }

    fn mount(self: &Arc<Self>, node: &str) -> HeldLocks {
        HeldLocks::new(Arc::new(Way(self.clone(), NodeName::new(node).unwrap())))
    }

    fn counts(&self) -> (usize, usize) {
        self.keeper.lock().counts()
    }

    fn pass(&self) -> FsResult<LockKeeper> {
        match self.is_down.load(Ordering::Relaxed) {
            true => Err(FsError::Unreachable("down".to_owned())),
            false => Ok(self.keeper.lock().clone()),
        }
    }

    fn back<T>(&self, answer: T) -> FsResult<T> {
        match self.loses_answers.load(Ordering::Relaxed) {
            true => Err(FsError::Unreachable("lost".to_owned())),
            false => Ok(answer),
        }
    }
}

#[async_trait]
impl LockService for Way {
    async fn lock(&self, request: LockRequest, deadline: Deadline) -> FsResult<Locked> {
        let keeper = self.0.pass()?;
        let answer = keeper.ask(&self.1, request, deadline).await;
        self.0.back(answer)?
    }

    async fn keep(&self, keep: KeepLocks, _deadline: Deadline) -> FsResult<Locked> {
        let keeper = self.0.pass()?;
        let answer = keeper.keep(&self.1, keep).await;
        self.0.back(answer)?
    }
}

const FILE: FileId = FileId { origin: 1, inode: 2 };
const LIMIT: Duration = Duration::from_secs(30);
const HELD: FsError = FsError::Os(11);
const LOST: FsError = FsError::Os(5);

fn asked(owner: u64) -> Asked {
    let place = LockPlace { file: FILE, kind: LockKind::Ranges };
    Asked { place, owner: LockOwner(owner), pid: owner as u32 }
}

fn lock(first: u64, last: u64, mode: LockMode) -> Lock {
    Lock { range: LockRange::new(first, last).unwrap(), mode }
}

fn all() -> Lock {
    lock(0, u64::MAX, LockMode::Exclusive)
}

async fn set(held: &HeldLocks, owner: u64, lock: Lock, waits: bool) -> FsResult<()> {
    held.set(asked(owner), lock, waits, LIMIT, std::future::pending()).await
}

async fn unlock(held: &HeldLocks, owner: u64) {
    held.unlock(asked(owner), LockRange::WHOLE, Deadline::after(LIMIT)).await.unwrap();
}

async fn check(held: &HeldLocks) -> FsResult<()> {
    held.check(FILE, Deadline::after(LIMIT)).await
}

#[tokio::test(start_paused = true)]
async fn one_holds_and_another_waits_its_turn() {
    let daemon = Daemon::start();
    let (one, other) = (daemon.mount("one"), daemon.mount("other"));
    set(&one, 1, all(), false).await.unwrap();
    assert_eq!(set(&other, 1, lock(5, 5, LockMode::Shared), false).await, Err(HELD));
    let found = other.test(asked(1), all(), Deadline::after(LIMIT)).await.unwrap();
    assert_eq!(found, Some((all(), 0)), "a process of another node has no number here");
    assert_eq!(one.test(asked(9), all(), Deadline::after(LIMIT)).await.unwrap(), Some((all(), 1)));
    let waiter = tokio::spawn({
        let other = other.clone();
        async move { set(&other, 1, all(), true).await }
    });
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!waiter.is_finished() && daemon.counts().0 == 1, "it asks again and again");
    unlock(&one, 1).await;
    waiter.await.unwrap().unwrap();
    assert_eq!(set(&one, 1, all(), false).await, Err(HELD));
    other.end().await;
    set(&one, 1, all(), false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_interrupted_has_nothing_more_than_before() {
    let daemon = Daemon::start();
    let (one, other) = (daemon.mount("one"), daemon.mount("other"));
    set(&one, 1, lock(0, 0, LockMode::Exclusive), false).await.unwrap();
    set(&other, 1, lock(1, 1, LockMode::Shared), false).await.unwrap();
    let interrupted = tokio::time::sleep(Duration::from_secs(50));
    let outcome = other.set(asked(1), all(), true, LIMIT, interrupted).await;
    assert_eq!(outcome, Err(FsError::Os(4)));
    assert_eq!(daemon.counts(), (2, 0));
    unlock(&one, 1).await;
    assert_eq!(daemon.counts(), (1, 0), "it does not get what it does not want any more");
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_is_gone_loses_its_locks_and_not_before_the_term() {
    let daemon = Daemon::start();
    let (one, other) = (daemon.mount("one"), daemon.mount("other"));
    set(&one, 1, all(), false).await.unwrap();
    drop(one);
    let begun = tokio::time::Instant::now();
    set(&other, 1, all(), true).await.unwrap();
    let waited = begun.elapsed();
    assert!(waited >= TERM - RENEWAL && waited < TERM + LONGEST_WAIT + RENEWAL, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_short_break_of_the_network_costs_no_lock_and_a_long_one_fails_loudly() {
    let daemon = Daemon::start();
    let (one, other) = (daemon.mount("one"), daemon.mount("other"));
    set(&one, 1, all(), false).await.unwrap();
    daemon.is_down.store(true, Ordering::Relaxed);
    tokio::time::sleep(TERM / 2).await;
    daemon.is_down.store(false, Ordering::Relaxed);
    tokio::time::sleep(RENEWAL).await;
    assert_eq!(check(&one).await, Ok(()));
    assert_eq!(set(&other, 1, all(), false).await, Err(HELD));
    daemon.is_down.store(true, Ordering::Relaxed);
    tokio::time::sleep(TERM + RENEWAL).await;
    assert!(check(&one).await.is_err(), "nobody knows");
    daemon.is_down.store(false, Ordering::Relaxed);
    set(&other, 1, all(), true).await.unwrap();
    assert_eq!(check(&one).await, Err(LOST));
    assert_eq!(set(&one, 1, all(), true).await, Err(LOST), "as long as it believes to have it");
    unlock(&one, 1).await;
    assert_eq!(check(&one).await, Ok(()));
    assert_eq!(set(&one, 1, all(), false).await, Err(HELD));
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_the_daemon_all_have_what_they_had() {
    let daemon = Daemon::start();
    let (one, other) = (daemon.mount("one"), daemon.mount("other"));
    set(&one, 1, lock(0, 9, LockMode::Exclusive), false).await.unwrap();
    set(&one, 2, lock(20, 29, LockMode::Shared), false).await.unwrap();
    set(&other, 1, lock(10, 19, LockMode::Exclusive), false).await.unwrap();
    unlock(&other, 1).await;
    daemon.restart();
    let begun = tokio::time::Instant::now();
    assert_eq!(set(&other, 1, lock(5, 5, LockMode::Exclusive), false).await, Err(HELD));
    assert!(begun.elapsed() < GRACE / 2, "as soon as all have claimed: {:?}", begun.elapsed());
    set(&other, 1, lock(25, 25, LockMode::Shared), false).await.unwrap();
    assert_eq!(daemon.counts(), (3, 0));
    assert_eq!(check(&one).await, Ok(()));
    unlock(&one, 1).await;
    set(&other, 1, lock(0, 19, LockMode::Exclusive), false).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_does_not_come_back_after_a_restart_is_not_waited_for_longer_than_the_grace() {
    let daemon = Daemon::start();
    let (one, other) = (daemon.mount("one"), daemon.mount("other"));
    set(&one, 1, all(), false).await.unwrap();
    drop(one);
    daemon.restart();
    let begun = tokio::time::Instant::now();
    set(&other, 1, all(), true).await.unwrap();
    assert!(begun.elapsed() < GRACE + RENEWAL, "{:?}", begun.elapsed());
    daemon.restart();
    let begun = tokio::time::Instant::now();
    set(&other, 2, lock(0, 0, LockMode::Exclusive), false).await.unwrap_err();
    assert!(begun.elapsed() < GRACE / 2, "its record is gone: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_leaves_no_lock_behind() {
    let daemon = Daemon::start();
    let (one, other) = (daemon.mount("one"), daemon.mount("other"));
    set(&one, 1, lock(0, 0, LockMode::Shared), false).await.unwrap();
    daemon.loses_answers.store(true, Ordering::Relaxed);
    let limit = Duration::from_secs(2);
    let outcome = one.set(asked(1), all(), false, limit, std::future::pending()).await;
    assert!(matches!(outcome, Err(FsError::Unreachable(_) | FsError::Deadline)), "{outcome:?}");
    daemon.loses_answers.store(false, Ordering::Relaxed);
    tokio::time::sleep(RENEWAL * 2).await;
    assert_eq!(set(&other, 1, lock(1, 9, LockMode::Exclusive), false).await, Ok(()));
    assert_eq!(set(&other, 1, lock(0, 9, LockMode::Exclusive), false).await, Err(HELD));
    daemon.loses_answers.store(true, Ordering::Relaxed);
    unlock(&one, 1).await;
    daemon.loses_answers.store(false, Ordering::Relaxed);
    tokio::time::sleep(RENEWAL * 2).await;
    assert_eq!(set(&other, 1, lock(0, 9, LockMode::Exclusive), false).await, Ok(()));
}
