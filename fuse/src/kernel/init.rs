//! What a mount and the kernel agree on at the start. Pure.
//!
//! *Invariant:* nothing is agreed on that the kernel did not offer.

use crate::kernel::abi::{self, InHeader, InitIn, InitInMore, InitOut, init_flag, opcode};
use zerocopy::FromBytes;

/// Read-ahead requests that the kernel may have waiting here: the window of a fast, distant site
/// (10 Gbit/s x 80 ms) is 100 requests of a megabyte.
const MAX_BACKGROUND_REQUESTS: u16 = 128;

/// Bytes of one request or answer beside its structures. The kernel caps it by `fs.fuse.max_pages_limit`, which is as
/// much unless an administrator has changed it.
pub(crate) const MAX_PAYLOAD: u32 = 1 << 20;

/// The same in pages of 4 KiB, the smallest that there are.
const MAX_PAGES: u16 = (MAX_PAYLOAD / 4096) as u16;

/// Files that are passed through lie on a file system of its own. One more, and nobody could lay an overlayfs over the
/// mount, as container engines do.
const STACK_DEPTH: u32 = 1;

/// What is used when the kernel has it.
const WANTED: u64 = init_flag::ASYNC_READ
    | init_flag::BIG_WRITES
    | init_flag::MAX_PAGES
    | init_flag::INIT_EXT
    // Not the kernel's own choice (`READDIRPLUS_AUTO`): our listings have the attributes at hand,
    // and with it `find` over 100,000 entries looked up each of them by name.
    | init_flag::DO_READDIRPLUS
    | init_flag::PARALLEL_DIROPS
    // The kernel asks for each file's access control list once, and obeys it.
    | init_flag::POSIX_ACL
    // Set-id bits are taken away with what takes them away: else the kernel would ask for `security.capability` before
    // every write.
    | init_flag::HANDLE_KILLPRIV_V2
    // Safe: a link with another target is another node.
    | init_flag::CACHE_SYMLINKS;

/// Both kinds of locks. Each close of a file then tells the volume that its owner has no more of them.
const LOCKS: u64 = init_flag::POSIX_LOCKS | init_flag::FLOCK_LOCKS;

/// Why the kernel and a mount do not come together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InitError {
    /// The kernel has to be newer.
    #[error("the kernel speaks FUSE {0}.{1}, and 7.{oldest} is needed (Linux 5.4)", oldest = abi::OLDEST_MINOR)]
    TooOld(u32, u32),
    /// Something else than a kernel is at the other end.
    #[error("the kernel did not begin with INIT: {0}")]
    NoInit(&'static str),
}

/// What the kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The number that the answer names.
    pub(crate) unique: u64,
    major: u32,
    minor: u32,
    max_readahead: u32,
    flags: u64,
}

/// What else is wanted, if the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wishes {
    /// Files are to be passed through to local files.
    pub(crate) passthrough: bool,
    /// Rings are ready for this many requests. The kernel holds requests back until they are registered.
    pub(crate) ring_room: Option<usize>,
    /// Locks are kept by the volume, not by this kernel alone.
    pub(crate) locks: bool,
}

/// What holds from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// The protocol's number behind the point.
    pub(crate) minor: u32,
    /// Files may be passed through to local files.
    pub(crate) passthrough: bool,
}

impl Offer {
    /// Reads the first request of a connection.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, InitError> {
        let short = |_| InitError::NoInit("its request is cut short");
        let (header, rest) = InHeader::read_from_prefix(bytes).map_err(|_| short(()))?;
        if header.opcode != opcode::INIT {
            return Err(InitError::NoInit("another request came first"));
        }
        let (init, more) = InitIn::read_from_prefix(rest).map_err(|_| short(()))?;
        let has_more = u64::from(init.flags) & init_flag::INIT_EXT != 0;
        let more = InitInMore::read_from_prefix(more).ok().filter(|_| has_more);
        let flags = u64::from(init.flags) | more.map_or(0, |(more, _)| u64::from(more.flags2) << 32);
        let InitIn { major, minor, max_readahead, .. } = init;
        Ok(Self { unique: header.unique, major, minor, max_readahead, flags })
    }

    /// Whether the kernel is newer than any that is known and has to ask again in our version.
    pub(crate) fn is_of_another_major(&self) -> bool {
        self.major > abi::MAJOR
    }

    /// Whether requests can come over io_uring.
    pub(crate) fn has_rings(&self) -> bool {
        self.flags & init_flag::OVER_IO_URING != 0
    }

    /// The answer, and what it means.
    pub(crate) fn accept(&self, wishes: Wishes) -> Result<(InitOut, Agreement), InitError> {
        if (self.major, self.minor) < (abi::MAJOR, abi::OLDEST_MINOR) {
            return Err(InitError::TooOld(self.major, self.minor));
        }
        let rings = if wishes.ring_room.is_some() { init_flag::OVER_IO_URING } else { 0 };
        let passthrough = if wishes.passthrough { init_flag::PASSTHROUGH } else { 0 };
        let locks = if wishes.locks { LOCKS } else { 0 };
        let flags = (WANTED | rings | passthrough | locks) & self.flags;
        let max_background = max_background(wishes.ring_room);
        let passthrough = flags & init_flag::PASSTHROUGH != 0;
        let minor = self.minor.min(abi::MINOR);
        let answer = InitOut {
            major: abi::MAJOR,
            minor,
            max_readahead: self.max_readahead,
            flags: flags as u32,
            max_background,
            // From this many on the kernel begins no new read-ahead.
            congestion_threshold: max_background - max_background / 4,
            max_write: MAX_PAYLOAD,
            time_granularity: 1,
            max_pages: MAX_PAGES,
            flags2: (flags >> 32) as u32,
            max_stack_depth: if passthrough { STACK_DEPTH } else { 0 },
            ..InitOut::default()
        };
        Ok((answer, Agreement { minor, passthrough }))
    }
}

/// Over rings, callers would wait behind read-ahead that leaves them no room.
fn max_background(ring_room: Option<usize>) -> u16 {
    let room = ring_room.map_or(usize::MAX, |room| room - room / 4);
    room.clamp(1, MAX_BACKGROUND_REQUESTS.into()) as u16
}

/// The answer that makes a kernel of another major version ask again in ours.
pub(crate) fn version_only() -> InitOut {
    InitOut { major: abi::MAJOR, minor: abi::MINOR, ..InitOut::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn offer(major: u32, minor: u32, flags: u64) -> Vec<u8> {
        let init = InitIn { major, minor, max_readahead: 131_072, flags: flags as u32 };
        let more = InitInMore { flags2: (flags >> 32) as u32, unused: [0; 11] };
        let header = InHeader { length: 104, opcode: opcode::INIT, unique: 2, ..Default::default() };
        [header.as_bytes(), init.as_bytes(), more.as_bytes()].concat()
    }

    #[test]
    fn only_what_is_offered_is_agreed_on() {
        let all = Offer::parse(&offer(7, 45, u64::MAX)).unwrap();
        assert!(all.has_rings() && all.unique == 2);
        let wishes = Wishes { passthrough: true, ring_room: Some(32), locks: true };
        let (answer, agreement) = all.accept(wishes).unwrap();
        assert_eq!(agreement, Agreement { minor: 45, passthrough: true });
        let flags = u64::from(answer.flags) | u64::from(answer.flags2) << 32;
        assert_eq!(flags, WANTED | LOCKS | init_flag::OVER_IO_URING | init_flag::PASSTHROUGH);
        assert_eq!(
            (answer.max_background, answer.congestion_threshold),
            (24, 18),
            "less than the rings have room"
        );
        let (answer, agreement) = all.accept(Wishes::default()).unwrap();
        assert_eq!((answer.flags2, answer.max_stack_depth, agreement.passthrough), (0, 0, false));
        assert_eq!(u64::from(answer.flags) & LOCKS, 0);
        assert_eq!((answer.max_background, answer.congestion_threshold), (128, 96));
        let (answer, agreement) = Offer::parse(&offer(7, 31, 1)).unwrap().accept(wishes).unwrap();
        assert_eq!((answer.minor, answer.flags, answer.flags2, answer.max_stack_depth), (31, 1, 0, 0));
        assert_eq!(agreement, Agreement { minor: 31, passthrough: false });
        let newer = Offer::parse(&offer(7, 99, 0)).unwrap().accept(Wishes::default()).unwrap();
        assert_eq!(newer.0.minor, abi::MINOR);
        assert_eq!((max_background(Some(1)), max_background(Some(500))), (1, 128));
    }

    #[test]
    fn the_second_word_of_flags_counts_only_when_the_first_says_so() {
        let without = init_flag::OVER_IO_URING;
        assert!(!Offer::parse(&offer(7, 45, without)).unwrap().has_rings());
        assert!(Offer::parse(&offer(7, 45, without | init_flag::INIT_EXT)).unwrap().has_rings());
    }

    #[test]
    fn other_versions_are_refused_or_asked_again() {
        let old = Offer::parse(&offer(7, 30, u64::MAX)).unwrap().accept(Wishes::default()).unwrap_err();
        assert_eq!(old.to_string(), "the kernel speaks FUSE 7.30, and 7.31 is needed (Linux 5.4)");
        assert!(Offer::parse(&offer(6, 99, 0)).unwrap().accept(Wishes::default()).is_err());
        assert!(Offer::parse(&offer(8, 0, 0)).unwrap().is_of_another_major());
        assert_eq!((version_only().major, version_only().minor), (7, 45));
    }

    #[test]
    fn what_is_no_init_is_told() {
        let check = |bytes: &[u8], want| {
            assert!(Offer::parse(bytes).unwrap_err().to_string().contains(want));
        };
        check(&[0; 10], "cut short");
        check(&[0; 104], "another request");
        check(&offer(7, 45, 0)[..50], "cut short");
        let mut old = offer(7, 31, 0);
        old.truncate(56);
        assert!(Offer::parse(&old).is_ok(), "old kernels send less");
    }
}
