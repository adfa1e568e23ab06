//! What was measured over one link, as it is printed with `--json`.

use super::model::Phase;
use crate::model::{Better, Summary, ratio};
use crate::wan::LinkOptions;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything over one link.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The link that was asked for.
    pub link: LinkReport,
    /// A row for each phase.
    pub rows: Vec<Row>,
}

/// The link.
#[derive(Debug, Serialize)]
pub(crate) struct LinkReport {
    /// Its round trip.
    pub rtt_ms: f64,
    /// Its rate; `null` where it is not limited.
    pub rate_bits_per_s: Option<u64>,
    /// Packets lost, 0 to 1.
    pub loss: f64,
    /// Largest packet.
    pub mtu: u16,
    /// Rounds of each measurement.
    pub rounds: u64,
    /// By how much large files are smaller than the phases say.
    pub size_scale: f64,
}

/// One phase.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Its name.
    pub phase: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// In what it is measured.
    pub unit: &'static str,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// What physics allows, with this data on this link.
    pub bound: f64,
    /// What is aimed at, on the link for which that is said.
    pub goal: Option<f64>,
    /// One TCP + TLS 1.3 stream over the phase's link.
    pub stream_bytes_per_s: f64,
    /// How long the same work takes on this machine's disk, for the phases where it matters.
    pub local_s: Option<f64>,
    /// What each system reached.
    pub systems: BTreeMap<&'static str, Figure>,
    #[serde(skip)]
    pub(super) kind: Phase,
}

/// What a system reached in a phase.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figure {
    /// Median, or nothing if it failed.
    pub median: Option<f64>,
    /// Smallest sample.
    pub min: Option<f64>,
    /// Largest sample.
    pub max: Option<f64>,
    /// How many times as good as the bound; 1 is as good as physics allows.
    pub of_bound: Option<f64>,
    /// All samples in the order in which they were taken.
    pub samples: Vec<f64>,
    /// Why there are no or not all samples.
    pub failure: Option<String>,
}

impl LinkReport {
    pub(super) fn of(link: &LinkOptions, rounds: u64, size_scale: f64) -> Self {
        Self {
            rtt_ms: link.rtt.as_secs_f64() * 1e3,
            rate_bits_per_s: link.rate_bits_per_s,
            loss: link.loss,
            mtu: link.mtu,
            rounds,
            size_scale,
        }
    }
}

impl Figure {
    pub(super) fn of(samples: Vec<f64>, failure: Option<String>, bound: f64, better: Better) -> Self {
        let summary = Summary::of(&samples);
        Self {
            median: summary.map(|summary| summary.median),
            min: summary.map(|summary| summary.min),
            max: summary.map(|summary| summary.max),
            of_bound: summary.map(|summary| ratio(summary.median, bound, better)),
            samples,
            failure,
        }
    }
}

impl Row {
    /// Whether any system was measured.
    pub(crate) fn has_figures(&self) -> bool {
        self.systems.values().any(|figure| figure.median.is_some())
    }

    /// The best median of all systems but `own`, with the system's name.
    pub(crate) fn best_other(&self, own: &str) -> Option<(&'static str, f64)> {
        let others = self.systems.iter().filter(|(name, _)| **name != own);
        let measured = others.filter_map(|(name, figure)| Some((*name, figure.median?)));
        measured
            .reduce(|best, next| if ratio(next.1, best.1, self.kind.better()) > 1.0 { next } else { best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_the_others() {
        let figure = |median| Figure { median, ..Figure::default() };
        let systems = [
            ("globalfs", figure(Some(1.0))),
            ("a", figure(Some(3.0))),
            ("b", figure(Some(2.0))),
            ("c", figure(None)),
        ];
        let row = |kind: Phase, systems| Row {
            phase: kind.name(),
            about: kind.about(),
            unit: kind.unit().symbol(),
            higher_is_better: kind.better() == Better::Higher,
            bound: 1.0,
            goal: None,
            stream_bytes_per_s: 1.0,
            local_s: None,
            systems,
            kind,
        };
        let lone = row(Phase::Lone, BTreeMap::from(systems));
        assert_eq!(lone.best_other("globalfs"), Some(("b", 2.0)));
        let text = row(Phase::Text, lone.systems);
        assert_eq!(text.best_other("globalfs"), Some(("a", 3.0)));
        assert_eq!(row(Phase::Text, BTreeMap::new()).best_other("globalfs"), None);
    }
}
