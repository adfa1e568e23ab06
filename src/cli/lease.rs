//! `globalfs lease`, `where` and `reclaim`: who masters what at this moment, and giving up what a dead site has.

use super::UsageError;
use super::access::Access;
use super::cached::{self, Ranges, cached_ranges};
use super::daemon::block_on;
use super::output::{self, Output};
use super::replicate::{ReplicaAt, replicas_of};
use anyhow::{Context, Result, bail};
use globalfs_controlplane::model::policy::Primary;
use globalfs_controlplane::model::record::{
    ClusterView, MasterRecord, PendingChanges, SiteRecord, SiteStatus,
};
use globalfs_controlplane::model::timestamp::Timestamp;
use globalfs_proto::GlobalPath;
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

/// Subcommands of `globalfs lease`.
#[derive(Debug, clap::Subcommand)]
pub enum LeaseCommand {
    /// List the subtrees that sites hold, and what is not home of them
    #[command(after_help = "Example:\n  globalfs lease list --config /etc/globalfs/site.yaml --json")]
    List(List),
}

/// Arguments of `globalfs lease list`.
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    access: Access,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

const WHERE_HELP: &str = "\
Shows which site masters a path now, its home, and what is not home yet at that path and beneath it, as its holder said
in its last heartbeat; which sites have replicas by policy, and whether all that the policy names is there. With a node's
configuration it shows, too, which ranges of a file are in the cache of the node's site, or at home there.

Example:
  globalfs where /results/job-1234
  globalfs where /datasets/x --config /etc/globalfs/globalfs.yaml";

/// Arguments of `globalfs where`.
#[derive(Debug, clap::Args)]
#[command(after_help = WHERE_HELP)]
pub struct Where {
    /// The path as it is seen below the mount point
    path: OsString,
    #[command(flatten)]
    list: List,
}

const RECLAIM_HELP: &str = "\
A site that holds a subtree may have changed it and not brought that home. If the site is lost for good, its lease stays
until it is given up here; then the subtree's home is its master again, with what came home last. Nothing is taken from
a site that lives: it finds its changes set aside in its origin, as .globalfs-abandoned-*, and says so in its log.
To end a lease without a loss use 'globalfs drain SITE'.

Examples:
  globalfs lease list
  globalfs reclaim /results/job-1234 --abandon";

/// Arguments of `globalfs reclaim`.
#[derive(Debug, clap::Args)]
#[command(after_help = RECLAIM_HELP)]
pub struct Reclaim {
    /// The path of the lease, as 'globalfs lease list' shows it
    path: OsString,
    /// Give up what its holder has not brought home
    #[arg(long)]
    abandon: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    access: Access,
}

/// One lease with what is pending.
#[derive(Debug, Serialize)]
struct Lease<'v> {
    #[serde(flatten)]
    record: &'v MasterRecord,
    state: &'static str,
    pending: Option<&'v PendingChanges>,
}

#[derive(Serialize)]
struct Place<'v> {
    path: GlobalPath,
    master: String,
    home: String,
    replicas: Vec<ReplicaAt>,
    policy: Option<String>,
    lease: Option<Lease<'v>>,
    /// Of the file, as (first byte, behind the last).
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_here: Option<Ranges>,
}

impl LeaseCommand {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        match self {
            Self::List(list) => block_on(list.run()),
        }
    }
}

impl List {
    async fn run(self) -> Result<()> {
        let view = self.access.connect().await?.view().await?;
        let leases: Vec<Lease> = view.masters.iter().map(|record| lease(&view, record)).collect();
        let output = Output::new(self.json);
        output.json(&leases)?;
        if leases.is_empty() {
            output.line("no site holds a subtree: each path is mastered by its home")?;
            return Ok(());
        }
        output.table(
            ["PATH", "MASTER", "STATE", "SINCE", "NOT HOME", "OLDEST", "TROUBLE"],
            leases.iter().map(row).collect(),
        )?;
        Ok(())
    }
}

impl Where {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        block_on(self.show())
    }

    async fn show(self) -> Result<()> {
        let path = parse(&self.path)?;
        let view = self.list.access.connect().await?.view().await?;
        let mut place = place(&view, &path)?;
        let here = cached_ranges(&self.list.access.path()?, &path).await;
        place.cached_here = here.unwrap_or_else(|error| {
            output::complain(format_args!("globalfs: what is cached here is not known: {error:#}"));
            None
        });
        let output = Output::new(self.list.json);
        output.json(&place)?;
        output.line(format!("path      {path}"))?;
        output.line(format!("master    {}", place.master))?;
        output.line(format!("home      {}", place.home))?;
        let replicas: Vec<_> = place.replicas.iter().map(ReplicaAt::text).collect();
        output.line(format!(
            "replicas  {}",
            if replicas.is_empty() { "-".into() } else { replicas.join("; ") }
        ))?;
        output.line(format!("policy    {}", place.policy.as_deref().unwrap_or("-")))?;
        if let Some(ranges) = &place.cached_here {
            output.line(format!("here      {}", cached::text(ranges)))?;
        }
        if let Some(lease) = &place.lease {
            let record = lease.record;
            output.line(format!("lease     {} of {}, {}", record.scope.path, record.master, lease.state))?;
            output.line(format!("not home  {}", owed(lease.pending)))?;
        }
        Ok(())
    }
}

impl Reclaim {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        block_on(self.reclaim())
    }

    async fn reclaim(self) -> Result<()> {
        let path = parse(&self.path)?;
        if !self.abandon {
            let why =
                "reclaim gives up what is not home: say so with --abandon, or see 'globalfs drain --help'";
            return Err(UsageError::new(why).into());
        }
        let client = self.access.connect().await?;
        let view = client.view().await?;
        let record = view.masters.iter().find(|record| record.scope.path == path);
        let record =
            record.with_context(|| format!("there is no lease on {path}; see 'globalfs lease list'"))?;
        tell_loss(&view, &lease(&view, record))?;
        if !self.yes && !is_confirmed(&path)? {
            bail!("nothing was given up");
        }
        client.abandon(&path).await?;
        output::complain(format_args!(
            "the lease on {path} is given up; its home is the master again within a minute"
        ));
        Ok(())
    }
}

/// What is lost, as far as it is known.
fn tell_loss(view: &ClusterView, lease: &Lease<'_>) -> Result<()> {
    let (record, output) = (lease.record, Output::new(false));
    let (path, site) = (&record.scope.path, &record.master);
    output.line(format!("{path} is held by {site} since {}", record.since))?;
    match holder(view, record) {
        Some(site) if site.status == SiteStatus::Active => output.line(format!(
            "{} IS ALIVE and brings its changes home by itself: 'globalfs drain {}' ends its leases without a loss",
            site.name, site.name
        ))?,
        Some(site) => output.line(format!("{} was last heard from at {}", site.name, site.last_heartbeat))?,
        None => output.line(format!("{site} is not registered any more"))?,
    }
    output.line(format!("not home when it was last heard from: {}", owed(lease.pending)))?;
    for path in lease.pending.iter().flat_map(|pending| &pending.paths) {
        output.line(format!("  {path}"))?;
    }
    let named = lease.pending.map_or(0, |pending| pending.paths.len() as u64);
    let more = lease.pending.map_or(0, |pending| pending.files.saturating_sub(named));
    if more > 0 {
        output.line(format!("  and {more} more"))?;
    }
    output.line("What it has changed since is not known here and is given up as well.")?;
    Ok(())
}

fn is_confirmed(path: &GlobalPath) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(UsageError::new("this asks first: run it at a terminal, or say --yes").into());
    }
    let mut stderr = io::stderr();
    write!(stderr, "Give it up? Type the path {path} to confirm: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim_end_matches('\n').as_bytes() == path.as_bytes())
}

fn parse(path: &OsString) -> Result<GlobalPath> {
    let parsed = GlobalPath::parse(path.as_bytes());
    parsed
        .map_err(|error| UsageError::new(format!("{path:?} is not a path of the namespace: {error}")).into())
}

fn holder<'v>(view: &'v ClusterView, record: &MasterRecord) -> Option<&'v SiteRecord> {
    view.site(&record.master)
}

fn lease<'v>(view: &'v ClusterView, record: &'v MasterRecord) -> Lease<'v> {
    let state = match (record.abandoned, record.ready) {
        (true, _) => "abandoned",
        (false, true) => "held",
        (false, false) => "taking over",
    };
    let pending = holder(view, record)
        .and_then(|site| site.health.pending.iter().find(|pending| pending.path == record.scope.path));
    Lease { record, state, pending }
}

fn row(lease: &Lease<'_>) -> [String; 7] {
    let oldest = lease.pending.and_then(|pending| pending.oldest).map(|at| output::duration(age(at)));
    let trouble = lease.pending.and_then(|pending| pending.trouble.clone());
    [
        lease.record.scope.path.to_string(),
        lease.record.master.to_string(),
        lease.state.to_owned(),
        lease.record.since.to_string(),
        owed(lease.pending),
        oldest.unwrap_or_else(|| "-".into()),
        trouble.unwrap_or_else(|| "-".into()),
    ]
}

/// Files and bytes that are not home, for people.
pub(super) fn owed(pending: Option<&PendingChanges>) -> String {
    match pending {
        Some(pending) => format!("{} files, {}", pending.files, output::bytes(pending.bytes)),
        None => "nothing".to_owned(),
    }
}

/// How long ago that was.
pub(super) fn age(at: Timestamp) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(now.as_millis()).unwrap_or(i64::MAX)).since(at)
}

fn place<'v>(view: &'v ClusterView, path: &GlobalPath) -> Result<Place<'v>> {
    let policies = view.policy_set()?;
    let decision = policies.decide(path);
    let record = view.masters.iter().find(|record| path.starts_with(&record.scope.path));
    let home = match &decision.primary {
        Primary::Site(site) => site.to_string(),
        Primary::EachSite => "each site keeps its own".to_owned(),
    };
    let holder =
        record.filter(|record| record.ready && !record.abandoned).map(|record| record.master.to_string());
    Ok(Place {
        path: path.clone(),
        master: holder.unwrap_or_else(|| home.clone()),
        home,
        replicas: replicas_of(view, &decision),
        policy: decision.policy.map(|policy| policy.name.clone()),
        lease: record.map(|record| lease(view, record)),
        cached_here: None,
    })
}
