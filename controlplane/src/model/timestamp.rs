//! Points in time as records hold them: milliseconds inside, RFC 3339 text outside.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::time::Duration;

/// A point in time to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The point `unix_ms` milliseconds after 1970-01-01T00:00:00Z; what is out of range becomes the end of
    /// the range.
    pub fn from_unix_ms(unix_ms: i64) -> Self {
        Self(jiff::Timestamp::from_millisecond(unix_ms).unwrap_or(jiff::Timestamp::MAX))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn unix_ms(self) -> i64 {
        self.0.as_millisecond()
    }

    /// This point moved into the future.
    pub fn after(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self::from_unix_ms(self.unix_ms().saturating_add(ms))
    }

    /// How long ago `earlier` was; zero when it is still to come.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.unix_ms() - earlier.unix_ms()).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_rfc_3339() {
        let time = Timestamp::from_unix_ms(1_760_644_800_250);
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2025-10-16T20:00:00.25Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>("\"2025-10-16T20:00:00.250Z\"").unwrap(), time);
        assert!(serde_json::from_str::<Timestamp>("\"yesterday\"").is_err());
    }

    #[test]
    fn distances_never_go_below_zero() {
        let time = Timestamp::from_unix_ms(1_000);
        assert_eq!(time.after(Duration::from_secs(1)).since(time), Duration::from_secs(1));
        assert_eq!(time.since(time.after(Duration::from_secs(1))), Duration::ZERO);
        assert!(time.after(Duration::MAX) > time);
    }
}
