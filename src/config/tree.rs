//! A YAML file as a tree in which each value knows its place.
//!
//! Configuration is read from this tree rather than by derived code, because one pass over it finds all
//! problems of a file, each with its line, column and nearest valid key.
//!
//! *Invariant:* reading is bounded: by [`MAX_FILE_BYTES`] and by the budget on nesting and aliases.

use super::problem::{Position, Problems};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter, Options, Spanned};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most bytes of a configuration file; a thousand policies take a fifth of it.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Most values in a file after its aliases were expanded.
const MAX_NODES: usize = 50_000;

/// Deepest nesting; ours is four.
const MAX_DEPTH: usize = 16;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) value: Value,
}

/// What YAML knows, without its tags.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a map.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) position: Position,
    pub(super) node: Node,
}

impl Node {
    /// Reads the file `path`; what is wrong goes to `problems`.
    pub(super) fn read(path: &Path, problems: &Problems) -> Option<Self> {
        let bytes = match read_limited(path) {
            Ok(bytes) => bytes,
            Err(message) => {
                problems.add_for_file(message);
                return None;
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(&text, problems),
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                problems.add(end_of(&String::from_utf8_lossy(valid)), "not UTF-8; expected a text file");
                None
            }
        }
    }

    fn parse(text: &str, problems: &Problems) -> Option<Self> {
        let parsed = serde_saphyr::from_str_with_options::<Node>(text, options());
        match parsed {
            Ok(Node { value: Value::Null, .. }) | Err(Error::Eof { .. }) if !has_content(text) => {
                problems.add_for_file("the file is empty");
            }
            Ok(node) => return Some(node),
            Err(error) => {
                let location = error.location().filter(|at| at.line() > 0);
                let position = location.map_or_else(|| end_of(text), |at| at_line(at.line(), at.column()));
                problems.add(position, describe(&error));
            }
        }
        None
    }

    /// The entries of a map.
    pub(super) fn entries(&self) -> Option<&[Entry]> {
        if let Value::Map(entries) = &self.value { Some(entries) } else { None }
    }
}

impl Value {
    /// What this is, for "found ...".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(value) => format!("the truth value {value}"),
            Self::Integer(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(text) => format!("\"{}\"", shortened(text)),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a map".into(),
        }
    }
}

fn read_limited(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {}", plain(&error));
    let file = File::open(path).map_err(cannot)?;
    if file.metadata().map_err(cannot)?.is_dir() {
        return Err("is a directory; expected a file".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is larger than {MAX_FILE_BYTES} bytes, the most that a configuration may have"));
    }
    Ok(bytes)
}

/// The error without the number that the standard library appends.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Truth values are `true` and `false` alone, so that a site may be called `on`.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_aliases: 256,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
        strict_booleans: true,
        with_snippet: false,
    }
}

fn describe(error: &Error) -> String {
    let text = DefaultMessageFormatter.format_message(error).into_owned();
    match error {
        Error::AliasError { error, .. } => describe(error),
        Error::MultipleDocuments { .. } => "a second document begins; expected one document".into(),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("duplicate key `{}`; a key may stand once in its map", shortened(key))
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            format!("too deeply nested, or too large after its aliases are expanded: {text}")
        }
        _ => format!("not valid YAML: {text}"),
    }
}

fn shortened(text: &str) -> String {
    const MAX_SHOWN: usize = 60;
    match text.char_indices().nth(MAX_SHOWN) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

fn has_content(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}');
    text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#') && line != "---")
}

fn end_of(text: &str) -> Position {
    let last = text.rsplit('\n').next().unwrap_or_default();
    at_line(text.matches('\n').count() as u64 + 1, last.chars().count() as u64 + 1)
}

fn at_line(line: u64, column: u64) -> Position {
    Position { line, column }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { position: at_line(referenced.line(), referenced.column()), value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(Spanned { value: key, referenced, .. }) = map.next_key::<Spanned<String>>()? {
            let position = at_line(referenced.line(), referenced.column());
            entries.push(Entry { key, position, node: map.next_value()? });
        }
        Ok(Value::Map(entries))
    }
}
