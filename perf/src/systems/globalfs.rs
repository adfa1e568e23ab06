//! GlobalFS: coordinator and site `onprem` at the far end, site `cloud` and its mounts at the near end.

use super::{Bed, MOUNTS, System};
use anyhow::{Context, Result};
use globalfs::local::{LocalCluster, LocalOptions, LocalSiteOptions, Places};
use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HOME: &str = "onprem";
const CLOUD: &str = "cloud";

/// A node of the site that has the data, at the near end all the same.
const NEIGHBOUR: &str = "neighbour";

/// Room for the largest file of any phase.
const CACHE_SIZE: &str = "8GiB";

/// In production the sites have long been connected when a job first touches the tree.
const SETTLE: Duration = Duration::from_secs(1);

/// A cluster over the link.
#[derive(Debug)]
pub(crate) struct GlobalFs {
    cluster: LocalCluster,
    dir: PathBuf,
    mounted: Vec<String>,
}

impl GlobalFs {
    /// Starts the cluster; nothing is mounted yet.
    pub(crate) fn start(bed: &Bed<'_>) -> Result<Self> {
        Self::start_with(bed, "")
    }

    /// The same with policies.
    pub(crate) fn start_with(bed: &Bed<'_>, policy_yaml: &str) -> Result<Self> {
        let dir = bed.dir.join("globalfs");
        let site = |name: &str, origin: PathBuf| LocalSiteOptions {
            name: name.into(),
            origin,
            cache_size: CACHE_SIZE.into(),
            extra_yaml: String::new(),
        };
        let options = LocalOptions {
            dir: dir.clone(),
            store_yaml: "store: embedded".into(),
            policy_yaml: policy_yaml.to_owned(),
            sites: vec![site(HOME, bed.origin()), site(CLOUD, bed.folder("near", "origin")?)],
        };
        let places = Places {
            coordinator: bed.far(),
            sites: [(HOME.to_owned(), bed.far()), (CLOUD.to_owned(), bed.near())].into(),
            nodes: [(NEIGHBOUR.to_owned(), bed.near())].into(),
        };
        let cluster = LocalCluster::start_at(bed.programs.clone(), options, places)?;
        let mut started = Self { cluster, dir, mounted: Vec::new() };
        for number in 0..MOUNTS {
            started.node(&node_name(number))?;
        }
        let daemon = format!("daemon: {}\n", started.cluster.site_address(HOME));
        started.cluster.add_node(NEIGHBOUR, HOME, CACHE_SIZE, &daemon)?;
        Ok(started)
    }

    /// Where the daemon of the near site serves its metrics, within the near network.
    pub(crate) fn site_metrics(&self) -> Option<SocketAddr> {
        self.cluster.metrics_address(CLOUD)
    }

    /// The configuration of a node of `cloud` that is not mounted.
    pub(crate) fn node(&mut self, name: &str) -> Result<PathBuf> {
        let daemon = format!("daemon: 127.0.0.1:{}\n", self.cluster.site_address(CLOUD).port());
        self.cluster.add_node(name, CLOUD, CACHE_SIZE, &daemon)
    }

    /// Mounts the tree at a new node of the near site.
    pub(crate) fn mount_at_near(&mut self, name: &str) -> Result<PathBuf> {
        self.node(name)?;
        self.start_mount(name)
    }

    /// The same at one that sees its site's origin.
    pub(crate) fn mount_beside_origin(&mut self, name: &str, bed: &Bed<'_>) -> Result<PathBuf> {
        let (port, origin) = (self.cluster.site_address(CLOUD).port(), bed.folder("near", "origin")?);
        let yaml = format!("daemon: 127.0.0.1:{port}\ndirect: {}\n", origin.display());
        self.cluster.add_node(name, CLOUD, CACHE_SIZE, &yaml)?;
        self.start_mount(name)
    }

    /// Mounts the tree at a new node of the far site.
    pub(crate) fn mount_at_far(&mut self, name: &str) -> Result<PathBuf> {
        let daemon = format!("daemon: 127.0.0.1:{}\n", self.cluster.site_address(HOME).port());
        self.cluster.add_node(name, HOME, CACHE_SIZE, &daemon)?;
        self.start_mount(name)
    }

    fn start_mount(&mut self, name: &str) -> Result<PathBuf> {
        let at = self.dir.join(format!("mnt-{name}"));
        self.mounted.push(name.to_owned());
        self.cluster.start_mount(name, &at, &[])?;
        Ok(at)
    }

    /// What restarts cold keeps nothing but its certificates.
    fn forget(&self) -> Result<()> {
        let nodes = (0..MOUNTS).map(node_name).chain([NEIGHBOUR.to_owned()]);
        let states = nodes.map(|node| self.dir.join(node)).chain([self.dir.join(CLOUD).join("state")]);
        states.into_iter().try_for_each(|state| empty_state(&state))
    }

    fn stop_cloud(&mut self) -> Result<()> {
        if self.cluster.pid(CLOUD).is_some() {
            self.cluster.stop(CLOUD)?;
        }
        Ok(())
    }
}

impl System for GlobalFs {
    fn mount_cold(&mut self, count: usize) -> Result<Vec<PathBuf>> {
        self.unmount();
        self.stop_cloud()?;
        self.forget().context("cannot empty the caches")?;
        self.cluster.start_site(CLOUD)?;
        let mut at = Vec::new();
        for number in 0..count.min(MOUNTS) {
            at.push(self.dir.join(format!("mnt-{number}")));
            self.mounted.push(node_name(number));
            self.cluster.start_mount(&node_name(number), &at[number], &[])?;
        }
        std::thread::sleep(SETTLE);
        Ok(at)
    }

    fn mount_cold_beside_data(&mut self) -> Result<PathBuf> {
        self.unmount();
        self.stop_cloud()?;
        self.forget().context("cannot empty the caches")?;
        let at = self.dir.join("mnt-neighbour");
        self.mounted.push(NEIGHBOUR.into());
        self.cluster.start_mount(NEIGHBOUR, &at, &[])?;
        std::thread::sleep(SETTLE);
        Ok(at)
    }

    fn unmount(&mut self) {
        for node in std::mem::take(&mut self.mounted) {
            // One that does not end in time is killed.
            let _ = self.cluster.stop(&node);
        }
    }
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn empty_state(state: &Path) -> Result<()> {
    for entry in fs::read_dir(state)? {
        let path = entry?.path();
        match path.extension().and_then(OsStr::to_str) {
            Some("crt" | "key") => {}
            _ if path.is_dir() => fs::remove_dir_all(&path)?,
            _ => fs::remove_file(&path)?,
        }
    }
    Ok(())
}
