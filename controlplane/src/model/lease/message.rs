//! What granter and holders tell each other.
//!
//! *Invariant:* each message may be lost, repeated, or come late by any time, and does no harm.

use super::types::{Epoch, Generation, LeaseKind, LeaseScope, RequestNumber, Stamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// From a site's holder to the granter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGranter {
    /// Asks for a lease, says that the request still waits, or renews: one message, repeated.
    Ask {
        /// Names the request and the lease it becomes.
        request: RequestNumber,
        /// To read or to write.
        kind: LeaseKind,
        /// Where.
        scope: LeaseScope,
        /// The write lease that the holder has under this number. It is renewed or over, never granted anew.
        held: Option<Epoch>,
        /// From when the term of the answer counts.
        stamp: Stamp,
    },
    /// The holder does not use this lease or request, and never will.
    Release {
        /// Its number.
        request: RequestNumber,
    },
}

/// From the granter to a site's holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHolder {
    /// The lease is granted, or renewed.
    Grant {
        /// Its number.
        request: RequestNumber,
        /// The fence of a write lease; reads have none.
        epoch: Option<Epoch>,
        /// How often the scope has changed.
        generation: Generation,
        /// Of the request that this answers; the term counts from it.
        stamp: Stamp,
        /// How long to rely on this.
        term: Duration,
    },
    /// Someone waits: drain and release.
    Recall {
        /// The lease.
        request: RequestNumber,
        /// To read or to write.
        kind: LeaseKind,
    },
    /// Nothing was heard of this write lease: renew it or say that it is not known.
    Check {
        /// The lease.
        request: RequestNumber,
    },
    /// A limit is reached: the request does not wait.
    Busy {
        /// The request.
        request: RequestNumber,
    },
    /// The write lease with this epoch is no more: it was abandoned.
    Ended {
        /// The lease.
        request: RequestNumber,
        /// Its epoch.
        epoch: Epoch,
    },
}
