//! A whole cluster on this machine, made of the real programs over loopback or in network namespaces: what
//! `globalfs demo`, `globalfs bench fetch`, the whole-system tests and the comparisons over a link run against.
//!
//! *Invariant:* everything it starts ends with it, unless it is told to [`LocalCluster::leave_running`].

mod metrics;
mod place;
mod programs;

pub use metrics::Metrics;
pub use place::{Place, Places};
pub use programs::{Process, Programs};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a daemon may take until it answers.
pub const START_LIMIT: Duration = Duration::from_secs(30);

/// How often readiness is looked at.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// What a local cluster consists of.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Where configuration, state, caches and logs go; made if missing.
    pub dir: PathBuf,
    /// The `store:` part of coordinator.yaml.
    pub store_yaml: String,
    /// The policies as YAML, beginning with `policies:`; empty for none.
    pub policy_yaml: String,
    /// The sites; the first is the primary, the others are burst sites.
    pub sites: Vec<LocalSiteOptions>,
}

/// One site of a local cluster.
#[derive(Debug, Clone)]
pub struct LocalSiteOptions {
    /// Its name.
    pub name: String,
    /// Its origin; made empty if missing.
    pub origin: PathBuf,
    /// The quota of its cache, as in the configuration, such as `1GiB`.
    pub cache_size: String,
    /// Further lines of its site.yaml.
    pub extra_yaml: String,
}

/// A running cluster: a coordinator, sites, mounts.
#[derive(Debug)]
pub struct LocalCluster {
    programs: Programs,
    dir: PathBuf,
    places: Places,
    coordinator: SocketAddr,
    sites: BTreeMap<String, LocalSite>,
    processes: BTreeMap<String, Process>,
    mounts: BTreeMap<String, PathBuf>,
    metrics: BTreeMap<String, (Place, SocketAddr)>,
    cleans_up: bool,
}

#[derive(Debug)]
struct LocalSite {
    address: SocketAddr,
    config: PathBuf,
}

impl LocalCluster {
    /// Starts the coordinator, registers the sites with one-time tokens and starts them, all on loopback.
    pub fn start(programs: Programs, options: LocalOptions) -> Result<Self> {
        Self::start_at(programs, options, Places::default())
    }

    /// The same, each part at its place.
    pub fn start_at(programs: Programs, options: LocalOptions, places: Places) -> Result<Self> {
        fs::create_dir_all(&options.dir).with_context(|| format!("cannot make {}", options.dir.display()))?;
        let mut cluster = Self {
            programs,
            dir: options.dir.clone(),
            coordinator: places.coordinator.free_port()?,
            places,
            sites: BTreeMap::new(),
            processes: BTreeMap::new(),
            mounts: BTreeMap::new(),
            metrics: BTreeMap::new(),
            cleans_up: true,
        };
        cluster.write_coordinator_config(&options)?;
        cluster.start_coordinator()?;
        for site in &options.sites {
            cluster.add_site(site)?;
            cluster.start_site(&site.name)?;
        }
        Ok(cluster)
    }

    /// Where everything of this cluster lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The programs that it runs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The coordinator's configuration, which lets commands act as administrator.
    pub fn coordinator_config(&self) -> PathBuf {
        self.dir.join("coordinator.yaml")
    }

    /// A site's configuration.
    pub fn site_config(&self, site: &str) -> &Path {
        &self.sites[site].config
    }

    /// Where a site's daemon listens (UDP and TCP).
    pub fn site_address(&self, site: &str) -> SocketAddr {
        self.sites[site].address
    }

    /// Where a site keeps its cache.
    pub fn site_cache_dir(&self, site: &str) -> PathBuf {
        self.dir.join(site).join("state/cache")
    }

    /// Runs `globalfs ARGS --config coordinator.yaml` and gives its standard output.
    pub fn admin(&self, args: &[&str]) -> Result<String> {
        self.run(&self.places.coordinator, args, &self.coordinator_config())
    }

    fn run(&self, place: &Place, args: &[&str], config: &Path) -> Result<String> {
        let mut command = Command::new(&self.programs.globalfs);
        command.args(args).arg("--config").arg(config);
        let output = place.enter(|| Ok(command.output()?))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "globalfs {}: {}", args.join(" "), stderr.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn write_coordinator_config(&mut self, options: &LocalOptions) -> Result<()> {
        let metrics = self.choose_metrics("coordinator", &self.places.coordinator.clone())?;
        let mut yaml = format!(
            "cluster: local\nlisten: {}\ndata_dir: coordinator\nmetrics: {metrics}\n{}\nsites:\n",
            self.coordinator, options.store_yaml
        );
        for (n, site) in options.sites.iter().enumerate() {
            let role = if n == 0 { "primary" } else { "burst" };
            yaml += &format!("  - name: {}\n    role: {role}\n", site.name);
        }
        yaml += &options.policy_yaml;
        Ok(fs::write(self.coordinator_config(), yaml)?)
    }

    fn choose_metrics(&mut self, name: &str, place: &Place) -> Result<SocketAddr> {
        let address = place.free_private_port()?;
        self.metrics.insert(name.to_owned(), (place.clone(), address));
        Ok(address)
    }

    /// Starts the coordinator and waits until it answers.
    pub fn start_coordinator(&mut self) -> Result<()> {
        let config = self.coordinator_config();
        self.spawn("coordinator", &self.places.coordinator.clone(), &["coordinator", "start"], &config)?;
        self.wait_ready("coordinator", |cluster| cluster.admin(&["status"]).map(drop))
    }

    fn add_site(&mut self, site: &LocalSiteOptions) -> Result<()> {
        let state = self.dir.join(&site.name).join("state");
        fs::create_dir_all(&state)?;
        fs::create_dir_all(&site.origin)?;
        let place = self.places.of_site(&site.name);
        let (address, config) = (place.free_port()?, self.dir.join(format!("site-{}.yaml", site.name)));
        let metrics = self.choose_metrics(&site.name, &place)?;
        let listen = place.listen_address(address);
        let yaml = format!(
            "name: {}\ncoordinator: {}\nlisten: {listen}\nadvertise: {address}\norigin: file://{}\n\
             state_dir: {}\ncache:\n  size: {}\nmetrics: {metrics}\n{}",
            site.name,
            self.coordinator,
            site.origin.display(),
            state.display(),
            site.cache_size,
            site.extra_yaml,
        );
        fs::write(&config, yaml)?;
        let token = self.admin(&["token", "create", "--site", &site.name])?;
        self.run(&place, &["site", "register", &site.name, "--token", token.trim()], &config)?;
        self.sites.insert(site.name.clone(), LocalSite { address, config });
        Ok(())
    }

    /// Starts a registered site's daemon and waits until it answers.
    pub fn start_site(&mut self, site: &str) -> Result<()> {
        let config = self.sites[site].config.clone();
        self.spawn(site, &self.places.of_site(site), &["site", "start"], &config)?;
        self.wait_ready(site, |cluster| cluster.metrics(site).map(drop))
    }

    /// Registers a node of `site` and writes its configuration, which is given back.
    pub fn add_node(
        &mut self,
        node: &str,
        site: &str,
        cache_size: &str,
        extra_yaml: &str,
    ) -> Result<PathBuf> {
        let state = self.dir.join(node);
        fs::create_dir_all(&state)?;
        let place = self.places.of_node(node, site);
        let metrics = self.choose_metrics(node, &place)?;
        let yaml = format!(
            "site: {site}\nnode: {node}\ncoordinator: {}\nstate_dir: {}\ncache:\n  size: {cache_size}\n\
             metrics: {metrics}\n{extra_yaml}",
            self.coordinator,
            state.display(),
        );
        let config = self.dir.join(format!("{node}.yaml"));
        fs::write(&config, yaml)?;
        let token = self.admin(&["token", "create", "--node", node, "--site", site])?;
        self.run(&place, &["node", "register", node, "--token", token.trim()], &config)?;
        Ok(config)
    }

    /// Registers a node and mounts the tree at `mountpoint`, which is made if missing.
    pub fn mount(&mut self, node: &str, site: &str, mountpoint: &Path) -> Result<()> {
        self.add_node(node, site, "1GiB", "")?;
        self.start_mount(node, mountpoint, &[])
    }

    /// Mounts for a node that is registered, with further arguments of `globalfs-fuse mount`.
    pub fn start_mount(&mut self, node: &str, mountpoint: &Path, args: &[&str]) -> Result<()> {
        if !is_mounted(mountpoint) {
            fs::create_dir_all(mountpoint)?;
        }
        let config = self.dir.join(format!("{node}.yaml"));
        let mut command = Command::new(&self.programs.globalfs_fuse);
        command.arg("mount").arg(mountpoint).arg("--foreground").args(args).arg("--config").arg(config);
        // A node's metrics tell where the node is.
        let place = self.metrics.get(node).map(|(place, _)| place.clone()).unwrap_or_default();
        let process = place.enter(|| Process::spawn(command, self.log_path(node)))?;
        self.processes.insert(node.to_owned(), process);
        self.mounts.insert(node.to_owned(), mountpoint.to_owned());
        self.wait_ready(node, |_| {
            // Of a mount whose program was killed the kernel still remembers attributes, so it must not be asked.
            let asked = statx(CWD, mountpoint, AtFlags::STATX_FORCE_SYNC, StatxFlags::TYPE);
            ensure!(is_mounted(mountpoint) && asked.is_ok(), "not mounted yet");
            Ok(())
        })
    }

    fn spawn(&mut self, name: &str, place: &Place, args: &[&str], config: &Path) -> Result<()> {
        let mut command = Command::new(&self.programs.globalfs);
        command.args(args).arg("--config").arg(config);
        let process = place.enter(|| Process::spawn(command, self.log_path(name)))?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Where a daemon's log goes.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    fn wait_ready(&mut self, name: &str, probe: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let started = Instant::now();
        loop {
            let last = match probe(self) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.processes.get_mut(name).is_none_or(|p| !p.is_running());
            if ended || started.elapsed() > START_LIMIT {
                let log = fs::read_to_string(self.log_path(name)).unwrap_or_default();
                bail!("{name} did not start: {last:#}\n{log}");
            }
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Where a daemon or a mount serves `/metrics` and `/health`.
    pub fn metrics_address(&self, name: &str) -> Option<SocketAddr> {
        self.metrics.get(name).map(|(_, address)| *address)
    }

    /// The metrics of a daemon, by name and labels as they are printed.
    pub fn metrics(&self, name: &str) -> Result<Metrics> {
        let (place, address) = self.metrics.get(name).with_context(|| format!("{name} has no metrics"))?;
        place.enter(|| Metrics::fetch(*address))
    }

    /// Kills a daemon or a mount as a crash would: SIGKILL, no goodbye.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let process = self.processes.remove(name).with_context(|| format!("{name} does not run"))?;
        process.kill(self.mounts.get(name).map(PathBuf::as_path))
    }

    /// Asks a daemon or a mount to end (SIGTERM) and waits; says whether it ended with exit code 0.
    pub fn stop(&mut self, name: &str) -> Result<bool> {
        self.mounts.remove(name);
        self.processes.remove(name).with_context(|| format!("{name} does not run"))?.terminate()
    }

    /// The process id of a daemon or a mount.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.processes.get(name).map(Process::id)
    }

    /// The process ids of everything that runs, by name.
    pub fn running(&self) -> impl Iterator<Item = (&str, u32)> {
        self.processes.iter().map(|(name, process)| (name.as_str(), process.id()))
    }

    /// Everything stays up when this value goes.
    pub fn leave_running(&mut self) {
        self.cleans_up = false;
    }

    fn shut_down(&mut self) {
        let mounts: Vec<String> = self.mounts.keys().cloned().collect();
        let others: Vec<String> = self.processes.keys().cloned().collect();
        for name in mounts.iter().chain(&others) {
            let mountpoint = self.mounts.get(name).cloned();
            if self.processes.contains_key(name) {
                let _ = self.stop(name);
            }
            if let Some(path) = mountpoint.filter(|path| is_mounted(path)) {
                let _ = Command::new("umount").arg("-l").arg(path).status();
            }
        }
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if self.cleans_up {
            self.shut_down();
        } else {
            std::mem::take(&mut self.processes).into_values().for_each(Process::leave_running);
        }
    }
}

/// Whether something is mounted at `path`, asked without touching the file system there, which may hang.
pub fn is_mounted(path: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path))
}
