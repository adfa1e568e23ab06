//! When the bytes of a path travel.

use serde::{Deserialize, Serialize};
use std::fmt;

/// When the bytes of a path travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// Before they are needed.
    Eager,
    /// When they are first read.
    Lazy,
    /// In the background after they were written.
    Async,
    /// Not at all.
    Never,
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eager => "eager",
            Self::Lazy => "lazy",
            Self::Async => "async",
            Self::Never => "never",
        })
    }
}
