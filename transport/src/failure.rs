//! What quinn's errors mean to a caller, in words that an administrator can act on.

use globalfs_proto::FsError;
use quinn::{ConnectionError, ReadError, ReadExactError, TransportErrorCode, VarInt, WriteError};

/// Codes that close a connection, and codes that break off a stream.
pub(crate) mod code {
    use super::VarInt;
    /// Nobody needs the connection any more.
    pub(crate) const DONE: VarInt = VarInt::from_u32(0);
    /// The peer is not let in; the reason says why.
    pub(crate) const REFUSED: VarInt = VarInt::from_u32(1);
    /// The peer broke the protocol; the reason says how.
    pub(crate) const PROTOCOL: VarInt = VarInt::from_u32(2);
    /// The daemon stops.
    pub(crate) const STOPPING: VarInt = VarInt::from_u32(3);
    /// An answer was broken off at its deadline.
    pub(crate) const DEADLINE: VarInt = VarInt::from_u32(4);
    /// An answer was broken off because its bytes could not be had.
    pub(crate) const BROKEN_OFF: VarInt = VarInt::from_u32(5);
}

/// TLS alerts that have an explanation of their own (RFC 8446, section 6).
mod alert {
    pub(super) const BAD_CERTIFICATE: u64 = 42;
    pub(super) const EXPIRED: u64 = 45;
    pub(super) const UNKNOWN_CA: u64 = 48;
    /// What a signature by another CA gives when both CAs have the same name.
    pub(super) const DECRYPT_ERROR: u64 = 51;
    pub(super) const CERTIFICATE_REQUIRED: u64 = 116;
    pub(super) const NO_APPLICATION_PROTOCOL: u64 = 120;
}

/// Why a connection with `whom` failed or ended.
pub(crate) fn of_connection(whom: &str, error: &ConnectionError) -> FsError {
    let gone = |why: &str| FsError::Unreachable(format!("{whom} {why}"));
    match error {
        ConnectionError::TransportError(e) => match alert_of(e.code) {
            Some(alert) => judged_by_us(whom, alert, &e.reason),
            None => FsError::Protocol(format!("{whom}: {e}")),
        },
        ConnectionError::ConnectionClosed(close) => match alert_of(close.error_code) {
            Some(alert) => judged_by_them(whom, alert, &String::from_utf8_lossy(&close.reason)),
            None => gone(&format!("turned the connection away: {close}")),
        },
        ConnectionError::ApplicationClosed(close) => {
            closed_by_peer(whom, close.error_code, &String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::VersionMismatch => {
            FsError::Protocol(format!("{whom} speaks no QUIC version of ours"))
        }
        ConnectionError::TimedOut => gone("does not answer"),
        ConnectionError::Reset => gone("was restarted"),
        ConnectionError::LocallyClosed => gone("is gone: the connection was given up"),
        ConnectionError::CidsExhausted => gone("cannot be connected to: no connection ids left"),
    }
}

/// Why reading an answer failed.
pub(crate) fn of_read(whom: &str, error: &ReadError) -> FsError {
    match error {
        ReadError::ConnectionLost(e) => of_connection(whom, e),
        ReadError::Reset(reason) if *reason == code::DEADLINE => FsError::Deadline,
        ReadError::Reset(_) => FsError::Unreachable(format!("{whom} broke off its answer")),
        other => FsError::Protocol(format!("{whom}: {other}")),
    }
}

/// Why reading a given number of bytes failed.
pub(crate) fn of_read_exact(whom: &str, error: &ReadExactError) -> FsError {
    match error {
        ReadExactError::ReadError(e) => of_read(whom, e),
        ReadExactError::FinishedEarly(_) => {
            FsError::Protocol(format!("{whom} ended its answer inside a message"))
        }
    }
}

/// Why sending failed.
pub(crate) fn of_write(whom: &str, error: &WriteError) -> FsError {
    match error {
        WriteError::ConnectionLost(e) => of_connection(whom, e),
        other => FsError::Unreachable(format!("{whom} stopped listening: {other}")),
    }
}

fn alert_of(code: TransportErrorCode) -> Option<u64> {
    u64::from(code).checked_sub(0x100).filter(|alert| *alert < 0x100)
}

fn closed_by_peer(whom: &str, reason: VarInt, text: &str) -> FsError {
    match reason {
        code::REFUSED => FsError::Refused(text.to_owned()),
        code::PROTOCOL => FsError::Protocol(format!("{whom} says: {text}")),
        code::STOPPING => FsError::Unreachable(format!("{whom} is shutting down")),
        _ => FsError::Unreachable(format!("{whom} closed the connection: {text}")),
    }
}

/// We did not like the peer's certificate.
fn judged_by_us(whom: &str, alert: u64, reason: &str) -> FsError {
    let reason = reason.trim_start_matches("invalid peer certificate: ");
    FsError::Refused(match alert {
        alert::UNKNOWN_CA | alert::DECRYPT_ERROR => format!(
            "the certificate of {whom} was not signed by our CA: \
             register both in the same cluster, and check which CA file is configured here"
        ),
        alert::BAD_CERTIFICATE if reason.contains("not valid for name") => {
            format!("the peer at this address is not {whom}: {reason}; correct the address or the name")
        }
        alert::EXPIRED => {
            format!(
                "the certificate of {whom} is out of date: renew it there, and check both clocks ({reason})"
            )
        }
        alert::NO_APPLICATION_PROTOCOL => return other_version(whom),
        _ => format!("no secure connection with {whom}: {reason}"),
    })
}

/// The peer did not like ours.
fn judged_by_them(whom: &str, alert: u64, reason: &str) -> FsError {
    FsError::Refused(match alert {
        alert::UNKNOWN_CA | alert::DECRYPT_ERROR => format!(
            "{whom} does not know the CA that signed our certificate: \
             register this machine in the cluster of {whom}"
        ),
        alert::CERTIFICATE_REQUIRED => format!("{whom} wants a certificate, but we have shown none"),
        alert::EXPIRED => {
            format!("{whom} finds our certificate out of date: renew it here, and check both clocks")
        }
        alert::NO_APPLICATION_PROTOCOL => return other_version(whom),
        _ => format!("{whom} refused our certificate: TLS alert {alert} {reason}"),
    })
}

fn other_version(whom: &str) -> FsError {
    FsError::Protocol(format!("{whom} speaks another version of the protocol: upgrade the older side"))
}
