//! Names of files that were removed while they were open. They stay, under names that no mount shows, until their last
//! close, as in NFS.

use globalfs_proto::limits::HIDDEN_PREFIX;
use std::fmt::Write;

/// Whether no mount shows this name.
pub(crate) fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(HIDDEN_PREFIX)
}

/// A name that no mount shows, told apart from others by `number`.
pub(crate) fn name(number: u128) -> Vec<u8> {
    let mut rest = String::new();
    write!(rest, "removed-{number:032x}").expect("a string takes all");
    [HIDDEN_PREFIX, rest.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hidden_and_differ() {
        assert!(is_hidden(&name(0)) && is_hidden(&name(u128::MAX)));
        assert_ne!(name(1), name(2));
        assert!(is_hidden(b".globalfs-x") && !is_hidden(b".globalfs") && !is_hidden(b"file"));
    }
}
