//! The demonstration: a cluster of the real programs, and a tour of what it does with a sample tree.
//!
//! *Invariants:* it ends in success only if everything that it showed was right; whatever it started and
//! made is gone when it ends, unless it was told to keep it; it removes nothing that it has not made.

mod library;
mod mounted;
mod narrator;
mod place;
mod sample;

use crate::cli::output;
use crate::local::{LocalCluster, LocalOptions, LocalSiteOptions, Metrics, Programs};
use anyhow::{Context, Result, ensure};
use narrator::Narrator;
use place::{CLOUD, ONPREM, Place, RUN};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub use place::stop;

/// How long counters may go on growing after a read has returned.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Counters that stood still for so long have arrived.
const SETTLED_AFTER: Duration = Duration::from_millis(60);

/// The most that reading 1 MiB may move.
const FIRST_READ_LIMIT: u64 = 8 << 20;

/// Below `results` every site may become the master of what it changes; it comes home to onprem.
const POLICY: &str = "\
policies:
  - {name: results, pattern: /results/**, primary: onprem, sync_mode: async}
";

/// What the user chose.
#[derive(Debug)]
pub struct Options {
    /// Where it runs; `None`: a new temporary directory.
    pub dir: Option<PathBuf>,
    /// Leave everything up at the end.
    pub keep: bool,
}

/// Runs the tour; `stop` ends it early and cleans up.
///
/// # Errors
/// Something could not be started, or did not do what the tour says that it does.
pub fn run(options: Options, stop: CancellationToken) -> Result<()> {
    let programs = Programs::beside_this()?;
    let place = Place::make(options.dir)?;
    let narrator = Narrator::new(place.dir(), &programs, stop);
    let mut cluster = None;
    let shown = tour(&place, programs, &narrator, &mut cluster);
    if options.keep && !narrator.is_stopped() {
        return keep(place, &narrator, cluster, shown);
    }
    place.unmount();
    drop(cluster);
    place.remove()?;
    narrator.farewell("Everything is stopped, unmounted and removed.");
    // Ctrl-C reaches the commands as well, and what fails then fails for that reason.
    ensure!(!narrator.is_stopped(), "interrupted");
    shown
}

fn keep(place: Place, narrator: &Narrator, cluster: Option<LocalCluster>, shown: Result<()>) -> Result<()> {
    let dir = place.keep();
    if let Some(mut cluster) = cluster {
        cluster.leave_running();
    }
    narrator.farewell(format_args!("Everything stays in {}.", dir.display()));
    if shown.is_ok() {
        narrator
            .farewell(format_args!("Look around:   cd {}; ls -l; cat run/site-cloud.yaml", dir.display()));
    }
    narrator.farewell(format_args!("Take it down:  globalfs demo --stop {}", dir.display()));
    shown
}

fn tour(
    place: &Place,
    programs: Programs,
    narrator: &Narrator,
    cluster: &mut Option<LocalCluster>,
) -> Result<()> {
    narrator
        .line(format_args!("GlobalFS demo in {}; the commands below run there.", place.dir().display()))?;
    narrator.title("Two sites")?;
    let sample = sample::write(&place.dir().join(ONPREM))?;
    narrator.text(format_args!(
        "onprem has {} in {} files, cloud has nothing. Each is a plain directory, used in place.",
        output::bytes(sample.bytes),
        sample.files
    ))?;
    let started = Instant::now();
    let running = cluster.insert(LocalCluster::start(programs, cluster_options(place.dir()))?);
    narrator.text(format_args!(
        "A coordinator and both sites' daemons started in {}; they know each other by certificates.",
        output::duration(started.elapsed())
    ))?;
    let mut tour = Tour { narrator, cluster: running, dir: place.dir() };
    match mounted::mount_first(&mut tour)? {
        None => mounted::show(&mut tour)?,
        Some(refusal) => library::show(&mut tour, &refusal)?,
    }
    tour.look_behind()
}

fn cluster_options(dir: &Path) -> LocalOptions {
    let site = |name: &str| LocalSiteOptions {
        name: name.to_owned(),
        origin: dir.join(name),
        cache_size: "1GiB".to_owned(),
        extra_yaml: String::new(),
    };
    LocalOptions {
        dir: dir.join(RUN),
        store_yaml: "store: embedded".to_owned(),
        policy_yaml: POLICY.to_owned(),
        sites: vec![site(ONPREM), site(CLOUD)],
    }
}

/// What the parts of the tour share.
struct Tour<'a> {
    narrator: &'a Narrator,
    cluster: &'a mut LocalCluster,
    dir: &'a Path,
}

/// What `cloud` has received from `onprem` so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moved {
    file_bytes: u64,
    wire_bytes: u64,
}

impl Tour<'_> {
    fn origin_file(&self, path: &str) -> PathBuf {
        self.dir.join(ONPREM).join(path)
    }

    /// Runs a command whose output is for us alone.
    fn quietly(&self, command: &str) -> Result<String> {
        let ended = self.narrator.run(command)?;
        ensure!(ended.succeeded, "'{command}' failed: {}", ended.text.trim());
        Ok(ended.text)
    }

    /// The counters once they stand still: the kernel reads ahead, and its bytes come after ours.
    fn moved(&self) -> Result<Moved> {
        let started = Instant::now();
        let mut before = self.moved_now()?;
        while started.elapsed() < SETTLE_LIMIT {
            thread::sleep(SETTLED_AFTER);
            let now = self.moved_now()?;
            if now.file_bytes == before.file_bytes {
                return Ok(now);
            }
            before = now;
        }
        anyhow::bail!("bytes still arrive at cloud {SETTLE_LIMIT:?} after the last read")
    }

    fn moved_now(&self) -> Result<Moved> {
        let metrics: Metrics = self.cluster.metrics(CLOUD)?;
        Ok(Moved {
            file_bytes: metrics.sum("globalfs_fetched_bytes_total") as u64,
            wire_bytes: metrics.sum("globalfs_replication_bytes_transferred") as u64,
        })
    }

    /// Says what moved since `before`, and gives it.
    fn tell_moved(&self, before: Moved) -> Result<u64> {
        let now = self.moved()?;
        let file_bytes = now.file_bytes - before.file_bytes;
        let wire_bytes = now.wire_bytes - before.wire_bytes;
        self.narrator.text(format_args!(
            "=> from onprem to cloud: {} of file content; on the wire, compressed and with names, {}",
            output::bytes(file_bytes),
            output::bytes(wire_bytes)
        ))?;
        Ok(file_bytes)
    }

    fn look_behind(&self) -> Result<()> {
        self.narrator.title("Behind it")?;
        let status = self.narrator.command("globalfs status --config run/coordinator.yaml")?;
        ensure!(status.matches("active").count() == 2, "a site is not active:\n{status}");
        self.narrator.text("Configurations run/*.yaml; logs run/*.log and run/NODE/mount.log; metrics:")?;
        for name in ["coordinator", ONPREM, CLOUD, "node-1"] {
            if self.cluster.metrics(name).is_err() {
                continue; // A node has a page while it is mounted.
            }
            let address = self.cluster.metrics_address(name).context("it has metrics")?;
            self.narrator.text(format_args!("  {name:<12} http://{address}/metrics"))?;
        }
        self.narrator.line("")
    }
}

/// The first read moved what was read and little else.
fn check_first_read(moved: u64, length: u64) -> Result<()> {
    let right = (length..=FIRST_READ_LIMIT).contains(&moved);
    ensure!(right, "reading {length} bytes moved {moved}, not between {length} and {FIRST_READ_LIMIT}");
    Ok(())
}

/// What was read once at a site is not moved again.
fn check_no_move(moved: u64) -> Result<()> {
    ensure!(moved == 0, "the second read moved {moved} bytes, not none");
    Ok(())
}

/// The whole file is there, and the parts that had moved before did not move again.
fn check_rest(moved: u64, before: u64, size: u64) -> Result<()> {
    ensure!(before + moved == size, "{before} and {moved} bytes moved for a file of {size}");
    Ok(())
}
