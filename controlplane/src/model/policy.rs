//! Placement policies: which site is a path's home, where its replicas are, how it travels.
//!
//! *Invariants:* the first policy in file order that matches a path decides, and nothing else does; a
//! [`PolicySet`] names only sites of the cluster; the same set and path give the same decision everywhere.

pub use super::consistency::Consistency;
pub use super::on_disconnect::OnDisconnect;
pub use super::sync_mode::SyncMode;

use super::pattern::Pattern;
use super::travel::{ByteRate, millis};
use globalfs_proto::{GlobalPath, SiteName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::time::Duration;

/// Most policies of a cluster.
pub const MAX_POLICIES: usize = 1024;

/// One policy, as it is written in the policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What messages call this policy; unique in its file.
    pub name: String,
    /// The paths it is about.
    pub pattern: Pattern,
    /// The site that is home to these paths; null: every site keeps its own. Null must be written out.
    #[serde(deserialize_with = "Option::deserialize")]
    pub primary: Option<SiteName>,
    /// The sites that hold whole copies.
    #[serde(default)]
    pub replicate_to: Vec<SiteName>,
    /// When bytes travel.
    pub sync_mode: SyncMode,
    /// Which transfers go first: higher before lower.
    #[serde(default)]
    pub priority: i32,
    /// What is read while the site that holds a subtree is away.
    #[serde(default, skip_serializing_if = "OnDisconnect::is_default")]
    pub on_disconnect: OnDisconnect,
    /// When a change counts as made.
    #[serde(default, skip_serializing_if = "Consistency::is_default")]
    pub consistency: Consistency,
    /// How old names and attributes may be where no change is told.
    #[serde(default, rename = "staleness_ms", with = "millis", skip_serializing_if = "Option::is_none")]
    pub staleness: Option<Duration>,
    /// How late a change may come home, or to the replicas.
    #[serde(default, rename = "sync_deadline_ms", with = "millis", skip_serializing_if = "Option::is_none")]
    pub sync_deadline: Option<Duration>,
    /// How fast changes come home, and copies to each replica, at most.
    #[serde(default, rename = "bandwidth_bytes_per_second", skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<ByteRate>,
}

/// The policy file: one key, `policies`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// The policies in the order in which they are tried.
    pub policies: Vec<Policy>,
}

/// The site that is home to a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Primary {
    /// One site for the whole cluster.
    Site(SiteName),
    /// Each site keeps its own files under this path.
    EachSite,
}

/// What the policies say about one path.
#[derive(Debug, Clone)]
pub struct Decision<'a> {
    /// The policy that decided; `None`: no policy matches.
    pub policy: Option<&'a Policy>,
    /// The path's home.
    pub primary: Primary,
    /// The sites with whole copies.
    pub replicas: &'a [SiteName],
    /// When bytes travel.
    pub sync_mode: SyncMode,
    /// The reason in words.
    pub why: String,
}

/// How one policy stands to a path, for `globalfs policy test`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The policy.
    pub policy: String,
    /// Its pattern.
    pub pattern: String,
    /// Whether the pattern matches the path.
    pub matches: bool,
    /// Whether this policy decides.
    pub decides: bool,
    /// The reason in words.
    pub why: String,
}

/// Why policies do not fit together or do not fit the cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A policy contradicts itself, another one, or the cluster's sites.
    #[error("policy '{policy}': {reason}")]
    Policy {
        /// The policy's name.
        policy: String,
        /// What is wrong.
        reason: String,
    },
    /// The default primary is no site of the cluster.
    #[error("the default primary '{0}' is not a site of this cluster")]
    DefaultPrimary(SiteName),
    /// More than [`MAX_POLICIES`].
    #[error("{0} policies are more than the {MAX_POLICIES} that a cluster may have")]
    TooMany(usize),
}

/// All policies of a cluster, checked against its sites.
#[derive(Debug, Clone)]
pub struct PolicySet {
    policies: Vec<Policy>,
    default_primary: SiteName,
}

impl PolicySet {
    /// Checks `policies`; paths that none of them matches belong to `default_primary`.
    pub fn new(
        policies: Vec<Policy>,
        sites: &[SiteName],
        default_primary: SiteName,
    ) -> Result<Self, PolicyError> {
        if policies.len() > MAX_POLICIES {
            return Err(PolicyError::TooMany(policies.len()));
        }
        if !sites.contains(&default_primary) {
            return Err(PolicyError::DefaultPrimary(default_primary));
        }
        let mut names = HashSet::new();
        for policy in &policies {
            let fault = if names.insert(&policy.name) {
                policy.fault(sites)
            } else {
                Some("the name is used twice".into())
            };
            if let Some(reason) = fault {
                return Err(PolicyError::Policy { policy: policy.name.clone(), reason });
            }
        }
        Ok(Self { policies, default_primary })
    }

    /// The policies in order.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The home of paths that no policy matches.
    pub fn default_primary(&self) -> &SiteName {
        &self.default_primary
    }

    /// The first policy that matches decides; where none does, the default primary with lazy transfer.
    pub fn decide(&self, path: &GlobalPath) -> Decision<'_> {
        match self.first_match(path) {
            Some(policy) => Decision {
                policy: Some(policy),
                primary: policy.home(),
                replicas: &policy.replicate_to,
                sync_mode: policy.sync_mode,
                why: format!(
                    "policy '{}' is the first whose pattern {} matches",
                    policy.name, policy.pattern
                ),
            },
            None => Decision {
                policy: None,
                primary: self.default_home(),
                replicas: &[],
                sync_mode: SyncMode::Lazy,
                why: format!("no policy matches; {} is the cluster's default primary", self.default_primary),
            },
        }
    }

    /// The home of `path`, without the words of [`Self::decide`].
    pub fn primary(&self, path: &GlobalPath) -> Primary {
        self.first_match(path).map_or_else(|| self.default_home(), Policy::home)
    }

    /// What is read of `path` while the site that holds it is away.
    pub fn on_disconnect(&self, path: &GlobalPath) -> OnDisconnect {
        self.first_match(path).map(|policy| policy.on_disconnect).unwrap_or_default()
    }

    /// The directories around `path`, the outermost first, that another site than `primary` may hold a lease on: beneath the
    /// part of the policy's pattern that is spelled out, which many share, and with one home for all that is in them.
    pub fn leasable(&self, path: &GlobalPath, primary: &SiteName) -> Vec<GlobalPath> {
        let Some(policy) = self.first_match(path).filter(|policy| policy.sync_mode != SyncMode::Never) else {
            return Vec::new();
        };
        if policy.home() != Primary::Site(primary.clone()) {
            return Vec::new();
        }
        let above = std::iter::successors(path.parent(), GlobalPath::parent);
        let deep = |dir: &GlobalPath| dir.components().count() > policy.pattern.fixed_depth();
        let mut dirs: Vec<GlobalPath> = above.take_while(deep).filter(|dir| self.has_one_home(dir)).collect();
        dirs.reverse();
        dirs
    }

    fn has_one_home(&self, dir: &GlobalPath) -> bool {
        self.listing_homes(dir).len() == 1 && self.junctions(dir).is_empty()
    }

    /// Every policy in order with whether it matches `path` and why.
    pub fn explain(&self, path: &GlobalPath) -> Vec<Explanation> {
        let first = self.first_match(path).map(|policy| policy.name.as_str());
        self.policies.iter().map(|policy| policy.explain(path, first)).collect()
    }

    /// Names directly under `dir` that are, or lead to, a place whose home differs from `dir`'s own.
    ///
    /// The home of `dir` may know nothing of these names, so a listing adds them, as far as they exist at
    /// their own home.
    pub fn junctions(&self, dir: &GlobalPath) -> Vec<Vec<u8>> {
        let home = self.primary(dir);
        let mut names = BTreeSet::new();
        for (at, policy) in self.policies.iter().enumerate().filter(|(_, policy)| policy.home() != home) {
            for mut run in policy.pattern.spelled_out_below(dir) {
                if !self.is_shadowed(at, dir, &run) {
                    names.insert(run.swap_remove(0));
                }
            }
        }
        names.into_iter().collect()
    }

    /// Every home whose listing of `dir` may hold names that the listing shows: `dir`'s own first, then
    /// those of policies with a wildcard just below it, such as `/datasets/hot/*` for `/datasets/hot`.
    pub fn listing_homes(&self, dir: &GlobalPath) -> Vec<Primary> {
        let mut homes = vec![self.primary(dir)];
        let mut add = |home: Primary| {
            if !homes.contains(&home) {
                homes.push(home);
            }
        };
        for policy in &self.policies {
            let reach = policy.pattern.reach(dir);
            if reach.wildcard_below {
                add(policy.home());
            }
            if reach.all_below {
                return homes;
            }
        }
        add(self.default_home());
        homes
    }

    pub(super) fn first_match(&self, path: &GlobalPath) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.pattern.matches(path))
    }

    fn default_home(&self) -> Primary {
        Primary::Site(self.default_primary.clone())
    }

    /// Whether a policy before the one at `at` takes everything below `dir` and these components, so that
    /// the one at `at` never decides there.
    fn is_shadowed(&self, at: usize, dir: &GlobalPath, below: &[Vec<u8>]) -> bool {
        let path = below.iter().try_fold(dir.clone(), |path, name| path.join(name));
        // What is too long to be a path holds no files.
        path.map_or(true, |path| self.policies[..at].iter().any(|other| other.pattern.reach(&path).all_below))
    }
}

impl Policy {
    /// The home that this policy gives to its paths.
    pub fn home(&self) -> Primary {
        self.primary.clone().map_or(Primary::EachSite, Primary::Site)
    }

    /// How this policy stands to `path`, of which `first` names the policy that decides.
    fn explain(&self, path: &GlobalPath, first: Option<&str>) -> Explanation {
        let matches = self.pattern.matches(path);
        let decides = first == Some(&self.name);
        let why = match first {
            _ if !matches => format!("{} does not match {path}", self.pattern),
            Some(first) if !decides => format!("{} matches {path}, but '{first}' comes first", self.pattern),
            _ => format!("{} matches {path} and is the first to do so", self.pattern),
        };
        let (policy, pattern) = (self.name.clone(), self.pattern.to_string());
        Explanation { policy, pattern, matches, decides, why }
    }

    /// What is wrong with this policy in a cluster of `sites`.
    fn fault(&self, sites: &[SiteName]) -> Option<String> {
        let unknown = self.primary.iter().chain(&self.replicate_to).find(|site| !sites.contains(site));
        if let Some(site) = unknown {
            return Some(format!("'{site}' is not a site of this cluster; its sites are {}", listed(sites)));
        }
        if self.name.trim().is_empty() {
            return Some("the name is empty".into());
        }
        if let Some(site) = self.primary.as_ref().filter(|site| self.replicate_to.contains(site)) {
            return Some(format!("replicate_to contains the primary '{site}'"));
        }
        let mut seen = HashSet::new();
        if let Some(site) = self.replicate_to.iter().find(|site| !seen.insert(*site)) {
            return Some(format!("replicate_to names '{site}' twice"));
        }
        match (self.replicate_to.is_empty(), &self.primary, self.sync_mode) {
            (false, None, _) => Some("replicate_to needs a primary to copy from, and primary is null".into()),
            (false, _, SyncMode::Never) => Some("sync_mode never contradicts replicate_to".into()),
            _ => None,
        }
    }
}

impl fmt::Display for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(site) => write!(f, "{site}"),
            Self::EachSite => f.write_str("each site"),
        }
    }
}

fn listed(sites: &[SiteName]) -> String {
    sites.iter().map(SiteName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn site(name: &str) -> SiteName {
        SiteName::new(name).unwrap()
    }

    fn path(text: &str) -> GlobalPath {
        GlobalPath::new(text.as_bytes()).unwrap()
    }

    fn policy(name: &str, pattern: &str, primary: Option<&str>) -> Policy {
        Policy {
            name: name.into(),
            pattern: Pattern::new(pattern).unwrap(),
            primary: primary.map(site),
            replicate_to: Vec::new(),
            sync_mode: SyncMode::Lazy,
            on_disconnect: OnDisconnect::Fail,
            consistency: Consistency::Eventual,
            priority: 0,
            staleness: None,
            sync_deadline: None,
            bandwidth: None,
        }
    }

    fn set(policies: Vec<Policy>) -> Result<PolicySet, PolicyError> {
        PolicySet::new(policies, &[site("onprem"), site("cloud")], site("onprem"))
    }

    #[test]
    fn the_first_match_decides() {
        let set = set(vec![
            policy("keep", "/results/keep/**", Some("onprem")),
            policy("results", "/results/**", Some("cloud")),
            policy("scratch", "/scratch/**", None),
        ])
        .unwrap();
        let check = |at: &str, name: Option<&str>, primary: Primary| {
            let decision = set.decide(&path(at));
            assert_eq!(decision.policy.map(|p| p.name.as_str()), name, "{at}");
            assert_eq!((&decision.primary, &primary), (&set.primary(&path(at)), &decision.primary), "{at}");
        };
        check("/results/keep/a", Some("keep"), Primary::Site(site("onprem")));
        check("/results/a", Some("results"), Primary::Site(site("cloud")));
        check("/scratch", Some("scratch"), Primary::EachSite);
        check("/home", None, Primary::Site(site("onprem")));
        let explained = set.explain(&path("/results/keep/a"));
        let flags: Vec<_> = explained.iter().map(|e| (e.matches, e.decides)).collect();
        assert_eq!(flags, [(true, true), (true, false), (false, false)]);
        assert!(explained[1].why.contains("'keep' comes first"));
    }

    #[test]
    fn faults_name_the_policy() {
        let check = |policy: Policy, part: &str| {
            let error = set(vec![policy]).unwrap_err().to_string();
            assert!(error.contains("'p'") && error.contains(part), "{error}");
        };
        check(
            policy("p", "/a/**", Some("mars")),
            "'mars' is not a site of this cluster; its sites are onprem, cloud",
        );
        let with = |primary, replicas: &[&str], sync_mode| Policy {
            replicate_to: replicas.iter().map(|name| site(name)).collect(),
            sync_mode,
            ..policy("p", "/a/**", primary)
        };
        check(with(Some("cloud"), &["cloud"], SyncMode::Eager), "contains the primary");
        check(with(Some("cloud"), &["onprem", "onprem"], SyncMode::Eager), "twice");
        check(with(None, &["onprem"], SyncMode::Eager), "primary is null");
        check(with(Some("cloud"), &["onprem"], SyncMode::Never), "contradicts");
        let twice = set(vec![policy("p", "/a", None), policy("p", "/b", None)]).unwrap_err().to_string();
        assert!(twice.contains("used twice"), "{twice}");
        let elsewhere = PolicySet::new(Vec::new(), &[site("onprem")], site("cloud")).unwrap_err();
        assert_eq!(elsewhere, PolicyError::DefaultPrimary(site("cloud")));
    }

    #[test]
    fn listings_show_what_lies_elsewhere() {
        let set = set(vec![
            policy("hot", "/datasets/hot/*", Some("cloud")),
            policy("results", "/results/**", Some("cloud")),
            policy("inputs", "/inputs/**", Some("onprem")),
            policy("dead", "/results/old/**", Some("onprem")),
            policy("scratch", "/scratch/**", None),
        ])
        .unwrap();
        let junctions = |at: &str| -> Vec<String> {
            set.junctions(&path(at)).into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
        };
        assert_eq!(junctions("/"), ["datasets", "results", "scratch"]);
        assert_eq!(junctions("/datasets"), ["hot"]);
        assert!(junctions("/results").is_empty(), "a policy that never decides makes no junction");
        let (cloud, onprem) = (Primary::Site(site("cloud")), Primary::Site(site("onprem")));
        assert_eq!(set.listing_homes(&path("/datasets/hot")), [onprem.clone(), cloud.clone()]);
        assert_eq!(set.listing_homes(&path("/datasets")), [onprem]);
        assert_eq!(set.listing_homes(&path("/results/job")), [cloud]);
        assert_eq!(set.listing_homes(&path("/scratch")), [Primary::EachSite]);
    }

    proptest! {
        /// Walking down to any path, each step to another home is seen in the listing before it: by name, or
        /// by asking that home for its names too.
        #[test]
        fn no_step_to_another_home_is_hidden(
            policies in prop::collection::vec(
                (
                    prop::collection::vec(prop::sample::select(&["a", "b", "*", "**"][..]), 1..4),
                    prop::option::of(prop::sample::select(&["onprem", "cloud"][..])),
                ),
                0..5,
            ),
            names in prop::collection::vec(prop::sample::select(&["a", "b", "c"][..]), 1..5),
        ) {
            let policies = policies.iter().enumerate();
            let policies = policies
                .map(|(at, (parts, primary))| policy(&at.to_string(), &format!("/{}", parts.join("/")), *primary));
            let set = set(policies.collect()).unwrap();
            let mut dir = GlobalPath::root();
            for name in names {
                let child = dir.join(name.as_bytes()).unwrap();
                let home = set.primary(&child);
                let seen = set.junctions(&dir).contains(&name.as_bytes().to_vec())
                    || set.listing_homes(&dir).contains(&home);
                prop_assert!(seen, "{child} at {home} in the listing of {dir}");
                dir = child;
            }
        }
    }

    #[test]
    fn policies_are_json_with_the_names_of_the_policy_file() {
        let text = r#"{"name":"hot","pattern":"/datasets/hot/*","primary":"onprem","replicate_to":["cloud"],"sync_mode":"eager","priority":0}"#;
        let policy: Policy = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), text);
        let short = r#"{"name":"scratch","pattern":"/scratch/**","primary":null,"sync_mode":"never"}"#;
        assert_eq!(serde_json::from_str::<Policy>(short).unwrap().primary, None);
        let check = |text: &str, part: &str| {
            let error = serde_json::from_str::<Policy>(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(r#"{"name":"a","pattern":"/a","sync_mode":"lazy"}"#, "primary");
        check(r#"{"name":"a","pattern":"a","primary":null,"sync_mode":"lazy"}"#, "begin with '/'");
        check(r#"{"name":"a","pattern":"/a","primary":null,"sync_mode":"now"}"#, "eager");
        check(r#"{"name":"a","pattern":"/a","primary":null,"sync_mode":"lazy","x":1}"#, "unknown field `x`");
    }
}
