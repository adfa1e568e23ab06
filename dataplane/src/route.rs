//! Which source answers for a path: the origin when this site is the path's master, the master's site
//! otherwise. Directories are merged where their children have other masters.
//!
//! A listed child whose own path routes elsewhere, and every junction, gets its attributes from its own
//! master, and is left out when it does not exist there. When that master cannot be asked, the entry of the
//! directory's master stands in, and without one the child is left out with a warning: one site that is down
//! does not take `ls` of the root with it. A `stat` of such a child tells the error.
//!
//! A directory that its own master does not have is `ENOENT`, even with junctions below it. The root alone
//! always exists: when its master lacks it, or nobody is its master, it is an empty directory of root's plus
//! its junctions. When its master cannot be reached, that is the error; an empty root would be a lie.
//!
//! *Invariant:* a request of another site is answered from the origin or refused, never sent on, so requests
//! cannot go in circles while sites see different policies.

mod above;
mod bulk;
mod changes;
mod direct;
mod root;
mod sources;

pub use changes::Claims;

use crate::cache::throttle::Throttle;
use crate::changes::Hub;
use crate::direct::DirectWrites;
use crate::home::holdings::Holdings;
use crate::source::{
    ChangeStream, DIRECTORIES_AHEAD, Deadline, Directory, DirectoryStream, Found, Listed, Listing, Source,
    no_directories,
};
use crate::warm::Group;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use globalfs_proto::{Attr, Changes, DirEntry, FsError, FsResult, GlobalPath, SiteName, Version, Warm};
use root::{empty_root, synthetic_root};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, RwLock, mpsc};

/// What a listing waits for the master of one child, so that a site that is down does not use up the time
/// of the listing.
const CHILD_DEADLINE: Duration = Duration::from_secs(3);

/// Children of one listing that are asked for at the same time.
const CHILDREN_AT_ONCE: usize = 32;

/// Who is the master of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Master {
    /// This site: its origin answers.
    Here,
    /// Another site.
    Site(SiteName),
    /// Nobody, and why.
    Nowhere(String),
}

/// The present division of the namespace among sites.
pub trait Placement: Send + Sync + 'static {
    /// The master of `path`.
    fn master(&self, path: &GlobalPath) -> Master;

    /// Who has the content `version` of `path`: the site whose origin told it, which need not be the master any more.
    fn keeper(&self, path: &GlobalPath, version: &Version) -> Master {
        let _ = version;
        self.master(path)
    }

    /// Who may change `path`: its master, or `Elsewhere` while it passes from one to another.
    fn writer(&self, path: &GlobalPath) -> FsResult<Master> {
        Ok(self.master(path))
    }

    /// Whether it is by a lease that this site is the master of `path`.
    fn is_leased(&self, path: &GlobalPath) -> bool {
        let _ = path;
        false
    }

    /// Whether `fsync` and close are to be answered only when the home of `path` has it.
    fn is_critical(&self, _path: &GlobalPath) -> bool {
        false
    }

    /// Other sites that are to have a replica of `path`.
    fn replica_sites(&self, _path: &GlobalPath) -> Vec<SiteName> {
        Vec::new()
    }

    /// Whether something beneath `path` has another master by a lease, so that `path` cannot be moved.
    fn is_divided(&self, path: &GlobalPath) -> bool {
        let _ = path;
        false
    }

    /// Names in the directory `dir` that may exist although the directory's master does not list them,
    /// because their own master is another.
    fn junctions(&self, dir: &GlobalPath) -> Vec<Bytes>;

    /// The masters whose own listings of `dir` hold entries of the directory: `dir`'s master first, then
    /// those of rules such as `/datasets/*` for `/datasets`. A child whose master is none of them is a
    /// junction.
    fn listing_masters(&self, dir: &GlobalPath) -> Vec<Master>;
}

/// The ways to other sites.
pub trait Sites: Send + Sync + 'static {
    /// What answers for the paths of `site`.
    fn source(&self, site: &SiteName) -> FsResult<Arc<dyn Source>>;

    /// What changes at any site that was asked or will be.
    fn changes(&self) -> ChangeStream;
}

/// The sources of a site daemon, one for each kind of client.
#[derive(Clone)]
pub struct Routed(Arc<Routes>);

struct Routes {
    placement: Arc<dyn Placement>,
    origin: Arc<dyn Source>,
    sites: Arc<dyn Sites>,
    left_out: Throttle,
    /// Where it is told that the placement has changed.
    moved: Hub,
    /// Wakes who waits for that.
    turned: Notify,
    /// Each change that is made here holds it for reading.
    gate: RwLock<()>,
    holdings: Option<Holdings>,
    claims: Option<Arc<dyn Claims>>,
    direct: Option<DirectWrites>,
    away: above::Away,
}

/// What further masters have of a directory.
struct Others {
    of: Vec<(Master, Vec<DirEntry>)>,
    /// All of them answered in full.
    complete: bool,
    /// Each tells what changes.
    watched: bool,
}

struct ForNodes(Arc<Routes>);

struct ForSites(Arc<Routes>);

impl Routed {
    /// Divides the namespace between `origin` and `sites` as `placement` says at each request.
    pub fn new(placement: Arc<dyn Placement>, origin: Arc<dyn Source>, sites: Arc<dyn Sites>) -> Self {
        Self(Arc::new(Routes {
            placement,
            origin,
            sites,
            left_out: Throttle::new(),
            moved: Hub::default(),
            turned: Notify::new(),
            gate: RwLock::new(()),
            holdings: None,
            claims: None,
            direct: None,
            away: above::Away::default(),
        }))
    }

    /// Keeps in `holdings` what is changed under leases, which are asked for by `claims`.
    pub fn with_leases(self, holdings: Holdings, claims: Arc<dyn Claims>) -> Self {
        let routes = Arc::into_inner(self.0).expect("it is not used before it is complete");
        Self(Arc::new(Routes { holdings: Some(holdings), claims: Some(claims), ..routes }))
    }

    /// What to call when the placement has changed: what is told may be answered by others from then on.
    pub fn on_placement_change(&self) -> impl Fn(Changes) + Send + Sync + use<> {
        let routes = self.0.clone();
        move |changes| {
            routes.moved.tell(Arc::new(changes));
            routes.turned.notify_waiters();
        }
    }

    /// Returns when no change is under way that was begun here before the call.
    pub async fn settled(&self) {
        drop(self.0.gate.write().await);
    }

    /// The whole namespace: what the nodes of this site see.
    pub fn for_nodes(&self) -> Arc<dyn Source> {
        Arc::new(ForNodes(self.0.clone()))
    }

    /// What this site masters, and nothing else; listings are the origin's, unmerged.
    pub fn for_sites(&self) -> Arc<dyn Source> {
        Arc::new(ForSites(self.0.clone()))
    }
}

impl Routes {
    fn source_of(&self, path: &GlobalPath) -> FsResult<Arc<dyn Source>> {
        self.source_for(path, &self.placement.master(path))
    }

    fn source_for(&self, path: &GlobalPath, master: &Master) -> FsResult<Arc<dyn Source>> {
        match master {
            Master::Here => Ok(self.origin.clone()),
            Master::Site(site) => self.sites.source(site),
            Master::Nowhere(why) => Err(FsError::Unreachable(format!("{path} has no master: {why}"))),
        }
    }

    fn source_with(&self, path: &GlobalPath, version: &Version) -> FsResult<Arc<dyn Source>> {
        self.source_for(path, &self.placement.keeper(path, version))
    }

    fn own(&self, path: &GlobalPath) -> FsResult<&Arc<dyn Source>> {
        self.own_if(path, self.placement.master(path))
    }

    fn own_content(&self, path: &GlobalPath, version: &Version) -> FsResult<&Arc<dyn Source>> {
        self.own_if(path, self.placement.keeper(path, version))
    }

    fn own_if(&self, path: &GlobalPath, master: Master) -> FsResult<&Arc<dyn Source>> {
        match master {
            Master::Here => Ok(&self.origin),
            Master::Site(site) => Err(FsError::Elsewhere(format!("{path} is mastered at {site}"))),
            Master::Nowhere(why) => Err(FsError::Refused(format!("{path} is not mastered here: {why}"))),
        }
    }

    async fn stat(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        if let Some(attr) = self.way_to_held(path).await {
            return Ok(attr);
        }
        let answer = match self.source_of(path) {
            Ok(source) => source.stat(path, self.patience(path, deadline)).await,
            Err(error) => Err(error),
        };
        match answer {
            Err(error) if self.is_missing_root(path, &error) => Ok(synthetic_root()),
            Err(error) => self.open_way(path, error).await,
            answer => answer,
        }
    }

    /// What is likely to be asked next comes along where its listing is no more than its master's own.
    async fn look_up(self: &Arc<Self>, path: &GlobalPath, below: u32, deadline: Deadline) -> FsResult<Found> {
        if let Some(attr) = self.way_to_held(path).await {
            return Ok(Found::alone(Some(attr)));
        }
        let found = match self.source_of(path) {
            Ok(source) => source.look_up(path, below, self.patience(path, deadline)).await,
            Err(error) => Err(error),
        };
        match found {
            Err(error) if self.is_missing_root(path, &error) => Ok(Found::alone(Some(synthetic_root()))),
            Ok(Found { attr: None, .. }) if path.is_root() => Ok(Found::alone(Some(synthetic_root()))),
            Ok(found) => {
                let directories = self.plain_alone(found.directories, self.placement.master(path));
                Ok(Found { directories, ..found })
            }
            Err(error) => self.open_way(path, error).await.map(|attr| Found::alone(Some(attr))),
        }
    }

    async fn list_below(
        self: &Arc<Self>,
        dir: &GlobalPath,
        below: u32,
        deadline: Deadline,
    ) -> FsResult<Listed> {
        let master = self.placement.master(dir);
        if !self.is_plain(dir, &master) {
            return Ok(Listed {
                listing: self.list_merged(dir, deadline).await?,
                directories: no_directories(),
            });
        }
        let listed = self.source_for(dir, &master)?.list_below(dir, below, deadline).await;
        let Listed { listing, directories } = match listed {
            Err(error) if self.is_missing_root(dir, &error) => {
                Listed { listing: empty_root(), directories: no_directories() }
            }
            listed => listed?,
        };
        Ok(Listed { listing, directories: self.plain_alone(directories, master) })
    }

    /// Whether the listing of `dir` is the one that `master` has, and nothing else.
    fn is_plain(&self, dir: &GlobalPath, master: &Master) -> bool {
        self.placement.master(dir) == *master
            && self.placement.listing_masters(dir).len() <= 1
            && self.placement.junctions(dir).is_empty()
            && !(dir.is_root() && matches!(master, Master::Nowhere(_)))
    }

    /// `directories` of `master`, those left out that show more than what it has.
    fn plain_alone(self: &Arc<Self>, mut directories: DirectoryStream, master: Master) -> DirectoryStream {
        let (sender, stream) = mpsc::channel(DIRECTORIES_AHEAD);
        let routes = self.clone();
        tokio::spawn(async move {
            while let Some(Directory { path, listing }) = directories.recv().await {
                let listing = listing.filter(|_| routes.is_plain(&path, &master));
                if sender.send(Directory { path, listing }).await.is_err() {
                    return;
                }
            }
        });
        stream
    }

    async fn list_merged(&self, dir: &GlobalPath, deadline: Deadline) -> FsResult<Listing> {
        let masters = self.placement.listing_masters(dir);
        let listed = match self.source_of(dir) {
            Ok(source) => source.list(dir, deadline).await,
            Err(error) => Err(error),
        };
        let listed = match listed {
            Err(error) if self.is_missing_root(dir, &error) => empty_root(),
            listed => listed?,
        };
        let junctions = self.placement.junctions(dir);
        if masters.len() <= 1 && junctions.is_empty() {
            return Ok(listed);
        }
        let others = self.list_others(dir, masters.get(1..).unwrap_or_default(), deadline).await;
        let children = self.children_to_ask(dir, junctions, &listed, &others.of);
        let answers: Vec<_> = stream::iter(children)
            .map(|(name, path)| async move { (name, self.stat_child(&path, deadline).await) })
            .buffer_unordered(CHILDREN_AT_ONCE)
            .collect()
            .await;
        let own: Vec<DirEntry> =
            listed.iter().filter(|e| !self.is_of(dir, &e.name, &others.of)).cloned().collect();
        let answered = |answer: &FsResult<Attr>| matches!(answer, Ok(_) | Err(FsError::NOT_FOUND));
        let complete = listed.complete && others.complete && answers.iter().all(|(_, a)| answered(a));
        // Nobody told that a child asked for by its name would be watched.
        let watched = listed.watched && others.watched && answers.is_empty();
        let merged = self.merge(dir, &own, answers);
        let entries =
            merged.into_iter().chain(others.of.into_iter().flat_map(|(_, entries)| entries)).collect();
        Ok(Listing { attr: listed.attr, entries, complete, watched })
    }

    /// What the further masters have of `dir`, each its own children only. Who gives no answer is missing.
    async fn list_others(&self, dir: &GlobalPath, masters: &[Master], deadline: Deadline) -> Others {
        let ask = |master: Master| async move {
            let listing = self.list_of(dir, &master, deadline).await;
            (master, listing)
        };
        let answers = futures_util::future::join_all(masters.iter().cloned().map(ask)).await;
        let mut others = Others { of: Vec::new(), complete: true, watched: true };
        for (master, answer) in answers {
            let listing = match answer {
                Ok(listing) => listing,
                // It has no such directory now, and nothing tells when it will.
                Err(FsError::NOT_FOUND | FsError::NOT_A_DIRECTORY) => {
                    Listing { watched: false, ..empty_root() }
                }
                Err(error) => {
                    self.warn_left_out(dir, b"*", &error);
                    (others.complete, others.watched) = (false, false);
                    continue;
                }
            };
            others.complete &= listing.complete;
            others.watched &= listing.watched;
            let of_master =
                |entry: &&DirEntry| self.master_of_child(dir, &entry.name).as_ref() == Some(&master);
            let entries = listing.iter().filter(of_master).cloned().collect();
            others.of.push((master, entries));
        }
        others
    }

    async fn list_of(&self, dir: &GlobalPath, master: &Master, deadline: Deadline) -> FsResult<Listing> {
        let deadline = child_deadline(deadline);
        let source = self.source_for(dir, master)?;
        deadline.bound(source.list(dir, deadline)).await
    }

    fn master_of_child(&self, dir: &GlobalPath, name: &[u8]) -> Option<Master> {
        Some(self.placement.master(&dir.join(name).ok()?))
    }

    /// Whether the child `name` belongs to one of `others`, whose listing then decides about it.
    fn is_of(&self, dir: &GlobalPath, name: &[u8], others: &[(Master, Vec<DirEntry>)]) -> bool {
        let master = self.master_of_child(dir, name);
        others.iter().any(|(other, _)| Some(other) == master.as_ref())
    }

    /// Whether another site masters `dir` and this one masters children of it.
    fn has_children_here(&self, dir: &GlobalPath) -> bool {
        self.placement.listing_masters(dir).iter().skip(1).any(|master| *master == Master::Here)
    }

    /// The part of `changes` that another site may hear of.
    fn of_this_site(&self, changes: Arc<Changes>) -> Arc<Changes> {
        let told = |dir: &GlobalPath| self.own(dir).is_ok() || self.has_children_here(dir);
        if changes.directories.iter().all(|changed| told(&changed.path)) {
            return changes;
        }
        let mut changes = Changes::clone(&changes);
        changes.directories.retain(|changed| told(&changed.path));
        Arc::new(changes)
    }

    /// Whether `path` is the root, and its master lacks it or there is none.
    fn is_missing_root(&self, path: &GlobalPath, error: &FsError) -> bool {
        path.is_root()
            && (*error == FsError::NOT_FOUND || matches!(self.placement.master(path), Master::Nowhere(_)))
    }

    /// Junctions, and listed entries, whose master is neither the directory's nor one that was listed.
    fn children_to_ask(
        &self,
        dir: &GlobalPath,
        junctions: Vec<Bytes>,
        listed: &[DirEntry],
        others: &[(Master, Vec<DirEntry>)],
    ) -> BTreeMap<Bytes, GlobalPath> {
        let master = self.placement.master(dir);
        let names = junctions.iter().chain(listed.iter().map(|entry| &entry.name));
        let paths = names.filter_map(|name| Some((name.clone(), dir.join(name).ok()?)));
        let elsewhere = |path: &GlobalPath| {
            let of_child = self.placement.master(path);
            of_child != master && others.iter().all(|(other, _)| *other != of_child)
        };
        paths.filter(|(_, path)| elsewhere(path)).collect()
    }

    /// The parts of `warm` by who masters them.
    fn warm_groups(&self, warm: Warm) -> Vec<Group> {
        let mut groups: Vec<(Master, Group)> = Vec::new();
        for (number, file) in (0..).zip(warm.files) {
            let master = self.placement.keeper(&file.path, &file.version);
            let known = groups.iter().position(|(of, _)| *of == master);
            let at = known.unwrap_or_else(|| {
                let source = self.source_for(&file.path, &master);
                groups.push((master, Group::new(source, warm.fetch)));
                groups.len() - 1
            });
            groups[at].1.add(number, file);
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    async fn stat_child(&self, path: &GlobalPath, deadline: Deadline) -> FsResult<Attr> {
        let deadline = child_deadline(deadline);
        deadline.bound(async { self.source_of(path)?.stat(path, deadline).await }).await
    }

    fn merge(
        &self,
        dir: &GlobalPath,
        listed: &[DirEntry],
        answers: Vec<(Bytes, FsResult<Attr>)>,
    ) -> Vec<DirEntry> {
        let mut answers: BTreeMap<Bytes, FsResult<Attr>> = answers.into_iter().collect();
        let own = listed.iter().filter_map(|entry| match answers.remove(&entry.name) {
            None => Some(entry.clone()),
            Some(Ok(attr)) => Some(DirEntry::new(entry.name.clone(), attr)),
            Some(Err(FsError::NOT_FOUND)) => None,
            Some(Err(_)) => Some(entry.clone()),
        });
        let mut merged: Vec<DirEntry> = own.collect();
        for (name, answer) in answers {
            match answer {
                Ok(attr) => merged.push(DirEntry::new(name, attr)),
                Err(FsError::NOT_FOUND) => {}
                Err(error) => self.warn_left_out(dir, &name, &error),
            }
        }
        merged
    }

    fn warn_left_out(&self, dir: &GlobalPath, name: &[u8], error: &FsError) {
        if let Some(silent) = self.left_out.admit() {
            let name = String::from_utf8_lossy(name);
            tracing::warn!(%dir, %name, %error, silent, "left out of the listing: its master gives no answer");
        }
    }
}

/// A part of the time, so that one site that is down does not use up all of it.
fn child_deadline(deadline: Deadline) -> Deadline {
    deadline.min(Deadline::after(CHILD_DEADLINE.min(deadline.remaining() / 2)))
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
