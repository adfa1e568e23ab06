//! Lanes: TCP connections with the same TLS, identities and messages as the QUIC connection beside them. Large
//! answers from a peer nearby and large changes take one, because the kernel moves TCP at a fraction of the CPU time that QUIC
//! costs; so do short requests that find one idle.
//!
//! *Invariants:* one request at a time is under way on a lane, and a lane whose answer was not read to its end is
//! closed; a request whose lane fails before its answer has begun goes over QUIC, so a lane that cannot be had or
//! is stale is never an error. A change goes there only if it was not sent whole, so that none is made twice.

mod pool;
mod secure;
mod serve;

pub(crate) use pool::{Lanes, Lease, Wanted};
pub(crate) use secure::Secure;
pub(crate) use serve::listen;

use std::io;

/// Why a lane cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    /// The peer ended it, or the daemon behind it is gone.
    #[error("the TCP connection was closed")]
    Closed,
    /// The system says no.
    #[error("the TCP connection failed: {0}")]
    Socket(#[from] io::Error),
    /// TLS says no.
    #[error("no secure TCP connection: {0}")]
    Tls(#[from] rustls::Error),
    /// The peer broke the rules.
    #[error("the TCP connection is of no use: {0}")]
    Protocol(&'static str),
    /// It took too long.
    #[error("no answer over TCP in time")]
    Late,
    /// Its way is so long that QUIC serves it better.
    #[error("the way over TCP is long")]
    Far,
}
