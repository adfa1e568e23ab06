//! Locks that the nodes of a site hold against each other: of ranges of bytes (`fcntl`) and of whole files (`flock`).
//!
//! A mount has a *session* with its site's daemon, and its locks live as long as that. It numbers what it asks for: after an
//! answer that was lost it says what it holds, and nothing that it asked for before counts any more.
//!
//! *Invariant:* what is decoded is within the limits; a range has at least one byte.

use crate::attr::FileId;
use crate::codec::{DecodeError, Reader, Writer};
use crate::limits::MAX_LOCKS_PER_OWNER;

/// The number that a mount has chosen for its session, other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockSession(pub u64);

/// Who holds locks in a mount: a process or an open file, by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockOwner(pub u64);

/// Two kinds that do not hinder each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LockKind {
    /// `fcntl(2)`: an owner's locks join and divide.
    Ranges = 0,
    /// `flock(2)`: of the whole file.
    Whole = 1,
}

/// Whom a lock keeps out. The stronger one is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LockMode {
    /// Those who want it for themselves.
    Shared = 0,
    /// Everybody.
    Exclusive = 1,
}

/// Bytes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockRange {
    first: u64,
    last: u64,
}

impl LockRange {
    /// All bytes of a file.
    pub const WHOLE: Self = Self { first: 0, last: u64::MAX };

    /// `None` for a range that ends before it begins.
    pub fn new(first: u64, last: u64) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The first byte.
    pub fn first(self) -> u64 {
        self.first
    }

    /// The last byte.
    pub fn last(self) -> u64 {
        self.last
    }

    /// Whether both have a byte.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A lock, held or wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lock {
    /// Of which bytes.
    pub range: LockRange,
    /// Against whom.
    pub mode: LockMode,
}

/// What one owner wants of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRequest {
    /// The mount's session.
    pub session: LockSession,
    /// Grows with each request of the session.
    pub number: u64,
    /// The file.
    pub file: FileId,
    /// Which kind of locks.
    pub kind: LockKind,
    /// The owner.
    pub owner: LockOwner,
    /// The process that asks, to be told to others on its node.
    pub pid: u32,
    /// What it wants.
    pub action: LockAction,
}

/// What becomes of an owner's locks on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockAction {
    /// Nothing: would it be granted?
    Test(Lock),
    /// It is to have one more, instead of those that it has on the same bytes.
    Set {
        /// The lock.
        lock: Lock,
        /// Whether to wait for others.
        waits: bool,
    },
    /// It gives up what it has there.
    Unlock(LockRange),
    /// These are all that it has, and what was asked for before with a lower number is not wanted any more. At most
    /// [`MAX_LOCKS_PER_OWNER`].
    Hold(Vec<Lock>),
}

/// A mount says that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepLocks {
    /// Its session.
    pub session: LockSession,
    /// What is to become of that.
    pub tenure: Tenure,
}

/// What is to become of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tenure {
    /// It goes on.
    Goes = 0,
    /// It begins.
    Begins = 1,
    /// The daemon was restarted, and has been told of all locks again.
    Claimed = 2,
    /// It ends, and so do its locks.
    Ends = 3,
}

/// The answer to [`LockRequest`] and [`KeepLocks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It is done; a test found nobody.
    Done,
    /// Somebody else has this lock; its process, if it is on the same node, else 0.
    Conflict(Lock, u32),
    /// Not yet: ask again. To a session that goes on: say what you hold, for the daemon was restarted.
    Again,
    /// The session is not known, or has lost what was said to be held.
    Lost,
}

impl LockRequest {
    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        w.u64(self.session.0).u64(self.number).u64(self.file.origin).u64(self.file.inode);
        w.u8(self.kind as u8).u64(self.owner.0).u32(self.pid);
        match &self.action {
            LockAction::Test(lock) => lock.encode(w.u8(0)),
            LockAction::Set { lock, waits } => lock.encode(w.u8(1)).u8((*waits).into()),
            LockAction::Unlock(range) => range.encode(w.u8(2)),
            LockAction::Hold(locks) => {
                w.u8(3).u32(u32::try_from(locks.len()).expect("locks fit a frame"));
                locks.iter().fold(w, |w, lock| lock.encode(w))
            }
        }
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            session: decode_session(r)?,
            number: r.u64()?,
            file: FileId { origin: r.u64()?, inode: r.u64()? },
            kind: match r.u8()? {
                0 => LockKind::Ranges,
                1 => LockKind::Whole,
                other => return Err(DecodeError::Unknown("kind of lock", other)),
            },
            owner: LockOwner(r.u64()?),
            pid: r.u32()?,
            action: LockAction::decode(r)?,
        })
    }
}

impl LockAction {
    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            0 => Self::Test(Lock::decode(r)?),
            1 => Self::Set { lock: Lock::decode(r)?, waits: decode_bool(r)? },
            2 => Self::Unlock(LockRange::decode(r)?),
            3 => {
                let count = r.u32()? as usize;
                if count > MAX_LOCKS_PER_OWNER {
                    return Err(DecodeError::OutOfRange("the number of locks"));
                }
                Self::Hold((0..count).map(|_| Lock::decode(r)).collect::<Result<_, _>>()?)
            }
            other => return Err(DecodeError::Unknown("thing to do with locks", other)),
        })
    }
}

impl LockRange {
    fn encode(self, w: &mut Writer) -> &mut Writer {
        w.u64(self.first).u64(self.last)
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Self::new(r.u64()?, r.u64()?).ok_or(DecodeError::OutOfRange("a range of bytes"))
    }
}

impl Lock {
    fn encode(self, w: &mut Writer) -> &mut Writer {
        self.range.encode(w).u8(self.mode as u8)
    }

    fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let range = LockRange::decode(r)?;
        let mode = if decode_bool(r)? { LockMode::Exclusive } else { LockMode::Shared };
        Ok(Self { range, mode })
    }
}

impl KeepLocks {
    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        w.u64(self.session.0).u8(self.tenure as u8)
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        let session = decode_session(r)?;
        let tenure = match r.u8()? {
            0 => Tenure::Goes,
            1 => Tenure::Begins,
            2 => Tenure::Claimed,
            3 => Tenure::Ends,
            other => return Err(DecodeError::Unknown("tenure", other)),
        };
        Ok(Self { session, tenure })
    }
}

impl Locked {
    pub(crate) fn encode<'w>(&self, w: &'w mut Writer) -> &'w mut Writer {
        match self {
            Self::Done => w.u8(0),
            Self::Conflict(lock, pid) => lock.encode(w.u8(1)).u32(*pid),
            Self::Again => w.u8(2),
            Self::Lost => w.u8(3),
        }
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match r.u8()? {
            0 => Self::Done,
            1 => Self::Conflict(Lock::decode(r)?, r.u32()?),
            2 => Self::Again,
            3 => Self::Lost,
            other => return Err(DecodeError::Unknown("outcome of a lock", other)),
        })
    }
}

fn decode_session(r: &mut Reader) -> Result<LockSession, DecodeError> {
    match r.u64()? {
        0 => Err(DecodeError::OutOfRange("a session")),
        number => Ok(LockSession(number)),
    }
}

fn decode_bool(r: &mut Reader) -> Result<bool, DecodeError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Unknown("yes or no", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Request, RequestHeader, Response};

    fn request(action: LockAction) -> Request {
        Request::Lock(LockRequest {
            session: LockSession(1),
            number: 2,
            file: FileId { origin: 3, inode: 4 },
            kind: LockKind::Whole,
            owner: LockOwner(5),
            pid: 6,
            action,
        })
    }

    fn lock() -> Lock {
        Lock { range: LockRange::new(7, 8).unwrap(), mode: LockMode::Exclusive }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The bytes below are the protocol, as in `message_tests.rs`.
    #[test]
    fn requests_have_their_frozen_form() {
        let check = |request: Request, golden: &str| {
            let frame = request.encode(RequestHeader { deadline_ms: 1 });
            assert_eq!(hex(&frame), format!("01000000{golden}"));
            assert_eq!(Request::decode(frame).unwrap().1, request);
        };
        let head = "150100000000000000020000000000000003000000000000000400000000000000\
                    01050000000000000006000000";
        let lock_hex = "0700000000000000080000000000000001";
        let with = |action, golden: String| check(request(action), &format!("{head}{golden}"));
        with(LockAction::Test(lock()), format!("00{lock_hex}"));
        with(LockAction::Set { lock: lock(), waits: true }, format!("01{lock_hex}01"));
        with(LockAction::Unlock(lock().range), format!("02{}", &lock_hex[..32]));
        with(LockAction::Hold(vec![lock()]), format!("0301000000{lock_hex}"));
        for (number, tenure) in
            [Tenure::Goes, Tenure::Begins, Tenure::Claimed, Tenure::Ends].into_iter().enumerate()
        {
            let keep = KeepLocks { session: LockSession(1), tenure };
            check(Request::KeepLocks(keep), &format!("160100000000000000{number:02x}"));
        }
    }

    #[test]
    fn responses_have_their_frozen_form() {
        let check = |locked: Locked, golden: &str| {
            let response = Response::Locked(locked);
            assert_eq!(hex(&response.encode()), golden);
            assert_eq!(Response::decode(response.encode()).unwrap(), response);
        };
        check(Locked::Done, "0f00");
        check(
            Locked::Conflict(lock(), 9),
            "0f0107000000000000000800000000000000\
             0109000000",
        );
        check(Locked::Again, "0f02");
        check(Locked::Lost, "0f03");
    }

    #[test]
    fn what_no_peer_may_send_is_refused() {
        let refused = |request: Request| {
            assert!(Request::decode(request.encode(RequestHeader { deadline_ms: 1 })).is_err());
        };
        refused(request(LockAction::Hold(vec![lock(); MAX_LOCKS_PER_OWNER + 1])));
        refused(request(LockAction::Unlock(LockRange { first: 1, last: 0 })));
        refused(Request::KeepLocks(KeepLocks { session: LockSession(0), tenure: Tenure::Goes }));
    }
}
