//! What was measured warm, as it is printed with `--json`.

use super::model::{Goal, Phase, Work};
use crate::model::{Better, Summary, ratio};
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything of one run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Where and how it was measured.
    pub setting: SettingReport,
    /// A row for each phase.
    pub rows: Vec<Row>,
}

/// Where and how it was measured.
#[derive(Debug, Serialize)]
pub(super) struct SettingReport {
    /// The kind of the local file system, which also holds the caches.
    pub file_system: String,
    /// The kernel's release.
    pub kernel: String,
    /// Pairs of measurements of each phase and system.
    pub rounds: u64,
    /// By how much large files are smaller than the phases say.
    pub size_scale: f64,
}

/// One phase.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    /// Its name.
    pub phase: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// In what it is measured.
    pub unit: &'static str,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// What is aimed at.
    pub goal: Option<Goal>,
    /// What each system reached.
    pub systems: BTreeMap<&'static str, Figure>,
    #[serde(skip)]
    pub(super) kind: Phase,
}

/// One measurement on the local file system and the one on the mount right after it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Pair {
    /// What was done on the local file system.
    pub local: Work,
    /// The same on the mount.
    pub mounted: Work,
}

/// What a system reached in a phase. Medians are of all rounds.
#[derive(Debug, Default, Serialize)]
pub(super) struct Figure {
    /// The figure of the local file system.
    pub local: Option<f64>,
    /// The mount's.
    pub mounted: Option<f64>,
    /// The mount's figure in parts of the local one, round by round.
    pub ratio: Option<f64>,
    /// The smallest such ratio.
    pub min_ratio: Option<f64>,
    /// The largest.
    pub max_ratio: Option<f64>,
    /// How long ago each name had been seen when it was asked for again, in seconds.
    pub known_for_s: Option<f64>,
    /// All pairs in the order in which they were taken.
    pub samples: Vec<Pair>,
    /// Why there are no or not all samples.
    pub failure: Option<String>,
}

/// The best of the other systems in a phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BestPeer {
    /// Its name.
    pub name: &'static str,
    /// Its ratio to the local file system.
    pub ratio: f64,
    /// How many times as good ours is.
    pub times: f64,
}

impl Figure {
    pub(super) fn of(phase: Phase, samples: Vec<Pair>, failure: Option<String>) -> Self {
        let figure = |work: &Work| phase.unit().figure(work);
        let of = |value: &dyn Fn(&Pair) -> f64| Summary::of(&samples.iter().map(value).collect::<Vec<_>>());
        let ratios = of(&|pair| figure(&pair.mounted) / figure(&pair.local));
        let known: Vec<_> = samples.iter().filter_map(|pair| pair.mounted.known_for_s).collect();
        Self {
            local: of(&|pair| figure(&pair.local)).map(|summary| summary.median),
            mounted: of(&|pair| figure(&pair.mounted)).map(|summary| summary.median),
            ratio: ratios.map(|summary| summary.median),
            min_ratio: ratios.map(|summary| summary.min),
            max_ratio: ratios.map(|summary| summary.max),
            known_for_s: Summary::of(&known).map(|summary| summary.median),
            samples,
            failure,
        }
    }
}

impl Row {
    pub(super) fn of(phase: Phase, systems: BTreeMap<&'static str, Figure>) -> Self {
        Self {
            phase: phase.name(),
            about: phase.about(),
            unit: phase.unit().symbol(),
            higher_is_better: phase.unit().better() == Better::Higher,
            goal: phase.goal(),
            systems,
            kind: phase,
        }
    }

    /// The best system but `own`, which is compared by what each made of the local file system beside it.
    pub(super) fn best_peer(&self, own: &str) -> Option<BestPeer> {
        let better = self.kind.unit().better();
        let own_ratio = self.systems.get(own)?.ratio?;
        let others = self.systems.iter().filter(|(name, _)| **name != own);
        let measured = others.filter_map(|(name, figure)| {
            let other = figure.ratio?;
            Some(BestPeer { name, ratio: other, times: ratio(own_ratio, other, better) })
        });
        measured.min_by(|a, b| a.times.total_cmp(&b.times))
    }

    /// Whether `own` reaches the goal; nothing where there is none or nothing to compare with.
    pub(super) fn reaches_goal(&self, own: &str) -> Option<bool> {
        match self.goal? {
            Goal::OfLocal(goal) => {
                Some(self.kind.unit().better().reaches(self.systems.get(own)?.ratio?, goal))
            }
            Goal::OfBestPeer(goal) => Some(self.best_peer(own)?.times >= goal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn work(seconds: u64) -> Work {
        Work::of(1000, 1 << 30, Duration::from_secs(seconds))
    }

    /// A system whose mount takes so many seconds where the local file system takes ten.
    fn system(phase: Phase, seconds: &[u64]) -> Figure {
        let pair = |mounted: &u64| Pair { local: work(10), mounted: work(*mounted) };
        Figure::of(phase, seconds.iter().map(pair).collect(), None)
    }

    #[test]
    fn ratios_are_of_pairs() {
        let figure = system(Phase::Find, &[20, 10, 40]);
        assert_eq!((figure.local, figure.mounted, figure.ratio), (Some(10.0), Some(20.0), Some(2.0)));
        assert_eq!((figure.min_ratio, figure.max_ratio), (Some(1.0), Some(4.0)));
        let figure = system(Phase::Sequential, &[20]);
        assert_eq!(figure.ratio, Some(0.5));
        assert_eq!(system(Phase::Find, &[]).ratio, None);
    }

    #[test]
    fn the_best_peer_and_the_goal_follow_the_direction_of_the_unit() {
        let row = |phase: Phase| {
            let systems = [("globalfs", &[20][..]), ("a", &[80]), ("b", &[40]), ("c", &[])];
            Row::of(phase, systems.map(|(name, seconds)| (name, system(phase, seconds))).into())
        };
        for phase in [Phase::Find, Phase::Sequential, Phase::Partly] {
            let best = row(phase).best_peer("globalfs").unwrap();
            assert_eq!((best.name, best.times), ("b", 2.0), "{phase:?}");
        }
        assert_eq!(row(Phase::Find).reaches_goal("globalfs"), Some(false));
        assert_eq!(row(Phase::SmallFiles).reaches_goal("globalfs"), Some(true));
        assert_eq!(row(Phase::Sequential).reaches_goal("globalfs"), Some(false));
        assert_eq!(row(Phase::Partly).reaches_goal("globalfs"), Some(true));
        assert_eq!(row(Phase::Mixed).reaches_goal("globalfs"), None);
        let alone = Row::of(Phase::Partly, [("globalfs", system(Phase::Partly, &[20]))].into());
        assert_eq!((alone.best_peer("globalfs"), alone.reaches_goal("globalfs")), (None, None));
    }
}
