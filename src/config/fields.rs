//! Reads the keys of a map one by one and notes what is wrong: unknown, missing and ill-typed keys.
//!
//! *Invariant:* a key is known because it was asked for, so the list of valid keys in a message is never
//! out of date. Whoever gets `None` for a key that is required need not report it: it is noted already.

use super::problem::{Position, Problems};
use super::tree::{Entry, Node, Value};
use super::value::Scalar;
use std::cell::RefCell;
use std::path::PathBuf;

/// The keys of one map.
pub(super) struct Fields<'a> {
    entries: &'a [Entry],
    position: Position,
    problems: &'a Problems,
    known: RefCell<Vec<&'static str>>,
    missing: RefCell<Vec<(&'static str, String)>>,
}

impl<'a> Fields<'a> {
    /// The keys of `node`, which `what` names in messages.
    pub(super) fn of(node: &'a Node, what: &str, problems: &'a Problems) -> Option<Self> {
        let Some(entries) = node.entries() else {
            let found = node.value.describe();
            problems.add(node.position, format!("{what}: found {found}; expected keys with values"));
            return None;
        };
        let (known, missing) = (RefCell::default(), RefCell::default());
        Some(Self { entries, position: node.position, problems, known, missing })
    }

    /// The entry `key`, if it is there.
    pub(super) fn entry(&self, key: &'static str) -> Option<&'a Entry> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of `key`, if it is there and right.
    pub(super) fn optional<T: Scalar>(&self, key: &'static str) -> Option<T> {
        self.entry(key).and_then(|entry| scalar(key, &entry.node, self.problems))
    }

    /// The value of `key`, whose absence is a problem.
    pub(super) fn required<T: Scalar>(&self, key: &'static str) -> Option<T> {
        let entry = self.required_entry(key, T::EXPECTED)?;
        scalar(key, &entry.node, self.problems)
    }

    /// The entry `key`, whose absence is a problem.
    pub(super) fn required_entry(&self, key: &'static str, expected: &str) -> Option<&'a Entry> {
        let entry = self.entry(key);
        if entry.is_none() {
            self.missing.borrow_mut().push((key, expected.to_owned()));
        }
        entry
    }

    /// The elements of the list `key`; nothing when it is absent.
    pub(super) fn list(&self, key: &'static str, expected: &str) -> &'a [Node] {
        self.entry(key).and_then(|entry| list(key, &entry.node, expected, self.problems)).unwrap_or_default()
    }

    /// The path `key`; a relative one refers to the directory of the file.
    pub(super) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.optional(key).map(|path: PathBuf| self.problems.directory().join(path))
    }

    /// Reports the keys that nobody asked for and those that are missing, except where one of the former
    /// was probably meant to be one of the latter.
    pub(super) fn finish(self) {
        let known = self.known.into_inner();
        let mut missing = self.missing.into_inner();
        let present: Vec<&str> = self.entries.iter().map(|entry| entry.key.as_str()).collect();
        for Entry { key, position, .. } in self.entries.iter().filter(|e| !known.contains(&e.key.as_str())) {
            let free = known.iter().copied().filter(|known| !present.contains(known));
            let hint = match nearest(key, free.chain(known.iter().copied())) {
                Some(near) => {
                    missing.retain(|(key, _)| *key != near);
                    format!("did you mean `{near}`?")
                }
                None => format!("expected one of {}", known.join(", ")),
            };
            self.problems.add(*position, format!("unknown key `{}`; {hint}", cut(key)));
        }
        for (key, expected) in missing {
            self.problems.add(self.position, format!("missing key `{key}`; expected {expected}"));
        }
    }
}

/// The value of `node`, read for the key `key`.
pub(super) fn scalar<T: Scalar>(key: &str, node: &Node, problems: &Problems) -> Option<T> {
    match T::read(&node.value) {
        Ok(value) => Some(value),
        Err(reason) => {
            problems.add(node.position, format!("`{key}`: {reason}; expected {}", T::EXPECTED));
            None
        }
    }
}

/// The elements of `node`, which must be a list.
pub(super) fn list<'a>(key: &str, node: &'a Node, expected: &str, problems: &Problems) -> Option<&'a [Node]> {
    if let Value::List(nodes) = &node.value {
        return Some(nodes);
    }
    let found = node.value.describe();
    problems.add(node.position, format!("`{key}`: found {found}; expected {expected}"));
    None
}

/// The candidate that `word` was probably meant to be.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word = cut(word).to_lowercase().replace('-', "_");
    let tolerated = (word.chars().count() / 3).max(1);
    let distances = candidates.into_iter().map(|candidate| {
        let distance = strsim::damerau_levenshtein(&word, &candidate.replace('-', "_"));
        let abbreviated = word.len() >= 3 && candidate.starts_with(&word);
        (if abbreviated { 1 } else { distance }, candidate)
    });
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= tolerated).then_some(candidate)
}

/// No more of a user's word than a message should repeat.
fn cut(word: &str) -> String {
    word.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn guesses_what_was_meant() {
        let check = |word: &str, want: Option<&str>| {
            assert_eq!(nearest(word, ["origin", "listen", "state_dir", "metadata_ttl"]), want, "{word}");
        };
        check("orgin", Some("origin"));
        check("Origin", Some("origin"));
        check("lsiten", Some("listen"));
        check("state-dir", Some("state_dir"));
        check("meta", Some("metadata_ttl"));
        check("zebra", None);
        check("", None);
    }
}
