//! Paths of the global namespace.
//!
//! *Invariant:* a [`GlobalPath`] is absolute and normal: no `.`, no `..`, no empty component, no NUL, no
//! component above 255 bytes, at most 4,095 bytes in all. Bytes need not be UTF-8. So joining one to an
//! origin's directory can never leave it by name.

use crate::limits::{MAX_NAME, MAX_PATH};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An absolute, normal path below `/globalfs`; the root is `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GlobalPath(Box<[u8]>);

/// Why bytes are not a path of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The first byte is not `/`.
    #[error("a path begins with '/'")]
    NotAbsolute,
    /// A component is `.`, `..` or empty.
    #[error("a path has no component '.', '..' or empty")]
    NotNormal,
    /// A NUL byte.
    #[error("a path has no NUL byte")]
    Nul,
    /// A component above 255 bytes or a path above 4,095.
    #[error("a path has at most {MAX_PATH} bytes and each component at most {MAX_NAME}")]
    TooLong,
    /// A `%` in a record without two digits behind it.
    #[error("in a record '%' has two hexadecimal digits behind it")]
    Escape,
}

impl GlobalPath {
    /// The root of the namespace.
    pub fn root() -> Self {
        Self(Box::from(&b"/"[..]))
    }

    /// Checks `bytes`, which must be absolute and normal already; a trailing slash is refused.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.first() != Some(&b'/') {
            return Err(PathError::NotAbsolute);
        }
        if bytes.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        if bytes.len() > 1 {
            bytes[1..].split(|&b| b == b'/').try_for_each(check_name)?;
        }
        Ok(Self(bytes.into()))
    }

    /// What a person typed: repeated and trailing slashes and `.` are dropped, `..` is refused.
    pub fn parse(text: &[u8]) -> Result<Self, PathError> {
        if text.first() != Some(&b'/') {
            return Err(PathError::NotAbsolute);
        }
        let mut clean = Vec::with_capacity(text.len());
        for name in text.split(|&b| b == b'/').filter(|n| !n.is_empty() && *n != b".") {
            clean.push(b'/');
            clean.extend_from_slice(name);
        }
        if clean.is_empty() { Ok(Self::root()) } else { Self::new(&clean) }
    }

    /// The path of `name` in this directory.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        let stem = if self.is_root() { &[][..] } else { &self.0[..] };
        if stem.len() + 1 + name.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        Ok(Self([stem, b"/", name].concat().into()))
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The bytes, beginning with `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes without the leading `/`; empty for the root. What is opened below an origin's directory.
    pub fn relative(&self) -> &[u8] {
        &self.0[1..]
    }

    /// The components from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.relative().split(|&b| b == b'/').filter(|n| !n.is_empty())
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.components().next_back().unwrap_or_default()
    }

    /// The directory that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let cut = self.0.iter().rposition(|&b| b == b'/')?;
        match (self.is_root(), cut) {
            (true, _) => None,
            (false, 0) => Some(Self::root()),
            (false, _) => Some(Self(self.0[..cut].into())),
        }
    }

    /// Whether this path is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        other.is_root()
            || (self.0.starts_with(&other.0) && matches!(self.0.get(other.0.len()), None | Some(b'/')))
    }
}

fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" | b"." | b".." => Err(PathError::NotNormal),
        _ if name.contains(&b'/') => Err(PathError::NotNormal),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ if name.len() > MAX_NAME => Err(PathError::TooLong),
        _ => Ok(()),
    }
}

impl fmt::Display for GlobalPath {
    /// Readable on a terminal and in a log: what is not printable UTF-8 is escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.utf8_chunks() {
            for c in part.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
            }
            part.invalid().iter().try_for_each(|b| write!(f, "\\x{b:02x}"))?;
        }
        Ok(())
    }
}

/// As records have it: `%` and what is not printable UTF-8 as `%` and two hexadecimal digits for each byte.
impl From<GlobalPath> for String {
    fn from(path: GlobalPath) -> Self {
        let mut text = Self::with_capacity(path.0.len());
        let escape = |bytes: &[u8], text: &mut Self| {
            bytes.iter().for_each(|byte| text.push_str(&format!("%{byte:02x}")));
        };
        for part in path.0.utf8_chunks() {
            for c in part.valid().chars() {
                if c.is_control() || c == '%' {
                    escape(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut text);
                } else {
                    text.push(c);
                }
            }
            escape(part.invalid(), &mut text);
        }
        text
    }
}

impl TryFrom<String> for GlobalPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut parts = text.as_bytes().split(|byte| *byte == b'%');
        bytes.extend_from_slice(parts.next().unwrap_or_default());
        for part in parts {
            let digits = part.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte =
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(PathError::Escape)?;
            bytes.push(byte);
            bytes.extend_from_slice(&part[2..]);
        }
        Self::new(&bytes)
    }
}

impl fmt::Debug for GlobalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn refuses_what_could_leave_the_tree() {
        let check = |bytes: &[u8], why| assert_eq!(GlobalPath::new(bytes), Err(why), "{bytes:?}");
        check(b"", PathError::NotAbsolute);
        check(b"a", PathError::NotAbsolute);
        check(b"/a/../b", PathError::NotNormal);
        check(b"/..", PathError::NotNormal);
        check(b"/a/./b", PathError::NotNormal);
        check(b"/a//b", PathError::NotNormal);
        check(b"/a/", PathError::NotNormal);
        check(b"/a\0b", PathError::Nul);
        check(format!("/{}", "x".repeat(256)).as_bytes(), PathError::TooLong);
        check("/x".repeat(2048).as_bytes(), PathError::TooLong);
    }

    #[test]
    fn accepts_odd_names() {
        for bytes in
            [&b"/"[..], b"/a", b"/a\nb", b"/\xff\xfe", b"/ ", b"/...", &[b"/", &[b'x'; 255][..]].concat()]
        {
            assert_eq!(GlobalPath::new(bytes).unwrap().as_bytes(), bytes);
        }
    }

    #[test]
    fn navigates() {
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(GlobalPath::root()));
        assert_eq!(GlobalPath::root().parent(), None);
        assert_eq!(GlobalPath::root().join(b"a").unwrap(), path("/a"));
        assert_eq!(path("/a").join(b"b").unwrap(), path("/a/b"));
        assert!(path("/a").join(b"..").is_err() && path("/a").join(b"b/c").is_err());
        assert!(path("/a/b").starts_with(&path("/a")) && path("/a").starts_with(&path("/a")));
        assert!(!path("/ab").starts_with(&path("/a")) && path("/ab").starts_with(&GlobalPath::root()));
        assert_eq!(path("/a/b").name(), b"b");
    }

    #[test]
    fn parses_what_people_type() {
        assert_eq!(GlobalPath::parse(b"//a/./b/").unwrap(), path("/a/b"));
        assert_eq!(GlobalPath::parse(b"///").unwrap(), GlobalPath::root());
        assert_eq!(GlobalPath::parse(b"/a/../b"), Err(PathError::NotNormal));
    }

    #[test]
    fn records_have_every_path_as_text() {
        for bytes in [&b"/"[..], b"/a b", b"/100%/%41", b"/a\nb\xff\xc3\xa9/\x7f"] {
            let text = String::from(GlobalPath::new(bytes).unwrap());
            assert!(!text.chars().any(char::is_control));
            assert_eq!(GlobalPath::try_from(text).unwrap().as_bytes(), bytes);
        }
        assert_eq!(String::from(GlobalPath::new(b"/100%\n").unwrap()), "/100%25%0a");
        for wrong in ["/a%", "/a%1", "/a%zz", "/a%2f"] {
            assert!(GlobalPath::try_from(wrong.to_owned()).is_err() || wrong == "/a%2f", "{wrong}");
        }
    }

    #[test]
    fn displays_escaped() {
        assert_eq!(GlobalPath::new(b"/a\nb\xff").unwrap().to_string(), "/a\\nb\\xff");
    }
}
