//! Which paths a site is to have replicas of.

use super::on_disconnect::OnDisconnect;
use super::policy::{Policy, PolicySet, SyncMode};
use globalfs_proto::{GlobalPath, SiteName};

impl PolicySet {
    /// The policy by which `site` is to have a replica of `path`.
    pub fn replica(&self, path: &GlobalPath, site: &SiteName) -> Option<&Policy> {
        self.first_match(path).filter(|policy| policy.replicate_to.contains(site))
    }

    /// Where the paths begin of which `site` is to have replicas before they are read.
    pub fn replica_roots(&self, site: &SiteName) -> Vec<GlobalPath> {
        let policies = self.replicating(site).filter(|policy| policy.sync_mode != SyncMode::Lazy);
        policies.map(|policy| policy.pattern.fixed_prefix()).collect()
    }

    /// Whether a policy may name `site` for something beneath `directory`.
    pub fn may_replicate_below(&self, directory: &GlobalPath, site: &SiteName) -> bool {
        self.replicating(site).any(|policy| policy.pattern.may_match_below(directory))
    }

    /// Whether `site` reads its replica of `path`, or of something beneath it, while the master is away.
    pub fn reads_replica_on(&self, path: &GlobalPath, site: &SiteName) -> bool {
        let reads_on = |policy: &&Policy| policy.on_disconnect == OnDisconnect::Stale;
        self.replica(path, site).filter(reads_on).is_some()
            || self.replicating(site).filter(reads_on).any(|policy| policy.pattern.may_match_below(path))
    }

    fn replicating(&self, site: &SiteName) -> impl Iterator<Item = &Policy> {
        self.policies().iter().filter(move |policy| policy.replicate_to.contains(site))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn site(name: &str) -> SiteName {
        SiteName::new(name).unwrap()
    }

    fn set(policies: &str) -> PolicySet {
        let sites = [site("onprem"), site("cloud")];
        PolicySet::new(serde_json::from_str(policies).unwrap(), &sites, site("onprem")).unwrap()
    }

    #[test]
    fn the_first_match_decides_who_has_a_replica() {
        let set = set(r#"[
            {"name": "not", "pattern": "/a/b/no/**", "primary": "onprem", "sync_mode": "async"},
            {"name": "deep", "pattern": "/a/b/**", "primary": "onprem", "replicate_to": ["cloud"],
             "sync_mode": "eager", "on_disconnect": "stale"},
            {"name": "lazy", "pattern": "/c/*", "primary": "onprem", "replicate_to": ["cloud"], "sync_mode": "lazy"}
        ]"#);
        let cloud = site("cloud");
        let named = |at: &str| set.replica(&path(at), &cloud).map(|policy| policy.name.clone());
        assert_eq!(named("/a/b/x"), Some("deep".into()));
        assert_eq!((named("/a/b/no/x"), named("/a"), named("/c/x/y")), (None, None, None));
        assert_eq!(set.replica(&path("/a/b/x"), &site("onprem")), None);
        assert_eq!(set.replica_roots(&cloud), [path("/a/b")]);
        for (at, holds, reads) in [
            ("/", true, true),
            ("/a", true, true),
            ("/a/b/x", true, true),
            ("/b", false, false),
            ("/c", true, false),
            ("/c/x", false, false),
        ] {
            assert_eq!(set.may_replicate_below(&path(at), &cloud), holds, "{at}");
            assert_eq!(set.reads_replica_on(&path(at), &cloud), reads, "{at}");
        }
    }
}
