//! Files to read: noise that does not compress, words that do, zeros, and copies of one content.
//!
//! *Invariant:* the same seed gives the same bytes.

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Bytes that are made and written at a time.
const BLOCK_BYTES: usize = 1024 * 1024;

const WORDS: [&str; 32] = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "his",
    "but",
    "at",
    "are",
    "this",
    "have",
    "from",
    "or",
    "had",
    "an",
    "which",
    "temperature",
    "pressure",
    "simulation",
];

/// What a file consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Random bytes.
    Noise,
    /// Random words.
    Text,
    /// Zeros, written out.
    Zeros,
    /// Random bytes, the same in all files of a set.
    Duplicates,
}

impl Kind {
    /// Every kind.
    pub(super) const ALL: [Self; 4] = [Self::Noise, Self::Text, Self::Zeros, Self::Duplicates];

    /// What reports call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Noise => "noise",
            Self::Text => "text",
            Self::Zeros => "zeros",
            Self::Duplicates => "duplicates",
        }
    }

    /// Whether all files of a set have the same content.
    pub(super) fn repeats(self) -> bool {
        matches!(self, Self::Zeros | Self::Duplicates)
    }
}

/// Makes the directory `dir` with `count` files, named by their numbers, of `size` bytes each. `seed` tells
/// this set from all others.
pub(super) fn write_set(dir: &Path, kind: Kind, count: usize, size: u64, seed: u64) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for number in 0..count {
        let own = if kind.repeats() { 0 } else { number as u64 };
        let mut random = SmallRng::seed_from_u64(seed << 32 | own);
        write_file(&dir.join(number.to_string()), kind, size, &mut random)?;
    }
    Ok(())
}

fn write_file(path: &Path, kind: Kind, size: u64, random: &mut SmallRng) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut left = size;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    while left > 0 {
        let length = left.min(BLOCK_BYTES as u64) as usize;
        fill(&mut block, kind, length, random);
        file.write_all(&block)?;
        left -= length as u64;
    }
    Ok(())
}

fn fill(block: &mut Vec<u8>, kind: Kind, length: usize, random: &mut SmallRng) {
    block.clear();
    if kind == Kind::Text {
        while block.len() < length {
            block.extend_from_slice(WORDS[random.random_range(0..WORDS.len())].as_bytes());
            block.push(if random.random_ratio(1, 12) { b'\n' } else { b' ' });
        }
    }
    block.resize(length, 0);
    if matches!(kind, Kind::Noise | Kind::Duplicates) {
        random.fill_bytes(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(kind: Kind, seed: u64) -> Vec<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        write_set(dir.path(), kind, 2, 5000, seed).unwrap();
        (0..2).map(|n| fs::read(dir.path().join(n.to_string())).unwrap()).collect()
    }

    #[test]
    fn kinds_are_what_they_say() {
        for kind in Kind::ALL {
            let files = set(kind, 1);
            assert!(files.iter().all(|file| file.len() == 5000), "{kind:?}");
            assert_eq!(files[0] == files[1], kind.repeats(), "{kind:?}");
            assert_eq!(set(kind, 1), files, "{kind:?}");
            assert_eq!(set(kind, 2) == files, kind == Kind::Zeros, "{kind:?}");
        }
        assert!(set(Kind::Text, 1)[0].iter().all(u8::is_ascii));
        assert!(set(Kind::Zeros, 1)[0].iter().all(|&byte| byte == 0));
    }
}
