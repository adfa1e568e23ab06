//! The errors of file operations, sorted by what the caller does next. They cross the network.

use crate::attr::Attr;
use crate::codec::{DecodeError, Reader, Writer};
use crate::limits::MAX_ERROR_TEXT;

/// The result of a file operation.
pub type FsResult<T> = Result<T, FsError>;

/// Why a file operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// The origin said no with this errno (`ENOENT`, `EACCES`, ...): hand it to the application as it is.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
    /// The file no longer has the version that was asked for: look it up again. Carries what it is now,
    /// where the master knows.
    #[error("the file has changed")]
    Stale(Option<Box<Attr>>),
    /// Nobody who could answer can be reached: try again later; cached data may still serve.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The deadline passed first: try again, or tell the application.
    #[error("no answer before the deadline")]
    Deadline,
    /// The peer does not let us do this: an administrator has to act.
    #[error("refused: {0}")]
    Refused(String),
    /// Bytes failed their hash and fetching again did not mend it: never return them.
    #[error("damaged data: {0}")]
    Damaged(String),
    /// The peer broke the protocol or speaks another one: report it.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// Another site masters this now, or is about to: ask again, of who it is then.
    #[error("mastered elsewhere: {0}")]
    Elsewhere(String),
    /// A limit was reached: try again with less, or later.
    #[error("limit reached: {0}")]
    Limit(String),
}

impl FsError {
    /// The error for a missing name.
    pub const NOT_FOUND: Self = Self::Os(2);
    /// The error for reading a directory that is none.
    pub const NOT_A_DIRECTORY: Self = Self::Os(20);
    /// The error for a change where nothing can be changed.
    pub const READ_ONLY: Self = Self::Os(30);

    /// The error for what is not done here.
    pub const NOT_SUPPORTED: Self = Self::Os(95);

    /// Whether the same request may succeed elsewhere or later, unchanged.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Deadline | Self::Limit(_) | Self::Elsewhere(_))
    }

    /// Whether a change that failed so may have been carried out all the same.
    pub fn leaves_open(&self) -> bool {
        const EIO: FsError = FsError::Os(5);
        matches!(self, Self::Unreachable(_) | Self::Deadline | Self::Damaged(_) | Self::Protocol(_) | &EIO)
    }

    /// The errno that an application sees for this error.
    pub fn errno(&self) -> i32 {
        const EIO: i32 = 5;
        const EAGAIN: i32 = 11;
        const EACCES: i32 = 13;
        const EPROTO: i32 = 71;
        const ETIMEDOUT: i32 = 110;
        const EHOSTUNREACH: i32 = 113;
        const ESTALE: i32 = 116;
        match self {
            Self::Os(errno) => *errno,
            Self::Stale(_) => ESTALE,
            Self::Unreachable(_) => EHOSTUNREACH,
            Self::Deadline => ETIMEDOUT,
            Self::Refused(_) => EACCES,
            Self::Damaged(_) => EIO,
            Self::Protocol(_) => EPROTO,
            Self::Limit(_) | Self::Elsewhere(_) => EAGAIN,
        }
    }
}

impl From<std::io::Error> for FsError {
    fn from(error: std::io::Error) -> Self {
        const EIO: i32 = 5;
        Self::Os(error.raw_os_error().unwrap_or(EIO))
    }
}

pub(crate) fn encode_error<'w>(w: &'w mut Writer, error: &FsError) -> &'w mut Writer {
    match error {
        FsError::Os(errno) => w.u8(1).i64((*errno).into()),
        FsError::Stale(None) => w.u8(2),
        FsError::Stale(Some(attr)) => w.u8(3).attr(attr),
        FsError::Unreachable(why) => w.u8(4).bytes(cut(why)),
        FsError::Deadline => w.u8(5),
        FsError::Refused(why) => w.u8(6).bytes(cut(why)),
        FsError::Damaged(what) => w.u8(7).bytes(cut(what)),
        FsError::Protocol(what) => w.u8(8).bytes(cut(what)),
        FsError::Limit(what) => w.u8(9).bytes(cut(what)),
        FsError::Elsewhere(who) => w.u8(10).bytes(cut(who)),
    }
}

fn cut(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(MAX_ERROR_TEXT)]
}

pub(crate) fn decode_error(r: &mut Reader) -> Result<FsError, DecodeError> {
    Ok(match r.u8()? {
        1 => {
            let errno = i32::try_from(r.i64()?).ok().filter(|n| (1..4096).contains(n));
            FsError::Os(errno.ok_or(DecodeError::OutOfRange("the errno"))?)
        }
        2 => FsError::Stale(None),
        3 => FsError::Stale(Some(Box::new(r.attr()?))),
        4 => FsError::Unreachable(r.text()?),
        5 => FsError::Deadline,
        6 => FsError::Refused(r.text()?),
        7 => FsError::Damaged(r.text()?),
        8 => FsError::Protocol(r.text()?),
        9 => FsError::Limit(r.text()?),
        10 => FsError::Elsewhere(r.text()?),
        other => return Err(DecodeError::Unknown("error", other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_answered_knows_what_came_of_a_change() {
        let why = String::new;
        let open = [FsError::Unreachable(why()), FsError::Deadline, FsError::Protocol(why()), FsError::Os(5)];
        assert!(open.iter().all(FsError::leaves_open));
        let known =
            [FsError::NOT_FOUND, FsError::Stale(None), FsError::Refused(why()), FsError::Elsewhere(why())];
        assert!(!known.iter().any(FsError::leaves_open));
    }
}
