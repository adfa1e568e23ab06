//! `globalfs sync --to`, and what people are shown of replicas.

use super::output;
use super::sync::{Debt, Waiting, say};
use anyhow::{Result, bail};
use globalfs_controlplane::client::ControlClient;
use globalfs_controlplane::model::policy::{Decision, SyncMode};
use globalfs_controlplane::model::record::{ClusterView, SiteRecord, SiteStatus};
use globalfs_controlplane::model::replica_state::{AskedReplica, MissingReplicas, ReplicaHealth};
use globalfs_controlplane::service::SendHome;
use globalfs_proto::{GlobalPath, SiteName};
use serde::Serialize;

/// The replica of one path's policy at one site.
#[derive(Debug, Serialize)]
pub(super) struct ReplicaAt {
    site: SiteName,
    /// All is there that is to be there.
    complete: bool,
    missing_files: u64,
    missing_bytes: u64,
    /// In words.
    state: String,
}

/// A replica that is asked for.
pub(super) struct Replicate<'c> {
    pub(super) client: &'c ControlClient,
    pub(super) site: &'c SiteName,
    pub(super) paths: &'c [GlobalPath],
}

impl Replicate<'_> {
    /// Asks for it, and returns when it is there if that is to be waited for.
    pub(super) async fn run(self, waiting: Option<&Waiting>) -> Result<()> {
        self.check(&self.client.view().await?)?;
        let requests: Vec<SendHome> = self.paths.iter().map(|path| self.request(path)).collect();
        match waiting {
            Some(waiting) => {
                waiting.until_done(self.client, &requests, |view| self.debt(view, &requests)).await
            }
            None => say(self.client, &requests).await,
        }
    }

    fn request(&self, path: &GlobalPath) -> SendHome {
        let (site, path) = (Some(self.site.clone()), Some(path.clone()));
        SendHome { site, path, release: false, replica: Some(rand::random()) }
    }

    fn check(&self, view: &ClusterView) -> Result<()> {
        match view.site(self.site) {
            None => bail!("site {} is not registered; see 'globalfs site list'", self.site),
            Some(site) if site.status == SiteStatus::Unreachable => {
                bail!("site {} was last heard from at {}", self.site, site.last_heartbeat)
            }
            Some(_) => {}
        }
        let policies = view.policy_set()?;
        for path in self.paths {
            let is_named = policies.replica(path, self.site).is_some();
            if !is_named && !policies.may_replicate_below(path, self.site) {
                bail!(
                    "no policy has {} in replicate_to for {path} or anything beneath it: a copy would not be kept up",
                    self.site
                );
            }
        }
        Ok(())
    }

    /// What is missing of what was asked for; `None`: nothing.
    fn debt(&self, view: &ClusterView, requests: &[SendHome]) -> Option<Debt> {
        let health = view.site(self.site).and_then(|site| site.health.replicas.as_ref());
        let told = |request: &SendHome| {
            health.and_then(|health| health.asked.iter().find(|asked| Some(asked.number) == request.replica))
        };
        let told: Vec<Option<&AskedReplica>> = requests.iter().map(told).collect();
        let is_there =
            |asked: &Option<&AskedReplica>| asked.is_some_and(|one| one.surveyed && one.files == 0);
        if told.iter().all(is_there) {
            return None;
        }
        let trouble = |asked: &AskedReplica| asked.trouble.clone();
        let trouble = told.iter().flatten().find_map(|asked| trouble(asked));
        Some(Debt {
            files: told.iter().flatten().map(|asked| asked.files).sum(),
            bytes: told.iter().flatten().map(|asked| asked.bytes).sum(),
            trouble: trouble.or_else(|| health.and_then(|health| health.trouble.clone())),
            ..Debt::default()
        })
    }
}

/// How the replicas of the path that `decision` is about are, as their sites said last.
pub(super) fn replicas_of(view: &ClusterView, decision: &Decision<'_>) -> Vec<ReplicaAt> {
    let policy = decision.policy.map_or("", |policy| policy.name.as_str());
    let at = |site: &SiteName| {
        let record = view.site(site);
        let health = record.and_then(|site| site.health.replicas.as_ref());
        let missing = health.and_then(|health| health.missing_of(policy));
        let is_heard = record.is_some_and(|site| site.status == SiteStatus::Active);
        ReplicaAt {
            site: site.clone(),
            complete: is_heard && missing.is_none() && health.is_some_and(|health| health.surveyed),
            missing_files: missing.map_or(0, |missing| missing.files),
            missing_bytes: missing.map_or(0, |missing| missing.bytes),
            state: state(record, health, missing, decision.sync_mode),
        }
    };
    decision.replicas.iter().map(at).collect()
}

fn state(
    record: Option<&SiteRecord>,
    health: Option<&ReplicaHealth>,
    missing: Option<&MissingReplicas>,
    mode: SyncMode,
) -> String {
    match (record, health, missing) {
        (None, ..) => "not registered".into(),
        (Some(site), ..) if site.status == SiteStatus::Unreachable => "not heard from".into(),
        (_, None, _) => "not known yet".into(),
        (_, _, Some(missing)) => {
            format!("{} files, {} of the policy are missing", missing.files, output::bytes(missing.bytes))
        }
        (_, Some(health), None) if !health.surveyed => "being looked at".into(),
        (_, Some(_), None) if mode == SyncMode::Lazy => "complete, of what was read there".into(),
        (_, Some(_), None) => "complete".into(),
    }
}

impl ReplicaAt {
    /// For people.
    pub(super) fn text(&self) -> String {
        format!("{}: {}", self.site, self.state)
    }
}

/// What waits to be replicated at a site, for `globalfs status`.
pub(super) fn debt_of(site: &SiteRecord, health: &ReplicaHealth) -> Option<String> {
    let files: u64 = health.missing.iter().map(|missing| missing.files).sum();
    if files == 0 && health.obstructed == 0 && health.trouble.is_none() {
        return None;
    }
    let bytes = health.missing.iter().map(|missing| missing.bytes).sum();
    let oldest = health.missing.iter().filter_map(|missing| missing.oldest).min().map(super::lease::age);
    let oldest = oldest.map(|age| format!(", the oldest {} old", output::duration(age))).unwrap_or_default();
    let obstructed = match health.obstructed {
        0 => String::new(),
        paths => format!("; something else is in the way of {paths} paths"),
    };
    let trouble = health.trouble.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    let late = super::status::late(health.missing.iter().map(|missing| missing.late).sum());
    let (name, bytes) = (&site.name, output::bytes(bytes));
    Some(format!("{name}: not replicated {files} files, {bytes}{oldest}{late}{obstructed}{trouble}"))
}
