//! Links between the sites and the coordinator: what becomes of a message.

use super::machine::Random;
use std::time::Duration;

/// How bad the links are, by seed.
#[derive(Debug)]
pub(super) struct Network {
    loss_permille: u32,
    repeat_permille: u32,
    late_permille: u32,
    /// How late what is late may be; longer than all terms in some seeds.
    latest_ms: u64,
    /// The sites that are cut off from the coordinator.
    pub(super) cut: Vec<bool>,
    pub(super) faulty: bool,
}

impl Network {
    pub(super) fn any(random: &mut Random, sites: usize) -> Self {
        Self {
            loss_permille: [0, 50, 200, 400][random.below(4)],
            repeat_permille: [0, 100, 300][random.below(3)],
            late_permille: [0, 100, 300][random.below(3)],
            latest_ms: [500, 5_000, 40_000][random.below(3)],
            cut: vec![false; sites],
            faulty: true,
        }
    }

    /// After how long each copy of a message of or to `site` arrives.
    pub(super) fn carry(&self, random: &mut Random, site: usize) -> Vec<Duration> {
        if !self.faulty {
            return vec![random.millis(1, 80)];
        }
        if self.cut[site] || random.chance(self.loss_permille) {
            return Vec::new();
        }
        let copies = if random.chance(self.repeat_permille) { 2 } else { 1 };
        (0..copies).map(|_| self.delay(random)).collect()
    }

    fn delay(&self, random: &mut Random) -> Duration {
        let latest = if random.chance(self.late_permille) { self.latest_ms } else { 80 };
        random.millis(1, latest)
    }
}
