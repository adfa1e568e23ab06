//! Prose like English: words drawn with Zipf's frequencies, in sentences and paragraphs with numbers and
//! names among them. zstd makes it three to four times smaller, as it does with what people write.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::LazyLock;

/// Words that a text may use, and phrases that are used again and again.
const VOCABULARY: usize = 6000;
const PHRASES: usize = 4000;

/// One place in this many is a phrase instead of a word.
const PHRASE_EVERY: u32 = 3;

/// How fast frequencies fall with the rank. Natural languages have about 1.
const ZIPF_EXPONENT: f64 = 1.07;

/// Consonants and vowels of which words are made, the frequent ones more than once.
const ONSETS: [&str; 24] = [
    "t", "n", "s", "r", "d", "l", "m", "c", "p", "b", "f", "g", "h", "w", "v", "st", "tr", "pr", "ch", "th",
    "sh", "pl", "gr", "br",
];
const NUCLEI: [&str; 12] = ["e", "a", "i", "o", "u", "ea", "ou", "io", "ai", "e", "a", "y"];
const CODAS: [&str; 12] = ["", "n", "r", "s", "t", "l", "d", "", "ng", "nt", "", "m"];

/// The words that come first in English, which are short.
const COMMON: [&str; 40] = [
    "the", "of", "and", "to", "a", "in", "is", "that", "it", "was", "for", "on", "are", "with", "as", "be",
    "at", "by", "this", "from", "or", "not", "but", "which", "have", "an", "were", "had", "we", "can",
    "their", "has", "been", "its", "more", "when", "these", "than", "into", "between",
];

/// The language that all texts share, the same in every run.
static LANGUAGE: LazyLock<Language> = LazyLock::new(Language::coin);

#[derive(Debug)]
struct Language {
    /// By rank, the most frequent first.
    words: Vec<String>,
    phrases: Vec<String>,
    /// Cumulated frequencies of ranks, ending at 1.
    up_to: Vec<f64>,
}

/// A source of prose. The same seed gives the same text.
#[derive(Debug)]
pub(crate) struct Prose {
    random: SmallRng,
    language: &'static Language,
}

impl Prose {
    /// A text of its own.
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), language: &LANGUAGE }
    }

    /// Appends text until `out` has at least `length` bytes.
    pub(crate) fn fill(&mut self, out: &mut String, length: usize) {
        while out.len() < length {
            self.sentence(out);
            out.push_str(if self.random.random_ratio(1, 6) { "\n\n" } else { " " });
        }
    }

    /// Appends one sentence.
    pub(crate) fn sentence(&mut self, out: &mut String) {
        let start = out.len();
        for n in 0..self.random.random_range(4..15) {
            if n > 0 {
                out.push_str(if self.random.random_ratio(1, 11) { ", " } else { " " });
            }
            self.token(out);
        }
        out[start..=start].make_ascii_uppercase();
        out.push('.');
    }

    /// A word of the language.
    pub(crate) fn word(&mut self) -> &'static str {
        self.language.word(self.random.random())
    }

    fn token(&mut self, out: &mut String) {
        match self.random.random_range(0..40) {
            0 => out.push_str(&self.random.random_range(1..3000).to_string()),
            1 => {
                let number: f64 = self.random.random_range(0.0..100.0);
                out.push_str(&format!("{number:.2}"));
            }
            _ if self.random.random_ratio(1, PHRASE_EVERY) => {
                out.push_str(self.language.phrase(self.random.random()));
            }
            _ => out.push_str(self.word()),
        }
    }
}

impl Language {
    fn coin() -> Self {
        let mut language = Self { words: vocabulary(), phrases: Vec::new(), up_to: zipf(VOCABULARY) };
        let mut random = SmallRng::seed_from_u64(0x0070_6872_6173_6573);
        let mut phrase = || {
            let words = (0..random.random_range(2..6)).map(|_| language.word(random.random()));
            words.collect::<Vec<_>>().join(" ")
        };
        language.phrases = (0..PHRASES).map(|_| phrase()).collect();
        language
    }

    /// The word that a number between 0 and 1 draws.
    fn word(&self, drawn: f64) -> &str {
        &self.words[self.rank(drawn).min(VOCABULARY - 1)]
    }

    fn phrase(&self, drawn: f64) -> &str {
        &self.phrases[self.rank(drawn) % PHRASES]
    }

    fn rank(&self, drawn: f64) -> usize {
        self.up_to.partition_point(|reached| *reached < drawn)
    }
}

/// Zipf's frequencies, cumulated.
fn zipf(ranks: usize) -> Vec<f64> {
    let frequency = |rank: usize| 1.0 / ((rank + 2) as f64).powf(ZIPF_EXPONENT);
    let sum: f64 = (0..ranks).map(frequency).sum();
    let cumulated = (0..ranks).scan(0.0, |reached, rank| {
        *reached += frequency(rank) / sum;
        Some(*reached)
    });
    cumulated.collect()
}

fn vocabulary() -> Vec<String> {
    let mut random = SmallRng::seed_from_u64(0x006c_616e_6775_6167);
    let coined = (COMMON.len()..VOCABULARY).map(|rank| coin(&mut random, 1 + rank.ilog(8) as usize));
    COMMON.iter().map(|word| (*word).to_owned()).chain(coined).collect()
}

/// A new word; rare words are longer.
fn coin(random: &mut SmallRng, syllables: usize) -> String {
    let mut word = String::new();
    for _ in 0..random.random_range(1..=syllables) {
        for part in [&ONSETS[..], &NUCLEI[..], &CODAS[..]] {
            word.push_str(part[random.random_range(0..part.len())]);
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u64) -> String {
        let mut out = String::new();
        Prose::new(seed).fill(&mut out, 256 * 1024);
        out
    }

    #[test]
    fn prose_compresses_as_what_people_write() {
        let text = text(1);
        let packed = zstd::bulk::compress(text.as_bytes(), 3).unwrap();
        let ratio = text.len() as f64 / packed.len() as f64;
        assert!((2.9..4.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn texts_differ_and_are_repeatable() {
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        assert!(text(1).starts_with(|first: char| !first.is_ascii_lowercase()));
    }

    #[test]
    fn frequent_words_are_those_of_low_rank() {
        let text = text(3);
        let count = |word: &str| text.split_whitespace().filter(|found| *found == word).count();
        assert!(count("the") > count("which") && count("which") > 0);
    }
}
