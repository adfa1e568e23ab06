//! Carries a plan out: phases that share a link share a set of systems, data is fresh in each round, and one
//! system is mounted at a time.
//!
//! *Invariant:* what fails or hangs in one system ends in its figure and stops nothing else.

use super::Plan;
use super::data;
use super::model::{Phase, Reference, Unit};
use super::phases::{self, Prepared, Setting};
use super::report::{Figure, LinkReport, Report, Row};
use super::stream;
use crate::model::{Better, Summary};
use crate::reader::TooSlow;
use crate::systems::{Bed, Kind, System};
use crate::wan::{LinkOptions, Wan};
use anyhow::{Context, Result};
use globalfs::local::Programs;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// A system that took longer for a round is not asked for another one.
const REPEATED_BELOW: Duration = Duration::from_secs(30);

/// Bytes of the stream that shows what the link carries, and how often it is measured.
const STREAM_BYTES: u64 = 256 << 20;
const STREAM_TRIES: usize = 3;

/// What it may take where packets are lost.
const STREAM_LIMIT: Duration = Duration::from_secs(10);

/// How long the origin rests after its files were made.
const REST: Duration = Duration::from_millis(500);

/// A system, or why it did not start.
type Started = Result<Box<dyn System>, String>;

/// The systems over one link.
struct Field<'a> {
    bed: Bed<'a>,
    plan: &'a Plan,
    link: LinkOptions,
    stream_bytes_per_s: f64,
    systems: Vec<(Kind, Started)>,
}

/// What was measured of a phase so far.
#[derive(Default)]
struct Tally {
    samples: BTreeMap<Kind, Vec<f64>>,
    failures: BTreeMap<Kind, String>,
    bounds: Vec<f64>,
    local_s: Vec<f64>,
}

/// Measures everything in `plan`.
pub(super) fn measure(plan: &Plan, scratch: &Path, programs: &Programs) -> Result<Report> {
    let mut rows = Vec::new();
    let mut left = plan.phases.clone();
    while let Some(first) = left.first() {
        let between = |phase: &Phase| (phase.link(&plan.link), phase.is_loopback());
        let (link, is_loopback) = between(first);
        let (now, later): (Vec<Phase>, Vec<Phase>) =
            left.iter().partition(|phase| between(phase) == (link.clone(), is_loopback));
        let wan = Wan::start(link.clone())?;
        let dir = tempfile::TempDir::with_prefix_in("link-", scratch)?;
        let (at, programs) = (dir.path().to_owned(), programs.clone());
        let bed = Bed { wan: &wan, is_loopback, dir: at, programs };
        rows.extend(measure_over(plan, &link, &now, bed)?);
        left = later;
    }
    rows.sort_by_key(|row| row.kind);
    Ok(Report { link: LinkReport::of(&plan.link, plan.rounds, plan.scale), rows })
}

fn measure_over(plan: &Plan, link: &LinkOptions, phases: &[Phase], bed: Bed<'_>) -> Result<Vec<Row>> {
    let mut field = Field::start(bed, plan, link)?;
    phases.iter().map(|phase| field.measure(*phase)).collect()
}

impl<'a> Field<'a> {
    fn start(bed: Bed<'a>, plan: &'a Plan, link: &LinkOptions) -> Result<Self> {
        data::write_others(&bed.origin())?;
        let stream_bytes_per_s = measure_stream(&bed)?;
        let between = if bed.is_loopback { "loopback".into() } else { describe(link) };
        say(format_args!("{between}: a TCP + TLS stream {:.1} MB/s", stream_bytes_per_s / 1e6));
        let started = plan.systems.iter().map(|kind| {
            let started = kind.start(&bed).map_err(|error| format!("fails: {error:#}"));
            if let Err(reason) = &started {
                say(format_args!("{} {reason}", kind.name()));
            }
            (*kind, started)
        });
        let systems = started.collect();
        Ok(Self { bed, plan, link: link.clone(), stream_bytes_per_s, systems })
    }

    /// What the link carries.
    fn bytes_per_s(&self) -> f64 {
        self.link.rate_bits_per_s.map_or(self.stream_bytes_per_s, |bits| bits as f64 / 8.0)
    }

    fn measure(&mut self, phase: Phase) -> Result<Row> {
        let mut tally = Tally::default();
        for round in 0..self.plan.rounds {
            let origin = self.bed.origin();
            let prepared = phases::prepare(phase, &origin, round, self.plan.scale)?;
            tally.bounds.push(phase.bound(&self.reference(&prepared)));
            tally.local_s.push(prepared.local_s);
            std::thread::sleep(REST);
            self.round(&prepared, &mut tally)?;
            fs::remove_dir_all(origin.join(&prepared.folder))?;
        }
        Ok(self.row(phase, tally))
    }

    fn reference(&self, prepared: &Prepared) -> Reference {
        Reference {
            rtt: self.link.rtt,
            bytes_per_s: self.bytes_per_s(),
            read_bytes: prepared.read_bytes,
            shrinks_by: prepared.shrinks_by,
            local_s: prepared.local_s,
        }
    }

    fn round(&mut self, prepared: &Prepared, tally: &mut Tally) -> Result<()> {
        let origin = self.bed.origin();
        if prepared.phase.unit() == Unit::OfStream {
            // Measured again beside what is compared with it: other work on the machine slows both.
            self.stream_bytes_per_s = measure_stream(&self.bed)?;
        }
        let setting = Setting {
            wan: self.bed.wan,
            origin: &origin,
            rtt: self.link.rtt,
            bytes_per_s: self.bytes_per_s(),
            limit: self.plan.limit,
        };
        for (kind, system) in &mut self.systems {
            match system {
                Err(reason) => tally.fails(*kind, reason.clone()),
                Ok(system) => tally.add(*kind, prepared, system.as_mut(), setting),
            }
        }
        Ok(())
    }

    fn row(&self, phase: Phase, mut tally: Tally) -> Row {
        let bound = Summary::of(&tally.bounds).map_or(f64::NAN, |summary| summary.median);
        let systems = self.plan.systems.iter().map(|kind| {
            let samples = tally.samples.remove(kind).unwrap_or_default();
            (kind.name(), Figure::of(samples, tally.failures.remove(kind), bound, phase.better()))
        });
        Row {
            phase: phase.name(),
            about: phase.about(),
            unit: phase.unit().symbol(),
            higher_is_better: phase.better() == Better::Higher,
            bound,
            goal: phase.goal(&self.plan.link, bound),
            stream_bytes_per_s: self.stream_bytes_per_s,
            local_s: Summary::of(&tally.local_s).map(|summary| summary.median).filter(|local| *local > 0.0),
            systems: systems.collect(),
            kind: phase,
        }
    }
}

impl Tally {
    fn fails(&mut self, kind: Kind, reason: String) {
        self.failures.entry(kind).or_insert(reason);
    }

    fn add(&mut self, kind: Kind, prepared: &Prepared, system: &mut dyn System, setting: Setting<'_>) {
        if self.failures.contains_key(&kind) {
            return;
        }
        let started = Instant::now();
        let measured = system.publish(&prepared.folder).and_then(|()| prepared.measure(system, setting));
        system.unmount();
        let (name, symbol) = (prepared.phase.name(), prepared.phase.unit().symbol());
        match measured {
            Ok(samples) => {
                let median = Summary::of(&samples).map_or(f64::NAN, |summary| summary.median);
                say(format_args!("{name:<16} {:<10} {median:9.3} {symbol}", kind.name()));
                self.samples.entry(kind).or_default().extend(samples);
            }
            Err(error) => {
                let reason = reason_of(&error);
                say(format_args!("{name:<16} {:<10} {reason}", kind.name()));
                self.fails(kind, reason);
            }
        }
        if started.elapsed() > REPEATED_BELOW {
            self.fails(kind, "measured once, being slow".into());
        }
    }
}

/// Bytes per second of one TCP + TLS stream.
fn measure_stream(bed: &Bed<'_>) -> Result<f64> {
    let tries = (0..STREAM_TRIES).map(|_| stream::measure(bed, STREAM_BYTES, STREAM_LIMIT));
    let speeds = tries.collect::<Result<Vec<f64>>>().context("a TCP + TLS stream over the link")?;
    Ok(Summary::of(&speeds).map_or(0.0, |summary| summary.median))
}

fn reason_of(error: &anyhow::Error) -> String {
    match error.downcast_ref::<TooSlow>() {
        Some(slow) => slow.to_string(),
        None => format!("fails: {error:#}"),
    }
}

/// A link in a few words.
pub(super) fn describe(link: &LinkOptions) -> String {
    let rate =
        link.rate_bits_per_s.map_or("no rate limit".into(), |bits| format!("{} Mbit/s", bits / 1_000_000));
    format!("{:?}, {rate}, loss {} %, MTU {}", link.rtt, link.loss * 100.0, link.mtu)
}

fn say(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}
