//! The tour through mounts, with the commands that a user would type.

use super::place::{CLOUD, MOUNT_POINTS, ONPREM};
use super::sample::{FIELD, FIELD_SIZE, RESULTS};
use super::{Tour, check_first_read, check_no_move, check_rest};
use anyhow::{Context, Result, bail, ensure};

const FIRST: &str = MOUNT_POINTS[0];
const SECOND: &str = MOUNT_POINTS[1];
const AT_ONPREM: &str = MOUNT_POINTS[2];

const MIB: u64 = 1 << 20;

/// What the job at `cloud` makes, relative to the tree.
const RUN_1: &str = "run-1";
const WARMEST: &str = "warmest.csv";

/// What the mount command says where the system does not let it mount.
const REFUSALS: [&str; 2] = ["FUSE is not available", "not permitted to mount"];

/// Joins the first node and mounts there; gives the reason if FUSE is not permitted here.
pub(super) fn mount_first(tour: &mut Tour<'_>) -> Result<Option<String>> {
    tour.narrator.title("A node of cloud mounts the tree")?;
    tour.narrator
        .text("It has joined with a one-time token; its mount talks to the daemon of its own site only.")?;
    mount(tour, "node-1", CLOUD, FIRST)
}

/// Shows the rest of the tour.
pub(super) fn show(tour: &mut Tour<'_>) -> Result<()> {
    same_tree(tour)?;
    let first = first_read(tour)?;
    second_read(tour)?;
    whole_file(tour, first)?;
    results_written(tour)?;
    results_home(tour)
}

fn mount(tour: &mut Tour<'_>, node: &str, site: &str, mount_point: &str) -> Result<Option<String>> {
    tour.cluster.add_node(node, site, "1GiB", "")?;
    let command = format!("globalfs-fuse mount {mount_point} --config run/{node}.yaml");
    let ended = tour.narrator.try_command(&command)?;
    let said = ended.text.trim();
    match ended.succeeded {
        true => Ok(None),
        false if REFUSALS.iter().any(|refusal| said.contains(refusal)) => {
            let reason = said.lines().find_map(|line| line.strip_prefix("globalfs-fuse: "));
            Ok(Some(reason.unwrap_or(said).to_owned()))
        }
        false => bail!("{said}"),
    }
}

fn mount_another(tour: &mut Tour<'_>, node: &str, site: &str, mount_point: &str) -> Result<()> {
    let refusal = mount(tour, node, site, mount_point)?;
    ensure!(refusal.is_none(), "the second mount was refused: {}", refusal.unwrap_or_default());
    Ok(())
}

fn same_tree(tour: &mut Tour<'_>) -> Result<()> {
    tour.narrator.title("The same tree at both sites")?;
    mount_another(tour, "login-1", ONPREM, AT_ONPREM)?;
    let at_cloud = tour.narrator.command(&format!("ls -l {FIRST} {FIRST}/datasets/climate"))?;
    ensure!(at_cloud.contains("temperature.f32"), "the file is missing at cloud");
    // Not `ls -lR`: it shows blocks on disk, which change when the origin's kernel writes the file out.
    let listing =
        |root: &str| format!("cd {root} && find . -printf '%p %M %u %g %s %T+ %l\\n' | sort | sha256sum");
    let at_cloud = tour.narrator.command(&listing(FIRST))?;
    let at_onprem = tour.narrator.command(&listing(AT_ONPREM))?;
    ensure!(at_cloud == at_onprem, "the listings differ");
    let moved = tour.moved()?.file_bytes;
    ensure!(moved == 0, "listing moved {moved} bytes of contents");
    tour.narrator.text("=> names, sizes, owners and times are equal; of the contents, nothing has moved")
}

/// The command that hashes the 33rd MiB of the large file below `root`.
fn hash_part(root: &str) -> String {
    format!("dd if={root}/{FIELD} bs=1M skip=32 count=1 status=none | sha256sum")
}

fn first_read(tour: &mut Tour<'_>) -> Result<u64> {
    tour.narrator.title("The first read at cloud moves what is read")?;
    tour.narrator
        .text("1 MiB in the middle of a file of 64 MiB, through the mount and in onprem's own directory:")?;
    let before = tour.moved()?;
    let at_cloud = tour.narrator.command(&hash_part(FIRST))?;
    let moved = tour.tell_moved(before)?;
    let at_origin = tour.narrator.command(&hash_part(ONPREM))?;
    ensure!(at_cloud == at_origin, "the bytes at cloud are not those of onprem");
    check_first_read(moved, MIB)?;
    Ok(moved)
}

fn second_read(tour: &mut Tour<'_>) -> Result<()> {
    tour.narrator.title("The second reader at cloud moves nothing")?;
    mount_another(tour, "node-2", CLOUD, SECOND)?;
    let before = tour.moved()?;
    let at_second = tour.narrator.command(&hash_part(SECOND))?;
    let moved = tour.tell_moved(before)?;
    ensure!(at_second == tour.quietly(&hash_part(ONPREM))?, "the bytes at the second node are wrong");
    check_no_move(moved)
}

fn whole_file(tour: &mut Tour<'_>, first: u64) -> Result<()> {
    tour.narrator.title("The whole file, verified")?;
    let before = tour.moved()?;
    let hashes =
        tour.narrator.command(&format!("sha256sum {ONPREM}/{FIELD} {FIRST}/{FIELD} {SECOND}/{FIELD}"))?;
    let mut hashes = hashes.lines().map(|line| line.split(' ').next());
    let origin = hashes.next().flatten().context("sha256sum printed nothing")?;
    ensure!(hashes.all(|hash| hash == Some(origin)), "a hash differs from that of onprem");
    let moved = tour.tell_moved(before)?;
    check_rest(moved, first, FIELD_SIZE)?;
    tour.narrator.text("=> three equal hashes; the rest of the file moved, once for both nodes")
}

/// What a job at `cloud` writes is its own site's at once, and everybody's.
fn results_written(tour: &mut Tour<'_>) -> Result<()> {
    tour.narrator.title("A job at cloud writes its results there")?;
    let run = format!("{RESULTS}/{RUN_1}");
    let job = format!(
        "mkdir {FIRST}/{run} && for station in hamburg nairobi quito tromso; do \
         sort -t, -k2,2nr {FIRST}/datasets/climate/$station.csv | head -1; done > {FIRST}/{run}/{WARMEST}"
    );
    tour.narrator.command(&job)?;
    let leases = tour.narrator.command("globalfs lease list --config run/coordinator.yaml")?;
    ensure!(leases.contains(&format!("/{run}")) && leases.contains(CLOUD), "cloud has no lease:\n{leases}");
    tour.narrator.text(format_args!(
        "=> cloud masters /{run} from the first change on: writing there waits for nobody far away"
    ))?;
    let at_cloud = tour.quietly(&format!("cat {FIRST}/{run}/{WARMEST}"))?;
    let at_onprem = tour.narrator.command(&format!("cat {AT_ONPREM}/{run}/{WARMEST}"))?;
    ensure!(at_cloud == at_onprem && at_cloud.lines().count() == 4, "onprem reads other results");
    tour.narrator.text("=> a node of onprem reads it at once, whether it is home yet or not")
}

/// It comes home by itself; one may wait for that, and the site may then be torn down.
fn results_home(tour: &mut Tour<'_>) -> Result<()> {
    tour.narrator.title("They come home by themselves")?;
    let run = format!("{RESULTS}/{RUN_1}");
    tour.narrator
        .command(&format!("globalfs sync /{run} --wait --timeout 60s --config run/coordinator.yaml"))?;
    let listing = |root: &str| format!("cd {root}/{run} && stat -c '%n %s %A %y' * && sha256sum *");
    let home = tour.narrator.command(&listing(ONPREM))?;
    let at_cloud = tour.narrator.command(&listing(CLOUD))?;
    ensure!(home == at_cloud, "what is home is not what was written");
    tour.narrator.command("globalfs drain cloud --timeout 60s --config run/coordinator.yaml")?;
    let left = tour.quietly("globalfs lease list --json --config run/coordinator.yaml")?;
    ensure!(left.trim() == "[]", "cloud still has a lease: {left}");
    tour.narrator
        .text("=> the results lie in onprem's own directory; cloud owes nothing and may be torn down")
}
