//! `globalfs sync` and `globalfs drain`: bring home what sites have changed.

use super::UsageError;
use super::access::Access;
use super::daemon::block_on;
use super::output::{self, Output};
use super::replicate::Replicate;
use anyhow::{Result, bail};
use globalfs_controlplane::client::ControlClient;
use globalfs_controlplane::model::record::{ClusterView, PendingChanges, SiteStatus};
use globalfs_controlplane::model::timestamp::Timestamp;
use globalfs_controlplane::service::SendHome;
use globalfs_proto::{GlobalPath, SiteName};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// How often it is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often it is said again that somebody waits: leases may have been taken since.
const SAY_EVERY: Duration = Duration::from_secs(5);

const SYNC_HELP: &str = "\
What nodes change at a site that is not the home of a path is brought home in the background. This asks the holders to
do so at once, and with --wait returns when nothing at these paths and beneath them is owed that was changed before.

With --to SITE it makes them replicas at that site now, whatever 'sync_mode' their policy has. The policy has to name the
site in 'replicate_to'; with --wait it returns when all of them are there.

Examples:
  globalfs sync /results/job-1234 --wait
  globalfs sync /results --wait --timeout 10m
  globalfs sync /datasets/x --to cloud --wait";

/// Arguments of `globalfs sync`.
#[derive(Debug, clap::Args)]
#[command(after_help = SYNC_HELP)]
pub struct Sync {
    /// Paths as they are seen below the mount point
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Make them replicas at this site
    #[arg(long, value_name = "SITE")]
    to: Option<SiteName>,
    /// Return when all is home, or at the site
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    waiting: Waiting,
}

const DRAIN_HELP: &str = "\
Brings home all that the site has changed and ends its leases: then it owes nothing and may be torn down. Jobs that
still write there take new leases, so end them first.

Example:
  globalfs drain cloud --timeout 1h";

/// Arguments of `globalfs drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = DRAIN_HELP)]
pub struct Drain {
    /// The site
    site: SiteName,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, clap::Args)]
pub(super) struct Waiting {
    /// Give up after so long, with exit status 1
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    access: Access,
}

impl Sync {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        block_on(self.sync())
    }

    async fn sync(self) -> Result<()> {
        let parse = |path: &OsString| {
            let parsed = GlobalPath::parse(path.as_bytes());
            parsed
                .map_err(|error| UsageError::new(format!("{path:?} is not a path of the namespace: {error}")))
        };
        let paths = self.paths.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let client = self.waiting.access.connect().await?;
        if let Some(site) = &self.to {
            return Replicate { client: &client, site, paths: &paths }
                .run(self.wait.then_some(&self.waiting))
                .await;
        }
        let requests: Vec<SendHome> = paths
            .iter()
            .map(|path| SendHome { site: None, path: Some(path.clone()), release: false, replica: None })
            .collect();
        let owed = |view: &ClusterView| {
            let near =
                |at: &GlobalPath| paths.iter().any(|path| at.starts_with(path) || path.starts_with(at));
            let all = view.sites.iter().flat_map(|site| &site.health.pending);
            Debt::of(all.filter(|pending| near(&pending.path)), 0)
        };
        if self.wait {
            // What was changed a moment ago is told with the next heartbeat.
            return self.waiting.until_home(&client, &requests, owed).await;
        }
        say(&client, &requests).await
    }
}

impl Drain {
    /// Carries the command out.
    pub fn run(self) -> Result<()> {
        block_on(self.drain())
    }

    async fn drain(self) -> Result<()> {
        let client = self.waiting.access.connect().await?;
        let view = client.view().await?;
        let Some(record) = view.site(&self.site) else {
            bail!("site {} is not registered; see 'globalfs site list'", self.site);
        };
        if record.status == SiteStatus::Unreachable {
            bail!(
                "site {} was last heard from at {}: only it can bring its changes home; if it is lost see 'globalfs reclaim --help'",
                self.site,
                record.last_heartbeat
            );
        }
        let request = SendHome { site: Some(self.site.clone()), path: None, release: true, replica: None };
        let site = self.site.clone();
        let owed = move |view: &ClusterView| {
            let leases = view.masters.iter().filter(|record| record.master == site).count() as u64;
            Debt::of(view.site(&site).into_iter().flat_map(|site| &site.health.pending), leases)
        };
        self.waiting.until_home(&client, &[request], owed).await?;
        Output::new(false).line(format!("site {} owes nothing and holds no lease", self.site))?;
        Ok(())
    }
}

/// What is not home.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Debt {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) leases: u64,
    pub(super) trouble: Option<String>,
}

impl Debt {
    fn of<'p>(pending: impl Iterator<Item = &'p PendingChanges>, leases: u64) -> Self {
        pending.fold(Self { leases, ..Self::default() }, |debt, pending| Self {
            files: debt.files + pending.files,
            bytes: debt.bytes + pending.bytes,
            trouble: debt.trouble.or_else(|| pending.trouble.clone()),
            ..debt
        })
    }

    fn is_nothing(&self) -> bool {
        self.files == 0 && self.leases == 0
    }

    fn text(&self) -> String {
        let leases = if self.leases > 0 { format!(", {} leases", self.leases) } else { String::new() };
        let trouble = self.trouble.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        format!("{} files, {} not there yet{leases}{trouble}", self.files, output::bytes(self.bytes))
    }
}

impl Waiting {
    async fn until_home(
        &self,
        client: &ControlClient,
        requests: &[SendHome],
        owed: impl Fn(&ClusterView) -> Debt,
    ) -> Result<()> {
        let before = heard(&client.status().await?.view);
        let left = |view: &ClusterView| {
            let debt = owed(view);
            // Who holds something has to have told of it since.
            let is_told = heard(view).iter().all(|(site, at)| before.get(site).is_none_or(|was| was != at));
            (!debt.is_nothing() || !is_told).then_some(debt)
        };
        self.until_done(client, requests, left).await
    }

    /// Says `requests` again and again until nothing is `left`.
    pub(super) async fn until_done(
        &self,
        client: &ControlClient,
        requests: &[SendHome],
        left: impl Fn(&ClusterView) -> Option<Debt>,
    ) -> Result<()> {
        let began = Instant::now();
        let (mut said, mut shown) = (None::<Instant>, Shown::begin());
        loop {
            if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                say(client, requests).await?;
                said = Some(Instant::now());
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let Some(debt) = left(&client.status().await?.view) else {
                shown.end();
                return Ok(());
            };
            if self.timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                shown.end();
                bail!("not in time: {}", debt.text());
            }
            shown.show(&debt);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Asks the coordinator to tell the sites.
pub(super) async fn say(client: &ControlClient, requests: &[SendHome]) -> Result<()> {
    for request in requests {
        client.send_home(request).await?;
    }
    Ok(())
}

/// When each site that holds something was last heard from.
fn heard(view: &ClusterView) -> BTreeMap<SiteName, Timestamp> {
    let holders = view.masters.iter().filter_map(|record| view.site(&record.master));
    holders.map(|site| (site.name.clone(), site.last_heartbeat)).collect()
}

/// A bar over the files at a terminal, else a line now and then.
struct Shown {
    bar: Option<ProgressBar>,
    most: u64,
    next: Instant,
}

impl Shown {
    fn begin() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{msg} [{bar:30}] {pos} of {len} files  {per_sec}  {eta}");
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
        });
        Self { bar, most: 0, next: Instant::now() }
    }

    fn show(&mut self, debt: &Debt) {
        self.most = self.most.max(debt.files);
        match &self.bar {
            Some(bar) => {
                bar.set_length(self.most);
                bar.set_position(self.most - debt.files);
                bar.set_message(format!("{} left", output::bytes(debt.bytes)));
            }
            None if Instant::now() >= self.next => {
                self.next = Instant::now() + SAY_EVERY;
                output::complain(debt.text());
            }
            None => {}
        }
    }

    fn end(self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}
