//! The ways to other sites: one connection and one cached source per site, all sharing the site's cache.

use super::view::View;
use globalfs_dataplane::cache::Cache;
use globalfs_dataplane::changes::Hub;
use globalfs_dataplane::fetch::{self, Cached};
use globalfs_dataplane::remote::Remote;
use globalfs_dataplane::replicas::{Copies, Replicas};
use globalfs_dataplane::route::Sites;
use globalfs_dataplane::source::{ChangeStream, Source};
use globalfs_proto::{FsError, FsResult, PeerIdentity, SiteName};
use globalfs_transport::{Endpoint, Peer};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The other sites that were asked for something so far.
pub(super) struct Peers {
    endpoint: Endpoint,
    cache: Cache,
    view: Arc<View>,
    options: fetch::Options,
    replicas: Replicas,
    links: Mutex<BTreeMap<SiteName, SiteLink>>,
    /// Where it is told what changes at any of them.
    changes: Hub,
}

/// The way to one site.
#[derive(Clone)]
pub(super) struct SiteLink {
    /// The site's daemon.
    pub(super) remote: Arc<Remote>,
    /// The cache in front of it.
    pub(super) cached: Arc<Cached>,
    /// The replicas in front of that.
    pub(super) copies: Arc<Copies>,
}

impl Peers {
    pub(super) fn new(
        endpoint: Endpoint,
        cache: Cache,
        view: Arc<View>,
        options: fetch::Options,
        replicas: Replicas,
    ) -> Self {
        let (links, changes) = (Mutex::default(), Hub::default());
        Self { endpoint, cache, view, options, replicas, links, changes }
    }

    /// Every way that was used so far.
    pub(super) fn links(&self) -> Vec<(SiteName, SiteLink)> {
        self.links.lock().iter().map(|(site, link)| (site.clone(), link.clone())).collect()
    }

    fn connect(&self, site: &SiteName, address: String) -> SiteLink {
        let peer = Peer::new(self.endpoint.clone(), address, PeerIdentity::Site(site.clone()));
        peer.keep_connected();
        let remote = Arc::new(Remote::new(peer).with_content());
        let upstream = remote.clone() as Arc<dyn Source>;
        let cached = Cached::with_hub(upstream, self.cache.clone(), self.options, self.changes.clone());
        cached.bound_names(self.view.staleness());
        let cached = Arc::new(cached);
        let copies = Arc::new(Copies::new(self.replicas.clone(), cached.clone()));
        SiteLink { remote, cached, copies }
    }
}

impl Peers {
    /// The daemon of `site`.
    pub(super) fn remote(&self, site: &SiteName) -> FsResult<Arc<Remote>> {
        Ok(self.link(site)?.remote)
    }

    /// The files of `site` by this site's cache, replicas left out.
    pub(super) fn by_cache(&self, site: &SiteName) -> FsResult<Arc<dyn Source>> {
        Ok(self.link(site)?.cached as Arc<dyn Source>)
    }

    fn link(&self, site: &SiteName) -> FsResult<SiteLink> {
        let view = self.view.now();
        let record = view.cluster.site(site).ok_or_else(|| {
            FsError::Unreachable(format!("site {site} is not registered; see 'globalfs site list'"))
        })?;
        let mut links = self.links.lock();
        let known = links.get(site).filter(|link| link.remote.peer().address() == record.address);
        let link = known.cloned().unwrap_or_else(|| self.connect(site, record.address.clone()));
        links.insert(site.clone(), link.clone());
        Ok(link)
    }
}

impl Sites for Peers {
    fn source(&self, site: &SiteName) -> FsResult<Arc<dyn Source>> {
        Ok(self.link(site)?.copies as Arc<dyn Source>)
    }

    fn changes(&self) -> ChangeStream {
        self.changes.subscribe()
    }
}
