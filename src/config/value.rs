//! The kinds of values that configuration knows: sizes, durations, addresses, names, paths, choices.
//!
//! *Invariant:* what one of these types holds was checked when it was read.

use super::fields::nearest;
use super::mount::TraceMode;
use super::tree::Value;
use globalfs_controlplane::model::pattern::Pattern;
use globalfs_controlplane::model::policy::{Consistency, OnDisconnect, SyncMode};
use globalfs_controlplane::model::record::SiteRole;
use globalfs_controlplane::model::travel::ByteRate;
use globalfs_dataplane::disk::Preference;
use globalfs_proto::limits::MAX_DEADLINE;
use globalfs_proto::{NodeName, SiteName};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A value that is not a list or a map.
pub(super) trait Scalar: Sized {
    /// What belongs here, for "expected ...".
    const EXPECTED: &'static str;

    /// Reads text; the error says what is wrong with it.
    fn parse(text: &str) -> Result<Self, String>;

    /// Reads a YAML value; only types for which a number makes sense take one.
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Self::parse(text),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                Err(format!("found {}, which quotes would make text", value.describe()))
            }
            other => Err(format!("found {}", other.describe())),
        }
    }
}

fn found(text: &str) -> String {
    format!("found {}", Value::Text(text.to_owned()).describe())
}

/// A number of bytes, written as `512MiB`, `10GB`, `1.5TiB` or a plain integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let unit_bytes = size_unit(unit).ok_or_else(|| wrong_unit(text, unit))?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit_bytes).map(Self).ok_or_else(|| format!("{text} is too large"));
        }
        let parsed = number.parse::<f64>().map_err(|_| found(text))?;
        let bytes = (parsed * unit_bytes as f64).round();
        if unit_bytes > 1 && bytes < u64::MAX as f64 { Ok(Self(bytes as u64)) } else { Err(found(text)) }
    }
}

fn size_unit(unit: &str) -> Option<u64> {
    let known = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
    if unit.is_empty() { Some(1) } else { known.map(|(_, bytes)| *bytes) }
}

fn wrong_unit(text: &str, unit: &str) -> String {
    match unit.to_ascii_uppercase().as_str() {
        letter @ ("K" | "M" | "G" | "T" | "P") => {
            format!("the unit {unit} is ambiguous: write {letter}iB (powers of 1024) or {letter}B (of 1000)")
        }
        _ => found(text),
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that needs at most one decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS[6..].iter().rev().find(|(_, bytes)| self.0 >= *bytes);
        match unit {
            Some((name, bytes)) if self.0.is_multiple_of(*bytes) => write!(f, "{}{name}", self.0 / bytes),
            Some((name, bytes)) => write!(f, "{:.1}{name}", self.0 as f64 / *bytes as f64),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Scalar for ByteSize {
    const EXPECTED: &'static str = "a size such as 512MiB, 10GB, 1.5TiB or a whole number of bytes";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Integer(bytes) => u64::try_from(*bytes).map(Self).map_err(|_| format!("found {bytes}")),
            Value::Text(text) => Self::parse(text),
            other => Err(format!("found {}", other.describe())),
        }
    }
}

/// How long something may be cached: any time up to a day, also none.
pub(super) struct Ttl(pub(super) Duration);

/// How late something may be: a second to thirty days.
pub(super) struct Age(pub(super) Duration);

/// How long an operation may take.
pub(super) struct Deadline(pub(super) Duration);

impl Scalar for Ttl {
    const EXPECTED: &'static str = "a duration from 0s to 1day, such as 500ms, 5s or 10m";

    fn parse(text: &str) -> Result<Self, String> {
        const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
        duration(text, Duration::ZERO, MAX_TTL).map(Self)
    }
}

impl Scalar for Age {
    const EXPECTED: &'static str = "a duration from 1s to 30days, such as 10m";

    fn parse(text: &str) -> Result<Self, String> {
        const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
        duration(text, Duration::from_secs(1), MAX_AGE).map(Self)
    }
}

impl Scalar for ByteRate {
    const EXPECTED: &'static str = "a rate of at least 64KB/s, such as 100MB/s or 1GiB/s";

    fn parse(text: &str) -> Result<Self, String> {
        /// Below it a single chunk takes seconds.
        const LEAST: u64 = 64_000;
        let size = text.strip_suffix("/s").ok_or_else(|| found(text))?.parse::<ByteSize>();
        size.ok().filter(|size| size.0 >= LEAST).map(|size| Self(size.0)).ok_or_else(|| found(text))
    }
}

impl Scalar for Deadline {
    const EXPECTED: &'static str = "a duration from 100ms to 10m, such as 30s";

    fn parse(text: &str) -> Result<Self, String> {
        duration(text, Duration::from_millis(100), MAX_DEADLINE).map(Self)
    }
}

fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).map_err(|_| found(text))?;
    if (least..=most).contains(&parsed) { Ok(parsed) } else { Err(found(text)) }
}

/// A host by name or address, and a port: where others reach a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Self::from(address).checked(text);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{} without a port", found(text)))?;
        let port = port.parse().map_err(|_| found(text))?;
        Self { host: host.to_owned(), port }.checked(text)
    }
}

impl HostPort {
    fn checked(self, text: &str) -> Result<Self, String> {
        let label = |label: &str| {
            let inner = label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
            inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        let name = self.host.strip_suffix('.').unwrap_or(&self.host);
        let host = match self.host.parse::<IpAddr>() {
            Ok(address) => !address.is_unspecified(),
            // A name that is all digits and dots is a mistyped address.
            Err(_) => {
                let digits = name.bytes().all(|c| c.is_ascii_digit() || c == b'.');
                name.len() <= 253 && !digits && name.split('.').all(label)
            }
        };
        if host && self.port != 0 { Ok(self) } else { Err(found(text)) }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The number of a user or a group, or how many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(pub u32);

impl Scalar for Id {
    const EXPECTED: &'static str = "a number from 0 to 4294967294";

    fn parse(text: &str) -> Result<Self, String> {
        Err(found(text))
    }

    fn read(value: &Value) -> Result<Self, String> {
        let Value::Integer(number) = value else { return Err(format!("found {}", value.describe())) };
        let id = u32::try_from(*number).ok().filter(|id| *id != u32::MAX);
        id.map(Self).ok_or_else(|| format!("found {number}"))
    }
}

impl Scalar for HostPort {
    const EXPECTED: &'static str = "HOST:PORT at which others reach it, such as gfs.example.org:7441";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl Scalar for SocketAddr {
    const EXPECTED: &'static str = "IP:PORT of this machine, such as 0.0.0.0:7440 or [::]:7440";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| found(text))
    }
}

/// The storage that holds a site's own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginUrl {
    /// `file://DIR`: a directory, used in place.
    File(PathBuf),
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::File(directory) = self;
        write!(f, "file://{}", directory.display())
    }
}

impl Scalar for OriginUrl {
    const EXPECTED: &'static str = "file:// and an absolute directory, such as file:///mnt/data";

    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("file", directory)) if directory.starts_with('/') && !directory.contains('\0') => {
                Ok(Self::File(directory.into()))
            }
            Some(("file", _)) => Err(format!("{}, whose directory is not absolute", found(text))),
            Some((scheme, _)) => Err(format!("the scheme {scheme}:// is for a later release")),
            None => Err(found(text)),
        }
    }
}

impl Scalar for PathBuf {
    const EXPECTED: &'static str = "a path; a relative one refers to the directory of this file";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') { Err(found(text)) } else { Ok(text.into()) }
    }
}

impl Scalar for String {
    const EXPECTED: &'static str = "text";

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() { Err(found(text)) } else { Ok(text.to_owned()) }
    }
}

impl Scalar for SiteName {
    const EXPECTED: &'static str =
        "a name: 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|_| found(text))
    }
}

impl Scalar for NodeName {
    const EXPECTED: &'static str = SiteName::EXPECTED;

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|_| found(text))
    }
}

impl Scalar for Pattern {
    const EXPECTED: &'static str = "a pattern such as /datasets/*.dat or /results/**";

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| error.to_string())
    }
}

impl Scalar for i32 {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str) -> Result<Self, String> {
        Err(found(text))
    }

    fn read(value: &Value) -> Result<Self, String> {
        let number = if let Value::Integer(number) = value { Self::try_from(*number).ok() } else { None };
        number.ok_or_else(|| format!("found {}", value.describe()))
    }
}

impl Scalar for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, String> {
        Err(found(text))
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(value) => Ok(*value),
            other => Err(format!("found {}", other.describe())),
        }
    }
}

impl Scalar for Preference {
    const EXPECTED: &'static str = "one of auto, uring, posix";

    fn parse(text: &str) -> Result<Self, String> {
        choice(text, &[("auto", Self::Auto), ("uring", Self::Uring), ("posix", Self::Posix)])
    }
}

impl Scalar for TraceMode {
    const EXPECTED: &'static str = "one of off, record, replay";

    fn parse(text: &str) -> Result<Self, String> {
        choice(text, &[("off", Self::Off), ("record", Self::Record), ("replay", Self::Replay)])
    }

    /// YAML 1.1 took `off` for a truth value.
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(false) => Ok(Self::Off),
            Value::Text(text) => Self::parse(text),
            _ => Err(format!("found {}", value.describe())),
        }
    }
}

impl Scalar for SiteRole {
    const EXPECTED: &'static str = "one of primary, burst, backup";

    fn parse(text: &str) -> Result<Self, String> {
        named(text, [Self::Primary, Self::Burst, Self::Backup])
    }
}

impl Scalar for SyncMode {
    const EXPECTED: &'static str = "one of eager, lazy, async, never";

    fn parse(text: &str) -> Result<Self, String> {
        named(text, [Self::Eager, Self::Lazy, Self::Async, Self::Never])
    }
}

impl Scalar for OnDisconnect {
    const EXPECTED: &'static str = "stale or fail";

    fn parse(text: &str) -> Result<Self, String> {
        choice(text, &[("stale", Self::Stale), ("fail", Self::Fail)])
    }
}

impl Scalar for Consistency {
    const EXPECTED: &'static str = "eventual, lease or critical";

    fn parse(text: &str) -> Result<Self, String> {
        choice(text, &[("eventual", Self::Eventual), ("lease", Self::Lease), ("critical", Self::Critical)])
    }
}

/// The choice whose printed form is `text`.
fn named<T: Copy + fmt::Display, const N: usize>(text: &str, choices: [T; N]) -> Result<T, String> {
    let names = choices.map(|choice| (choice.to_string(), choice));
    choice(text, &names.each_ref().map(|(name, choice)| (name.as_str(), *choice)))
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    Err(match nearest(text, choices.iter().map(|(name, _)| *name)) {
        Some(near) => format!("{} (did you mean `{near}`?)", found(text)),
        None => found(text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_as_they_are_read() {
        let check = |text: &str, bytes: u64, shown: &str| {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
        };
        check("0", 0, "0B");
        check("4096", 4096, "4KiB");
        check("512MiB", 512 << 20, "512MiB");
        check("10GB", 10_000_000_000, "9.3GiB");
        check("1.5TiB", 3 << 39, "1.5TiB");
        check("1.5 kib", 1536, "1.5KiB");
        check("18446744073709551615", u64::MAX, "16384.0PiB");
    }

    #[test]
    fn hosts_print_as_they_are_read() {
        for text in ["gfs.example.org:7441", "10.0.0.1:1", "[fd00::1]:7441", "localhost:65535"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
    }
}
