//! Patterns over paths: `*`, `?` and `[...]` within a component, `**` for any number of components.
//!
//! Written for this namespace rather than taken from a glob library because paths are bytes: `?` and
//! `[...]` stand for one UTF-8 character or, where the bytes are not UTF-8, for one byte, and no wildcard
//! but `**` ever crosses a `/`. The positions reached in a pattern are kept as a set, which also tells
//! what a pattern may still match *below* a directory.

use globalfs_proto::GlobalPath;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest pattern in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// Most components of a pattern.
pub const MAX_PATTERN_COMPONENTS: usize = 64;

/// An absolute pattern such as `/results/**`, checked when it is made.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

/// Why text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{pattern}' is not a pattern: {reason}")]
pub struct PatternError {
    /// The text.
    pub pattern: String,
    /// What is wrong with it and what to write instead.
    pub reason: &'static str,
}

/// How far a path has come through a pattern, and so what may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The path itself matches.
    pub matches: bool,
    /// Everything below the path matches too.
    pub all_below: bool,
    /// A child whose name is not spelled out in the pattern may match or lead to a match.
    pub wildcard_below: bool,
}

#[derive(Debug, Clone)]
enum Part {
    /// `**`: any number of components, also none.
    Deep,
    /// One component.
    Name(Vec<Token>),
}

#[derive(Debug, Clone)]
enum Token {
    Byte(u8),
    AnyCharacter,
    AnyRun,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// What `?` or `[...]` takes from a name: a character, or one byte that belongs to none.
#[derive(Clone, Copy)]
enum Unit {
    Character(char),
    Stray,
}

impl Pattern {
    /// Parses `text`.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        match parse(text) {
            Ok(parts) => Ok(Self { text: text.to_owned(), parts }),
            Err(reason) => Err(PatternError { pattern: text.to_owned(), reason }),
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `path` matches.
    pub fn matches(&self, path: &GlobalPath) -> bool {
        self.reach(path).matches
    }

    /// The number of its first components that are spelled out.
    pub fn fixed_depth(&self) -> usize {
        let fixed = |part: &&Part| matches!(part, Part::Name(tokens) if tokens.iter().all(|token| matches!(token, Token::Byte(_))));
        self.parts.iter().take_while(fixed).count()
    }

    /// The path of its first components, as far as they are spelled out.
    pub fn fixed_prefix(&self) -> GlobalPath {
        let names = self.parts.iter().map_while(Part::literal);
        names.fold(GlobalPath::root(), |path, name| path.join(&name).unwrap_or(path))
    }

    /// Whether something beneath `directory` may match.
    pub fn may_match_below(&self, directory: &GlobalPath) -> bool {
        let reach = self.reach(directory);
        reach.all_below || reach.wildcard_below || !self.spelled_out_below(directory).is_empty()
    }

    /// How far `path` comes through this pattern.
    pub fn reach(&self, path: &GlobalPath) -> Reach {
        let live = self.live_at(path);
        let end = self.parts.len();
        Reach {
            matches: live[end],
            all_below: end > 0 && live[end - 1] && matches!(self.parts[end - 1], Part::Deep),
            wildcard_below: (0..end).any(|at| live[at] && self.parts[at].literal().is_none()),
        }
    }

    /// The spelled-out components, one or more in a row, that may follow `dir` on the way to a match.
    pub fn spelled_out_below(&self, dir: &GlobalPath) -> Vec<Vec<Vec<u8>>> {
        let live = self.live_at(dir);
        let runs = (0..self.parts.len()).filter(|&at| live[at]);
        let runs = runs.map(|at| self.parts[at..].iter().map_while(Part::literal).collect());
        runs.filter(|run: &Vec<Vec<u8>>| !run.is_empty()).collect()
    }

    /// Positions at which a match may go on after the components of `path` were read.
    fn live_at(&self, path: &GlobalPath) -> Vec<bool> {
        let mut start = vec![false; self.parts.len() + 1];
        self.arrive(&mut start, 0);
        path.components().fold(start, |live, name| self.step(&live, name))
    }

    fn step(&self, live: &[bool], name: &[u8]) -> Vec<bool> {
        let mut next = vec![false; live.len()];
        for (at, part) in self.parts.iter().enumerate().filter(|&(at, _)| live[at]) {
            match part {
                Part::Deep => self.arrive(&mut next, at),
                Part::Name(tokens) if name_matches(tokens, name) => self.arrive(&mut next, at + 1),
                Part::Name(_) => {}
            }
        }
        next
    }

    /// Marks a position and, since `**` may stand for nothing, those just behind it.
    fn arrive(&self, live: &mut [bool], mut at: usize) {
        live[at] = true;
        while let Some(Part::Deep) = self.parts.get(at) {
            at += 1;
            live[at] = true;
        }
    }
}

impl Part {
    fn literal(&self) -> Option<Vec<u8>> {
        let Self::Name(tokens) = self else { return None };
        tokens.iter().map(|token| if let Token::Byte(byte) = token { Some(*byte) } else { None }).collect()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl TryFrom<String> for Pattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::new(&text)
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::new(text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

fn parse(text: &str) -> Result<Vec<Part>, &'static str> {
    let Some(relative) = text.strip_prefix('/') else { return Err("it must begin with '/'") };
    if text.len() > MAX_PATTERN_BYTES {
        return Err("it is longer than 1024 bytes");
    }
    if relative.is_empty() {
        return Ok(Vec::new());
    }
    if relative.ends_with('/') {
        return Err("it ends with '/'; write /dir/** for a directory and everything below it");
    }
    let parts = relative.split('/').map(parse_part).collect::<Result<Vec<_>, _>>()?;
    if parts.len() > MAX_PATTERN_COMPONENTS { Err("it has more than 64 components") } else { Ok(parts) }
}

fn parse_part(text: &str) -> Result<Part, &'static str> {
    match text {
        "**" => Ok(Part::Deep),
        "" | "." | ".." => Err("a component must not be empty, '.' or '..'"),
        _ if text.contains('\0') => Err("it has a NUL byte"),
        _ => parse_name(text).map(Part::Name),
    }
}

fn parse_name(text: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' if matches!(tokens.last(), Some(Token::AnyRun)) => {
                return Err("'**' must be a whole component, as in /dir/**");
            }
            '*' => tokens.push(Token::AnyRun),
            '?' => tokens.push(Token::AnyCharacter),
            '[' => tokens.push(parse_class(&mut rest)?),
            '{' | '}' => return Err("alternatives {a,b} are not known; write one policy for each, or \\{"),
            '\\' => push_literal(&mut tokens, rest.next().ok_or("it ends with a lone '\\'")?),
            _ => push_literal(&mut tokens, c),
        }
    }
    Ok(tokens)
}

fn push_literal(tokens: &mut Vec<Token>, c: char) {
    tokens.extend(c.encode_utf8(&mut [0; 4]).bytes().map(Token::Byte));
}

/// Parses what follows a `[`: `!` or `^` negates, a leading `]` stands for itself.
fn parse_class(rest: &mut std::str::Chars<'_>) -> Result<Token, &'static str> {
    const OPEN: &str = "'[' without its ']'; write \\[ for the character itself";
    let mut next = rest.next().ok_or(OPEN)?;
    let negated = matches!(next, '!' | '^');
    if negated {
        next = rest.next().ok_or(OPEN)?;
    }
    let mut ranges = Vec::new();
    loop {
        let low = next;
        let mut high = low;
        next = rest.next().ok_or(OPEN)?;
        if next == '-' && !rest.as_str().starts_with(']') {
            high = rest.next().ok_or(OPEN)?;
            next = rest.next().ok_or(OPEN)?;
        }
        if low > high {
            return Err("a range in [...] goes backwards");
        }
        ranges.push((low, high));
        if next == ']' {
            return Ok(Token::Class { negated, ranges });
        }
    }
}

/// Matches one component. `*` first takes nothing and then, where the rest fails, a character more.
fn name_matches(tokens: &[Token], name: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match tokens.get(token) {
            None if at == name.len() => return true,
            Some(Token::AnyRun) => {
                token += 1;
                retry = Some((token, at));
                continue;
            }
            Some(one) => {
                if let Some(length) = taken(one, &name[at..]) {
                    (token, at) = (token + 1, at + length);
                    continue;
                }
            }
            None => {}
        }
        match retry {
            Some((after_run, from)) if from < name.len() => {
                let from = from + unit(&name[from..]).1;
                retry = Some((after_run, from));
                (token, at) = (after_run, from);
            }
            _ => return false,
        }
    }
}

/// How many bytes of `name` a token other than `*` takes, if it matches its beginning.
fn taken(token: &Token, name: &[u8]) -> Option<usize> {
    let first = *name.first()?;
    match token {
        Token::Byte(byte) => (*byte == first).then_some(1),
        Token::AnyCharacter => Some(unit(name).1),
        Token::AnyRun => None,
        Token::Class { negated, ranges } => {
            let (unit, length) = unit(name);
            let inside = match unit {
                Unit::Character(c) => ranges.iter().any(|&(low, high)| (low..=high).contains(&c)),
                Unit::Stray => false,
            };
            (inside != *negated).then_some(length)
        }
    }
}

/// The first character of a name that is not empty, and its length.
fn unit(name: &[u8]) -> (Unit, usize) {
    let whole = (1..=name.len().min(4)).find_map(|length| std::str::from_utf8(&name[..length]).ok());
    match whole.and_then(|text| text.chars().next()) {
        Some(c) => (Unit::Character(c), c.len_utf8()),
        None => (Unit::Stray, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(bytes: &[u8]) -> GlobalPath {
        GlobalPath::new(bytes).unwrap()
    }

    #[track_caller]
    fn check(pattern: &str, yes: &[&[u8]], no: &[&[u8]]) {
        let pattern = Pattern::new(pattern).unwrap();
        yes.iter().for_each(|p| assert!(pattern.matches(&path(p)), "{pattern} should match {:?}", path(p)));
        no.iter().for_each(|p| assert!(!pattern.matches(&path(p)), "{pattern} must not match {:?}", path(p)));
    }

    #[test]
    fn wildcards_stay_within_a_directory() {
        check(
            "/datasets/hot/*",
            &[b"/datasets/hot/a", b"/datasets/hot/\n"],
            &[b"/datasets/hot", b"/datasets/hot/a/b"],
        );
        check("/a?c", &[b"/abc", "/aüc".as_bytes(), b"/a\xffc"], &[b"/ac", b"/a/c", b"/abbc"]);
        check("/a[!x]c", &[b"/abc", b"/a\xffc"], &[b"/axc", b"/a/c"]);
        check("/[a-cü]", &[b"/b", "/ü".as_bytes()], &[b"/d", b"/\xc3", b"/-"]);
        check("/[]-]", &[b"/]", b"/-"], &[b"/["]);
        check("/*.dat", &[b"/x.dat", b"/.dat", b"/a.dat.dat"], &[b"/x.data", b"/d/x.dat"]);
        check("/a*b*c", &[b"/abc", b"/axxbxbc"], &[b"/acb", b"/ab"]);
        check("/\\*\\{", &[b"/*{"], &[b"/a{"]);
    }

    #[test]
    fn two_stars_cross_directories() {
        check("/results/**", &[b"/results", b"/results/a", b"/results/a/\xfe\xff"], &[b"/resultsx", b"/"]);
        check("/**", &[b"/", b"/a", b"/a/b"], &[]);
        check("/a/**/z", &[b"/a/z", b"/a/b/c/z"], &[b"/a", b"/a/z/y", b"/az"]);
        check("/**/tmp/**", &[b"/tmp", b"/a/tmp/b"], &[b"/a"]);
        check("/", &[b"/"], &[b"/a"]);
    }

    #[test]
    fn refuses_what_could_never_match() {
        let check = |text: &str, part: &str| {
            let error = Pattern::new(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("results/**", "begin with '/'");
        check("", "begin with '/'");
        check("/a/", "/dir/**");
        check("/a//b", "empty");
        check("/a/../b", "'..'");
        check("/a**", "whole component");
        check("/[a", "without its ']'");
        check("/[z-a]", "backwards");
        check("/{a,b}", "one policy for each");
        check("/a\\", "lone");
        check(&"/a".repeat(65), "64 components");
        check(&format!("/{}", "a".repeat(1024)), "1024 bytes");
    }

    #[test]
    fn reach_tells_what_lies_below() {
        let reach = |pattern: &str, at: &[u8]| Pattern::new(pattern).unwrap().reach(&path(at));
        assert!(reach("/a/**", b"/a/b").all_below && !reach("/a/**", b"/").all_below);
        assert!(reach("/a/*/c", b"/a").wildcard_below && !reach("/a/*/c", b"/a/b").wildcard_below);
        assert!(!reach("/a/b", b"/a").wildcard_below);
        let below = |at: &[u8]| Pattern::new("/a/b/*/c").unwrap().spelled_out_below(&path(at));
        assert_eq!(below(b"/"), [[b"a", b"b"]]);
        assert_eq!(below(b"/a/b/x"), [[b"c"]]);
        assert!(below(b"/a/b").is_empty() && below(b"/x").is_empty());
    }

    /// The definition, as directly as it can be written.
    fn naive(pattern: &[&str], path: &[&[u8]]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, _) => path.is_empty(),
            (Some((&"**", rest)), None) => naive(rest, path),
            (Some((&"**", rest)), Some((_, tail))) => naive(rest, path) || naive(pattern, tail),
            (Some(_), None) => false,
            (Some((name, rest)), Some((first, tail))) => {
                naive_name(name.as_bytes(), first) && naive(rest, tail)
            }
        }
    }

    fn naive_name(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((b'*', rest)), None) => naive_name(rest, name),
            (Some((b'*', rest)), Some((_, tail))) => naive_name(rest, name) || naive_name(pattern, tail),
            (Some(_), None) => false,
            (Some((b'?', rest)), Some((_, tail))) => naive_name(rest, tail),
            (Some((byte, rest)), Some((first, tail))) => byte == first && naive_name(rest, tail),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn agrees_with_the_naive_matcher(
            parts in prop::collection::vec("\\*\\*|[ab?]{1,3}|[ab]?\\*[ab?]{0,2}", 0..5),
            names in prop::collection::vec(prop::collection::vec(prop::sample::select(&b"ab\xff"[..]), 1..4), 0..5),
        ) {
            let pattern = Pattern::new(&format!("/{}", parts.join("/"))).unwrap();
            let bytes = [&b"/"[..], &names.join(&b'/')].concat();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(pattern.matches(&path(&bytes)), naive(&parts, &names));
        }
    }
}
