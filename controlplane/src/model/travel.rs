//! How old, how late and how fast: the keys of a policy about travelling, and those which have no effect as they stand.

use super::consistency::Consistency;
use super::on_disconnect::OnDisconnect;
use super::policy::{Policy, PolicySet, SyncMode};
use globalfs_proto::GlobalPath;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes in a second, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteRate(pub u64);

/// A time that is kept in milliseconds.
pub(super) mod millis {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    pub(in super::super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}

/// A key that says nothing as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleKey {
    /// The policy.
    pub policy: String,
    /// Which key, and why.
    pub reason: String,
}

impl PolicySet {
    /// How old names and attributes of `path` may be where no change is told; `None`: as the site says.
    pub fn staleness(&self, path: &GlobalPath) -> Option<Duration> {
        self.first_match(path)?.bound()
    }

    /// The same of what a listing of `directory` tells.
    pub fn staleness_in(&self, directory: &GlobalPath) -> Option<Duration> {
        let below = self.policies().iter().filter(|policy| policy.pattern.may_match_below(directory));
        below.filter_map(Policy::bound).chain(self.staleness(directory)).min()
    }

    /// How late what is changed at `path` may come home, or to its replicas, before it is told.
    pub fn sync_deadline(&self, path: &GlobalPath) -> Option<Duration> {
        self.first_match(path)?.sync_deadline
    }

    /// Which changes go first: higher before lower.
    pub fn priority(&self, path: &GlobalPath) -> i32 {
        self.first_match(path).map_or(0, |policy| policy.priority)
    }

    /// The policy that limits how fast `path` travels.
    pub fn limiting(&self, path: &GlobalPath) -> Option<(&str, ByteRate)> {
        let policy = self.first_match(path)?;
        Some((policy.name.as_str(), policy.bandwidth?))
    }

    /// Keys that have no effect.
    pub fn idle_keys(&self) -> Vec<IdleKey> {
        let idle = |policy: &Policy| {
            let told = |reason| IdleKey { policy: policy.name.clone(), reason };
            policy.idle_keys().into_iter().map(told).collect::<Vec<_>>()
        };
        self.policies().iter().flat_map(idle).collect()
    }
}

impl Policy {
    /// How old names may be where no change is told.
    fn bound(&self) -> Option<Duration> {
        if self.consistency == Consistency::Lease { Some(Duration::ZERO) } else { self.staleness }
    }

    fn idle_keys(&self) -> Vec<String> {
        let mut idle = Vec::new();
        if self.sync_mode == SyncMode::Eager && self.replicate_to.is_empty() {
            idle.push("sync_mode: eager brings nothing anywhere without replicate_to".to_owned());
        }
        if self.consistency == Consistency::Lease && self.staleness.is_some() {
            idle.push("staleness has no effect: with consistency: lease it is 0s".to_owned());
        }
        let why = match (&self.primary, self.sync_mode) {
            (None, _) => "each site keeps its own files",
            (_, SyncMode::Never) => "nothing travels with sync_mode: never",
            _ => return idle,
        };
        let of_travelling = [
            ("priority", self.priority != 0),
            ("sync_deadline", self.sync_deadline.is_some()),
            ("bandwidth", self.bandwidth.is_some()),
            ("consistency", self.consistency == Consistency::Critical),
            ("on_disconnect", self.on_disconnect == OnDisconnect::Stale),
            ("staleness", self.staleness.is_some() && self.primary.is_none()),
        ];
        let idle_here = of_travelling.into_iter().filter(|(_, is_set)| *is_set);
        idle.extend(idle_here.map(|(key, _)| format!("{key} has no effect: {why}")));
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globalfs_proto::SiteName;

    fn set(policies: &str) -> PolicySet {
        let site = SiteName::new("onprem").unwrap();
        PolicySet::new(serde_json::from_str(policies).unwrap(), std::slice::from_ref(&site), site.clone())
            .unwrap()
    }

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_listing_is_as_fresh_as_its_freshest_name_has_to_be() {
        let set = set(r#"[
            {"name": "c", "pattern": "/c/**", "primary": "onprem", "sync_mode": "lazy", "consistency": "lease"},
            {"name": "a", "pattern": "/a/*", "primary": "onprem", "sync_mode": "lazy", "staleness_ms": 50,
             "bandwidth_bytes_per_second": 7, "sync_deadline_ms": 9},
            {"name": "b", "pattern": "/**", "primary": "onprem", "sync_mode": "lazy", "staleness_ms": 900, "priority": 3}
        ]"#);
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!((set.staleness(&path("/c/x")), set.staleness_in(&path("/c"))), (ms(0), ms(0)));
        assert_eq!((set.staleness(&path("/a/x")), set.staleness(&path("/a"))), (ms(50), ms(900)));
        assert_eq!((set.staleness_in(&path("/a")), set.staleness_in(&path("/b"))), (ms(50), ms(900)));
        assert_eq!(set.limiting(&path("/a/x")), Some(("a", ByteRate(7))));
        assert_eq!((set.limiting(&path("/b")), set.priority(&path("/b"))), (None, 3));
        assert_eq!((set.sync_deadline(&path("/a/x")), set.sync_deadline(&path("/b"))), (ms(9), None));
    }

    #[test]
    fn keys_without_effect_are_told() {
        let check = |rest: &str, wanted: &[&str]| {
            let set = set(&format!(r#"[{{"name": "p", "pattern": "/a/**", {rest}}}]"#));
            let told: Vec<String> = set.idle_keys().into_iter().map(|idle| idle.reason).collect();
            assert_eq!(told.len(), wanted.len(), "{rest}: {told:?}");
            for (told, wanted) in told.iter().zip(wanted) {
                assert!(told.starts_with(wanted), "{told}");
            }
        };
        check(r#""primary": "onprem", "sync_mode": "eager""#, &["sync_mode: eager"]);
        check(r#""primary": "onprem", "sync_mode": "async", "priority": 5, "consistency": "critical""#, &[]);
        check(r#""primary": null, "sync_mode": "lazy", "staleness_ms": 5"#, &["staleness"]);
        check(
            r#""primary": "onprem", "sync_mode": "never", "priority": 5, "bandwidth_bytes_per_second": 1, "staleness_ms": 5"#,
            &["priority", "bandwidth"],
        );
    }
}
