//! Carries a plan out: one system at a time is mounted, made warm, and measured beside the local file system, the
//! one and the other in turn.
//!
//! *Invariant:* what fails or hangs in one system ends in its figure and stops nothing else.

use super::Plan;
use super::data::{Sizes, Tree};
use super::fio::Fio;
use super::measure::Meter;
use super::model::{Part, Phase};
use super::pages;
use super::report::{Figure, Pair, Report, Row, SettingReport};
use crate::model::LinkOptions;
use crate::reader::TooSlow;
use crate::systems::{Bed, Kind, System};
use crate::wan::Wan;
use anyhow::{Result, ensure};
use globalfs::local::Programs;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Everything that is read, below the origin and each mount.
const FOLDER: &str = "warm";

/// How often a part is read at most until reading it again moves nothing over the link.
const WARM_PASSES: usize = 3;

/// A part is warm when a pass moves at most this share of it.
const WARM_SHARE: f64 = 0.01;

/// A file of which a quarter was read counts as whole when more than this share of it was moved.
const WHOLE_SHARE: f64 = 0.9;

/// How long what was asked for ahead may still arrive, and what was fetched be written.
const SETTLE: Duration = Duration::from_secs(1);

/// A machine room: nothing of the warm path crosses it, but what fills the caches.
fn link() -> LinkOptions {
    LinkOptions { rtt: Duration::from_micros(200), rate_bits_per_s: None, ..LinkOptions::default() }
}

/// What all systems are measured with.
struct Field<'a> {
    bed: Bed<'a>,
    plan: &'a Plan,
    meter: Meter,
    local: Tree,
}

/// Measures everything in `plan`.
pub(super) fn measure(plan: &Plan, scratch: &Path, programs: &Programs) -> Result<Report> {
    let drops_pages = plan.phases.iter().any(|phase| phase.drops_pages());
    let file_system = pages::file_system_of(scratch, drops_pages)?;
    let wan = Wan::start(link())?;
    let bed = Bed { wan: &wan, is_loopback: false, dir: scratch.to_owned(), programs: programs.clone() };
    let field = Field::prepare(bed, plan)?;
    let mut systems: BTreeMap<Phase, BTreeMap<&'static str, Figure>> = BTreeMap::new();
    for kind in &plan.systems {
        for (phase, figure) in field.measure_system(*kind) {
            systems.entry(phase).or_default().insert(kind.name(), figure);
        }
    }
    let setting = SettingReport {
        file_system,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        rounds: plan.rounds,
        size_scale: plan.scale,
    };
    Ok(Report {
        setting,
        rows: systems.into_iter().map(|(phase, figures)| Row::of(phase, figures)).collect(),
    })
}

impl<'a> Field<'a> {
    /// Makes the files.
    fn prepare(bed: Bed<'a>, plan: &'a Plan) -> Result<Self> {
        let sizes = Sizes::scaled(plan.scale);
        let local = Tree { root: bed.dir.join("local"), sizes };
        let origin = Tree { root: bed.origin().join(FOLDER), sizes };
        for part in plan.parts() {
            say(format_args!("making files: {part:?}"));
            local.write(part)?;
            origin.write(part)?;
        }
        let meter = Meter { fio: Fio::prepare(bed.dir.join("fio"))?, limit: plan.limit };
        Ok(Self { bed, plan, meter, local })
    }

    /// The figures of all phases, whatever happens.
    fn measure_system(&self, kind: Kind) -> Vec<(Phase, Figure)> {
        let measured = kind.start(&self.bed).and_then(|mut system| {
            let measured = self.measure_mounted(kind, system.as_mut());
            system.unmount();
            measured
        });
        measured.unwrap_or_else(|error| {
            let reason = reason_of(&error);
            say(format_args!("{} {reason}", kind.name()));
            let failed = |phase: &Phase| (*phase, Figure::of(*phase, Vec::new(), Some(reason.clone())));
            self.plan.phases.iter().map(failed).collect()
        })
    }

    fn measure_mounted(&self, kind: Kind, system: &mut dyn System) -> Result<Vec<(Phase, Figure)>> {
        system.publish(Path::new(FOLDER))?;
        let root = system.mount_cold(1)?.swap_remove(0).join(FOLDER);
        let mounted = Tree { root, sizes: self.local.sizes };
        let mut warm: BTreeMap<Part, Result<(), String>> = BTreeMap::new();
        let phases = self.plan.phases.iter().map(|phase| {
            let part =
                warm.entry(phase.part()).or_insert_with_key(|part| self.make_warm(kind, *part, &mounted));
            let figure = match part {
                Err(reason) => Figure::of(*phase, Vec::new(), Some(reason.clone())),
                Ok(()) => self.measure_phase(*phase, &mounted),
            };
            report(kind, *phase, &figure);
            (*phase, figure)
        });
        Ok(phases.collect())
    }

    /// Reads a part until it is warm, or says why it is not to be had.
    fn make_warm(&self, kind: Kind, part: Part, mounted: &Tree) -> Result<(), String> {
        say(format_args!("{}: reading {part:?}", kind.name()));
        let read = self.read_until_warm(part, mounted);
        std::thread::sleep(SETTLE);
        read.map_err(|error| reason_of(&error))
    }

    fn read_until_warm(&self, part: Part, mounted: &Tree) -> Result<()> {
        for pass in 0..WARM_PASSES {
            let before = self.moved();
            let read = mounted.read(part, &self.local, self.plan.limit)? as f64;
            let moved = self.moved() - before;
            if part == Part::Partly && pass == 0 {
                std::thread::sleep(SETTLE);
                let share = (self.moved() - before) / mounted.sizes.partly as f64;
                ensure!(
                    share <= WHOLE_SHARE,
                    "was asked for a quarter of the file and fetched {share:.2} of it"
                );
            }
            if moved <= read * WARM_SHARE {
                break;
            }
            pages::drop_all()?;
        }
        Ok(())
    }

    /// Bytes that the near end was sent so far.
    fn moved(&self) -> f64 {
        self.bed.wan.counters().far_to_near.bytes as f64
    }

    fn measure_phase(&self, phase: Phase, mounted: &Tree) -> Figure {
        if let Err(error) = self.meter.prepare(phase, [&self.local, mounted]) {
            return Figure::of(phase, Vec::new(), Some(reason_of(&error)));
        }
        let mut pairs = Vec::new();
        for _ in 0..self.plan.rounds {
            match self.measure_pair(phase, mounted) {
                Ok(pair) => pairs.push(pair),
                Err(error) => return Figure::of(phase, pairs, Some(reason_of(&error))),
            }
        }
        Figure::of(phase, pairs, None)
    }

    fn measure_pair(&self, phase: Phase, mounted: &Tree) -> Result<Pair> {
        let local = self.meter.measure(phase, &self.local)?;
        if phase == Phase::Partly {
            // What was read before would be answered by the kernel.
            pages::drop_of(&mounted.partly())?;
        }
        Ok(Pair { local, mounted: self.meter.measure(phase, mounted)? })
    }
}

fn report(kind: Kind, phase: Phase, figure: &Figure) {
    let (name, symbol) = (phase.name(), phase.unit().symbol());
    match (figure.mounted, figure.ratio, &figure.failure) {
        (Some(mounted), Some(ratio), _) => {
            say(format_args!(
                "{name:<18} {:<10} {mounted:9.3} {symbol:<8} {ratio:6.3} of local",
                kind.name()
            ));
        }
        (_, _, failure) => {
            say(format_args!("{name:<18} {:<10} {}", kind.name(), failure.as_deref().unwrap_or("-")));
        }
    }
}

fn reason_of(error: &anyhow::Error) -> String {
    match error.downcast_ref::<TooSlow>() {
        Some(slow) => slow.to_string(),
        None => format!("fails: {error:#}"),
    }
}

fn say(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}
