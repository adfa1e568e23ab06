//! Who carries out a change: this site where it is the master, else the master, unless this site becomes it first.
//!
//! *Invariants:* a change is made by one site, which was the master of all its paths when it began; what was not made may be
//! asked of the next master, and nothing else is. No change that began here is under way when [`Routed::settled`] returns
//! that began before it was called.

use super::direct::is_direct;
use super::{Master, Routed, Routes};
use crate::home::blocking;
use crate::home::holdings::{Noted, is_hidden};
use crate::home::survey::{Limits, survey};
use crate::source::Deadline;
use async_trait::async_trait;
use globalfs_proto::{Attr, Change, Changed, Existing, FileKind, FsError, FsResult, GlobalPath, SiteName};
use std::time::Duration;
use tokio::time::timeout;

/// `EXDEV`: names of two masters. Programs then copy.
const OTHER_DEVICE: FsError = FsError::Os(18);

/// `EBUSY`: other sites master something below the name.
const BUSY: FsError = FsError::Os(16);

/// What is waited at most for word that a master has changed, before it is asked again.
const TURN: Duration = Duration::from_millis(50);

/// Of a subtree that is moved. What is more than may be owed fails when it is noted.
const ALL: Limits = Limits { entries: usize::MAX, bytes: u64::MAX };

/// How this site becomes the master of what it changes.
#[async_trait]
pub trait Claims: Send + Sync + 'static {
    /// Nodes of this site change `path`, which `master` has: takes a lease if that is worth it. True: this site is the
    /// master now.
    async fn claim(&self, path: &GlobalPath, master: &SiteName, deadline: Deadline) -> bool;

    /// The master of `path` refused since it is not, or not yet: learns who is.
    async fn look_again(&self);

    /// Returns when the replicas of the file `path` at `sites` are what `attr` tells; `EIO` if that is not in time.
    async fn replicate(
        &self,
        _path: &GlobalPath,
        _attr: &Attr,
        _sites: Vec<SiteName>,
        _deadline: Deadline,
    ) -> FsResult<()> {
        Ok(())
    }

    /// A change was made at `path` under a lease.
    fn used(&self, path: &GlobalPath);
}

impl Routes {
    /// A change of this site's nodes.
    pub(super) async fn change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        loop {
            let turned = self.turned.notified();
            match self.try_change(change, deadline).await {
                // Then it is written to as any other.
                Err(FsError::Elsewhere(_)) if is_direct(change) => return Err(FsError::NOT_SUPPORTED),
                // Nobody has made it.
                Err(FsError::Elsewhere(who)) => {
                    let left = deadline.remaining();
                    if left.is_zero() {
                        return Err(FsError::Unreachable(format!("nobody took the change in time: {who}")));
                    }
                    if let Some(claims) = &self.claims {
                        claims.look_again().await;
                    }
                    let _ = timeout(TURN.min(left), turned).await;
                }
                other => return other,
            }
        }
    }

    async fn try_change(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        let Master::Site(site) = self.writer_of(change)? else {
            return self.change_own(change, deadline).await;
        };
        if is_direct(change) {
            return Err(FsError::NOT_SUPPORTED);
        }
        if let (Some(claims), Some(path)) = (&self.claims, change.paths().next())
            && claims.claim(path, &site, deadline).await
        {
            return self.change_own(change, deadline).await;
        }
        self.sites.source(&site)?.change(change, deadline).await
    }

    /// A change of what this site masters, whoever asks.
    pub(super) async fn change_own(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        let changed = self.make_own(change, deadline).await?;
        let Some(path) = change.paths().next().filter(|path| self.placement.is_critical(path)) else {
            return Ok(changed);
        };
        let holdings = self.holdings.as_ref().filter(|_| self.placement.is_leased(path));
        let sites = self.placement.replica_sites(path);
        if holdings.is_none() && sites.is_empty() {
            return Ok(changed);
        }
        // Not while the gate is passed: who waits for others shall keep nobody else waiting.
        if matches!(change, Change::Sync { .. }) {
            if let Some(holdings) = holdings {
                holdings.confirm(path, changed.attr.as_ref(), deadline).await?;
            }
            self.confirm_replicas(path, changed.attr.as_ref(), sites, deadline).await?;
        }
        Ok(Changed { sync_at_close: true, ..changed })
    }

    /// What has no name is nobody's but this site's.
    async fn confirm_replicas(
        &self,
        path: &GlobalPath,
        attr: Option<&Attr>,
        sites: Vec<SiteName>,
        deadline: Deadline,
    ) -> FsResult<()> {
        let file = attr.filter(|attr| attr.kind == FileKind::Regular && !is_hidden(path));
        match (&self.claims, file) {
            (Some(claims), Some(attr)) => claims.replicate(path, attr, sites, deadline).await,
            _ => Ok(()),
        }
    }

    async fn make_own(&self, change: &Change, deadline: Deadline) -> FsResult<Changed> {
        let _pass = self.gate.read().await;
        let writer = self.writer_of(change)?;
        if writer != Master::Here {
            return Err(FsError::Elsewhere(format!("this site is not the master but {writer:?}")));
        }
        let moves = matches!(change, Change::Rename { .. } | Change::Remove { directory: true, .. });
        if moves && change.paths().any(|path| !self.may_move(path)) {
            return Err(BUSY);
        }
        let noted = self.note(change, deadline).await?;
        let mut changed = self.origin.change(change, deadline).await?;
        if let Change::OpenDirect { target } = change {
            self.begin_direct(target, deadline).await?;
        }
        self.note_direct(change, &mut changed).await;
        if matches!(change, Change::Sync { .. }) {
            self.sync_notes().await?;
        }
        if let Some(noted) = noted {
            noted.done(&changed);
        }
        Ok(changed)
    }

    fn may_move(&self, path: &GlobalPath) -> bool {
        !self.placement.is_divided(path) && self.is_plain(path, &Master::Here)
    }

    /// Who may change all that `change` concerns.
    fn writer_of(&self, change: &Change) -> FsResult<Master> {
        let mut paths = change.paths();
        let first = paths.next().expect("a change is of something");
        let writer = self.placement.writer(first)?;
        for path in paths.chain(change.source()) {
            if self.placement.writer(path)? != writer {
                return Err(OTHER_DEVICE);
            }
        }
        match writer {
            Master::Nowhere(why) => Err(FsError::Unreachable(format!("{first} has no master: {why}"))),
            writer => Ok(writer),
        }
    }

    /// Keeps what the change will make differ from home.
    async fn note(&self, change: &Change, deadline: Deadline) -> FsResult<Option<Noted>> {
        let Some(holdings) = &self.holdings else { return Ok(None) };
        let Some(path) = change.paths().next() else { return Ok(None) };
        let Some(holding) = holdings.at(path) else {
            return if self.placement.is_leased(path) { Err(forgotten(path)) } else { Ok(None) };
        };
        if holding.is_closed() {
            return Err(FsError::Elsewhere(format!("{} is going home", holding.scope)));
        }
        if let Some(claims) = &self.claims {
            claims.used(path);
        }
        let below = self.taken_away(change, deadline).await?;
        let (holdings, change) = (holdings.clone(), change.clone());
        blocking(move || holdings.note(&change, below)).await
    }

    /// The names beneath directories that `change` moves. Home may have them, and keeps them if another directory takes the
    /// name before it has heard of that.
    async fn taken_away(&self, change: &Change, deadline: Deadline) -> FsResult<Vec<GlobalPath>> {
        let Change::Rename { from, to, existing } = change else { return Ok(Vec::new()) };
        let exchanged = (*existing == Existing::Exchange).then_some(to);
        let mut names = Vec::new();
        for top in std::iter::once(from).chain(exchanged) {
            let items = survey(&*self.origin, top, ALL, deadline).await?;
            names.extend(items.into_iter().flatten().map(|item| item.path).filter(|path| path != top));
        }
        Ok(names)
    }

    async fn sync_notes(&self) -> FsResult<()> {
        match self.holdings.clone() {
            Some(holdings) => blocking(move || holdings.sync()).await,
            None => Ok(()),
        }
    }
}

impl Routed {
    /// Whether this site masters `path` and nobody is about to change that.
    pub fn is_own(&self, path: &GlobalPath) -> bool {
        self.0.placement.writer(path) == Ok(Master::Here)
    }
}

/// The lease is kept by the coordinator, and what was changed under it was kept here.
fn forgotten(path: &GlobalPath) -> FsError {
    let text = format!(
        "{path} is leased to this site, and what it changed there is not known any more; see 'globalfs reclaim --help'"
    );
    FsError::Refused(text)
}
