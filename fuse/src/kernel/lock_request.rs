//! From the kernel's bytes to a request about locks, and to what it asks to be forgotten. As in `request.rs`, nothing is
//! guessed.

use crate::kernel::abi::{self, lock_flag, lock_type, opcode, release_flag};
use crate::kernel::request::Body;
use globalfs_proto::{Lock, LockKind, LockMode, LockOwner, LockRange};

/// What is wanted of locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockRequest {
    /// Who is in the way of `lock`?
    Test {
        kind: LockKind,
        owner: LockOwner,
        pid: u32,
        lock: Lock,
    },
    Set {
        kind: LockKind,
        owner: LockOwner,
        pid: u32,
        lock: Lock,
        waits: bool,
    },
    Unlock {
        kind: LockKind,
        owner: LockOwner,
        pid: u32,
        range: LockRange,
    },
    /// A handle is closed, or one of its copies: `owner` has no locks of ranges any more.
    Flush {
        handle: u64,
        owner: LockOwner,
    },
    /// Who waits for the answer to `unique` does not want to any more.
    Interrupt {
        unique: u64,
    },
}

/// `None` for what is not about locks.
pub(crate) fn parse(opcode: u32, body: Body<'_>) -> Result<Option<LockRequest>, &'static str> {
    Ok(Some(match opcode {
        opcode::GETLK => lock(body, Way::Test)?,
        opcode::SETLK => lock(body, Way::Set { waits: false })?,
        opcode::SETLKW => lock(body, Way::Set { waits: true })?,
        opcode::FLUSH => {
            let flush = body.argument::<abi::FlushIn>()?.0;
            LockRequest::Flush { handle: flush.handle, owner: LockOwner(flush.lock_owner) }
        }
        opcode::INTERRUPT => LockRequest::Interrupt { unique: body.argument::<abi::InterruptIn>()?.0.unique },
        _ => return Ok(None),
    }))
}

/// The owner of the lock of the whole file that goes with the last close.
pub(crate) fn released(release: &abi::ReleaseIn) -> Option<LockOwner> {
    let unlocks = release.release_flags & release_flag::FLOCK_UNLOCK != 0;
    unlocks.then_some(LockOwner(release.lock_owner))
}

#[derive(Clone, Copy)]
enum Way {
    Test,
    Set { waits: bool },
}

fn lock(body: Body<'_>, way: Way) -> Result<LockRequest, &'static str> {
    let abi::LockIn { owner, lock, lock_flags, .. } = body.argument::<abi::LockIn>()?.0;
    let owner = LockOwner(owner);
    let kind = if lock_flags & lock_flag::FLOCK != 0 { LockKind::Whole } else { LockKind::Ranges };
    let range = match kind {
        LockKind::Whole => LockRange::WHOLE,
        LockKind::Ranges => LockRange::new(lock.start, lock.end).ok_or("its range ends before it begins")?,
    };
    let pid = lock.pid;
    let mode = match lock.kind {
        lock_type::READ => LockMode::Shared,
        lock_type::WRITE => LockMode::Exclusive,
        lock_type::UNLOCK => return Ok(LockRequest::Unlock { kind, owner, pid, range }),
        _ => return Err("its kind of lock does not exist"),
    };
    let lock = Lock { range, mode };
    Ok(match way {
        Way::Test => LockRequest::Test { kind, owner, pid, lock },
        Way::Set { waits } => LockRequest::Set { kind, owner, pid, lock, waits },
    })
}

/// The answer to a test: the lock that is in the way, or none.
pub(crate) fn found(conflict: Option<(Lock, u32)>) -> abi::FileLock {
    let Some((lock, pid)) = conflict else {
        return abi::FileLock { kind: lock_type::UNLOCK, ..Default::default() };
    };
    let kind = match lock.mode {
        LockMode::Shared => lock_type::READ,
        LockMode::Exclusive => lock_type::WRITE,
    };
    // To the kernel the end of all files is the largest offset.
    let end = lock.range.last().min(i64::MAX as u64);
    abi::FileLock { start: lock.range.first().min(end), end, kind, pid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn parsed(opcode: u32, structure: &impl AsBytes) -> Result<Option<LockRequest>, &'static str> {
        parse(opcode, Body::Joined(structure.bytes()))
    }

    trait AsBytes {
        fn bytes(&self) -> &[u8];
    }

    impl<T: IntoBytes + zerocopy::Immutable> AsBytes for T {
        fn bytes(&self) -> &[u8] {
            self.as_bytes()
        }
    }

    fn locked(kind: u32, lock_flags: u32) -> abi::LockIn {
        let lock = abi::FileLock { start: 3, end: 9, kind, pid: 7 };
        abi::LockIn { handle: 1, owner: 5, lock, lock_flags, padding: 0 }
    }

    #[test]
    fn locks_are_understood() {
        let (owner, pid) = (LockOwner(5), 7);
        let range = LockRange::new(3, 9).unwrap();
        let (kind, lock) = (LockKind::Ranges, Lock { range, mode: LockMode::Exclusive });
        let check = |opcode, structure, want| assert_eq!(parsed(opcode, &structure), Ok(Some(want)));
        check(opcode::GETLK, locked(1, 0), LockRequest::Test { kind, owner, pid, lock });
        check(opcode::SETLK, locked(1, 0), LockRequest::Set { kind, owner, pid, lock, waits: false });
        check(opcode::SETLK, locked(2, 0), LockRequest::Unlock { kind, owner, pid, range });
        let whole = Lock { range: LockRange::WHOLE, mode: LockMode::Shared };
        let kind = LockKind::Whole;
        check(opcode::SETLKW, locked(0, 1), LockRequest::Set { kind, owner, pid, lock: whole, waits: true });
        assert!(parsed(opcode::SETLK, &locked(3, 0)).is_err());
        let mut turned = locked(1, 0);
        turned.lock.end = 2;
        assert!(parsed(opcode::SETLK, &turned).is_err());
        assert_eq!(parsed(opcode::READ, &locked(0, 0)), Ok(None));
        let flush = abi::FlushIn { handle: 3, lock_owner: 8, ..Default::default() };
        assert_eq!(
            parsed(opcode::FLUSH, &flush),
            Ok(Some(LockRequest::Flush { handle: 3, owner: LockOwner(8) }))
        );
        let interrupt = abi::InterruptIn { unique: 6 };
        assert_eq!(parsed(opcode::INTERRUPT, &interrupt), Ok(Some(LockRequest::Interrupt { unique: 6 })));
    }

    #[test]
    fn what_is_in_the_way_is_told_in_the_kernels_terms() {
        let lock = Lock { range: LockRange::new(3, u64::MAX).unwrap(), mode: LockMode::Shared };
        let told = found(Some((lock, 7)));
        assert_eq!((told.start, told.end, told.kind, told.pid), (3, i64::MAX as u64, 0, 7));
        assert_eq!(found(None).kind, 2);
        let release = abi::ReleaseIn { release_flags: 2, lock_owner: 4, ..Default::default() };
        assert_eq!(released(&release), Some(LockOwner(4)));
        assert_eq!(released(&abi::ReleaseIn { release_flags: 1, ..release }), None);
    }
}
