//! What can go wrong in a store, sorted by what the caller does next.

use std::path::PathBuf;

use thiserror::Error;

use super::LeaseId;

/// Why a store refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Try again later, with backoff. A transaction may have happened or not.
    #[error("the metadata store does not answer: {0}")]
    Unavailable(String),

    /// The events asked for are no longer kept: range again and watch from the snapshot's revision.
    #[error("the metadata store no longer keeps the events after that revision")]
    Compacted,

    /// The lease has expired or was revoked, and its keys are gone: grant a new one.
    #[error("lease {0} does not exist")]
    LeaseGone(LeaseId),

    /// Ask for less.
    #[error("too many {what}: {actual}, the limit is {limit}")]
    Limit {
        /// What there is too much of, with its unit.
        what: &'static str,
        /// How much was asked for.
        actual: usize,
        /// How much is allowed.
        limit: usize,
    },

    /// Correct the request or the configuration.
    #[error("{0}")]
    Invalid(String),

    /// The administrator has to correct names, passwords or certificates.
    #[error("the metadata store denied access: {0}")]
    Denied(String),

    /// The administrator has to make room; until then only reads work.
    #[error("the metadata store is full: {0}")]
    Full(String),

    /// End the other process, or choose another directory.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),

    /// Use another build of this program.
    #[error("{0}")]
    Unsupported(&'static str),

    /// Stop and let an administrator look: what is stored cannot be read or written reliably.
    #[error("the metadata store is broken: {0}")]
    Broken(String),
}

impl StoreError {
    /// An error if `actual` is above `limit`.
    pub(super) fn check_limit(what: &'static str, actual: usize, limit: usize) -> Result<(), StoreError> {
        if actual > limit { Err(StoreError::Limit { what, actual, limit }) } else { Ok(()) }
    }
}
