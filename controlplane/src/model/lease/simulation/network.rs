//! Links between the sites and the coordinator: what becomes of a message.

use super::machine::Random;
use std::time::Duration;

/// The direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToGranter,
    ToHolder,
}

/// How bad the links are, by seed.
#[derive(Debug)]
pub(super) struct Network {
    loss_permille: u32,
    repeat_permille: u32,
    late_permille: u32,
    /// How late what is late may be; longer than all terms in some seeds.
    latest_ms: u64,
    /// Most partitions are of both directions; in some only one is cut.
    cut: Vec<bool>,
    /// How late what is not late may be.
    usual_ms: u64,
    pub(super) faulty: bool,
}

impl Network {
    pub(super) fn any(random: &mut Random, sites: usize) -> Self {
        Self {
            loss_permille: [0, 50, 200, 400][random.below(4)],
            repeat_permille: [0, 100, 300][random.below(3)],
            late_permille: [0, 100, 300][random.below(3)],
            latest_ms: [500, 5_000, 40_000][random.below(3)],
            cut: vec![false; 2 * sites],
            usual_ms: [3, 80][random.below(2)],
            faulty: true,
        }
    }

    /// Cuts or heals one direction between a site and the coordinator.
    pub(super) fn cut(&mut self, site: usize, way: Way, cut: bool) {
        self.cut[2 * site + way as usize] = cut;
    }

    pub(super) fn is_cut(&self, site: usize) -> bool {
        self.cut[2 * site] || self.cut[2 * site + 1]
    }

    /// After how long each copy of a message of or to `site` arrives.
    pub(super) fn carry(&self, random: &mut Random, site: usize, way: Way) -> Vec<Duration> {
        if !self.faulty {
            return vec![random.millis(1, 80)];
        }
        if self.cut[2 * site + way as usize] || random.chance(self.loss_permille) {
            return Vec::new();
        }
        let copies = if random.chance(self.repeat_permille) { 2 } else { 1 };
        (0..copies).map(|_| self.delay(random)).collect()
    }

    fn delay(&self, random: &mut Random) -> Duration {
        let latest = if random.chance(self.late_permille) { self.latest_ms } else { self.usual_ms };
        random.millis(1, latest)
    }
}
