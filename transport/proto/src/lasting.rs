//! For how long what was told of names counts for those who would be told of its changes.

use std::time::Duration;

/// For how long an answer about a name counts, so long as no change is told; zero: what goes by a time to live alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lasting {
    /// That the name means this file.
    pub name: Duration,
    /// The file's attributes.
    pub attr: Duration,
}

/// What the names in a directory are known by while their changes are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edition {
    /// Another number, other names, perhaps. Grows with time.
    pub number: u64,
    /// For how long they count, so long as no change is told.
    pub lasting: Duration,
}
