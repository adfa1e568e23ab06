//! Contents of large files: noise, prose, a physical field; and files that share chunks.

use super::text::Prose;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::f64::consts::TAU;

/// The grain in which files share content: what a chunk of the protocol is.
pub(crate) const CHUNK_BYTES: usize = 128 * 1024;

/// One chunk in this many is new in [`Content::Revised`].
const NEW_EVERY: u64 = 5;

/// By how many chunks the common ones lie elsewhere, so that position alone does not find them.
const SHIFTED_BY: u64 = 7;

/// Numbers in a row of the field; a chunk has four rows of them.
const WIDTH: usize = 4096;
const ROWS: usize = CHUNK_BYTES / 8 / WIDTH;

/// Rows in a plane, and planes in which a wave comes round.
const HEIGHT: usize = 1024;
const DEPTH: usize = 64;

/// Chunks from which it is reckoned by how much a file shrinks.
const SAMPLES: u64 = 8;

/// Waves of which a field is made.
const WAVES: usize = 6;

/// The noise of a field in parts of its amplitude: what an instrument or a solver's tolerance leaves.
const FIELD_NOISE: f64 = 1e-8;

/// What a file consists of. Block `n` depends on the seed and `n` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Random bytes.
    Noise,
    /// Prose.
    Text,
    /// Little-endian float64 numbers of a smooth field in three dimensions with a little noise.
    Field,
    /// Noise of which four chunks in five also are, elsewhere, in the [`Content::Noise`] of the same seed.
    Revised,
}

impl Content {
    /// The bytes of chunk `number` of a file of `chunks`.
    pub(crate) fn chunk(self, seed: u64, number: u64, chunks: u64) -> Vec<u8> {
        match self {
            Self::Noise => noise(seed, number),
            Self::Revised if is_new(seed, number) => noise(!seed, number),
            Self::Revised => noise(seed, (number + SHIFTED_BY) % chunks),
            Self::Text => text(seed, number),
            Self::Field => field(seed, number),
        }
    }

    /// How many times the bytes to move are smaller than the file: what the best known way of each kind takes.
    pub(crate) fn shrinks_by(self, seed: u64, chunks: u64) -> f64 {
        match self {
            Self::Noise => 1.0,
            Self::Text => self.mean_ratio(seed, chunks, text_ratio),
            Self::Field => self.mean_ratio(seed, chunks, field_ratio),
            Self::Revised => {
                let new = (0..chunks).filter(|number| is_new(seed, *number)).count();
                chunks as f64 / new.max(1) as f64
            }
        }
    }

    /// Bytes of some chunks in parts of what they are made to.
    fn mean_ratio(self, seed: u64, chunks: u64, of: impl Fn(&[u8]) -> f64) -> f64 {
        let sampled = (0..SAMPLES).map(|n| self.chunk(seed, n * chunks / SAMPLES, chunks));
        SAMPLES as f64 / sampled.map(|chunk| 1.0 / of(&chunk)).sum::<f64>()
    }
}

/// What zstd at level 3 makes of a chunk.
pub(crate) fn text_ratio(chunk: &[u8]) -> f64 {
    let packed = zstd::bulk::compress(chunk, 3).map_or(chunk.len(), |packed| packed.len());
    chunk.len() as f64 / packed as f64
}

/// What zstd makes of a chunk of float64 numbers whose first bytes stand together, then the second ones, ...
pub(crate) fn field_ratio(chunk: &[u8]) -> f64 {
    let plane = |byte: usize| chunk.iter().skip(byte).step_by(8);
    text_ratio(&(0..8).flat_map(plane).copied().collect::<Vec<u8>>())
}

/// Exactly one chunk in each group of five, at a place that the seed draws.
fn is_new(seed: u64, number: u64) -> bool {
    let mut random = generator(seed, number / NEW_EVERY);
    number % NEW_EVERY == random.random_range(0..NEW_EVERY)
}

fn generator(seed: u64, number: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed.rotate_left(32) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn noise(seed: u64, number: u64) -> Vec<u8> {
    let mut chunk = vec![0; CHUNK_BYTES];
    generator(seed, number).fill_bytes(&mut chunk);
    chunk
}

fn text(seed: u64, number: u64) -> Vec<u8> {
    let mut out = String::with_capacity(CHUNK_BYTES + 256);
    Prose::new(seed.rotate_left(32) ^ number).fill(&mut out, CHUNK_BYTES);
    let mut bytes = out.into_bytes();
    bytes.truncate(CHUNK_BYTES);
    bytes
}

/// Four rows of the field. Its waves are products, so that most numbers cost no sine.
fn field(seed: u64, number: u64) -> Vec<u8> {
    let mut random = generator(seed, number);
    let waves = waves(seed);
    let rows: Vec<Vec<f64>> = waves.iter().map(Wave::row).collect();
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    for row in number as usize * ROWS..(number as usize + 1) * ROWS {
        let amplitudes = waves.each_ref().map(|wave| wave.amplitude(row));
        for x in 0..WIDTH {
            let smooth: f64 =
                rows.iter().zip(amplitudes).map(|(along_x, amplitude)| amplitude * along_x[x]).sum();
            let noise = FIELD_NOISE * random.random_range(-1.0..1.0);
            bytes.extend_from_slice(&(280.0 + 15.0 * (smooth + noise)).to_le_bytes());
        }
    }
    bytes
}

/// A standing wave: how often it comes round along x, y and z, where it begins, how high it is.
struct Wave {
    cycles: [f64; 3],
    phases: [f64; 3],
    height: f64,
}

impl Wave {
    /// Its values along a row.
    fn row(&self) -> Vec<f64> {
        (0..WIDTH).map(|x| self.along(0, x as f64 / WIDTH as f64)).collect()
    }

    /// By how much the values along that row of the file are multiplied.
    fn amplitude(&self, row: usize) -> f64 {
        let (y, z) = (row % HEIGHT, row / HEIGHT);
        self.height * self.along(1, y as f64 / HEIGHT as f64) * self.along(2, z as f64 / DEPTH as f64)
    }

    fn along(&self, axis: usize, at: f64) -> f64 {
        (TAU * self.cycles[axis] * at + self.phases[axis]).sin()
    }
}

fn waves(seed: u64) -> [Wave; WAVES] {
    let mut random = SmallRng::seed_from_u64(seed);
    std::array::from_fn(|n| Wave {
        cycles: std::array::from_fn(|_| random.random_range(0.3..2.0 + n as f64)),
        phases: std::array::from_fn(|_| random.random_range(0.0..TAU)),
        height: 1.0 / (n + 1) as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Content; 4] = [Content::Noise, Content::Text, Content::Field, Content::Revised];

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_gives_others() {
        for content in ALL {
            let chunk = content.chunk(1, 3, 64);
            assert_eq!(chunk.len(), CHUNK_BYTES, "{content:?}");
            assert!(chunk == content.chunk(1, 3, 64), "{content:?}");
            assert!(chunk != content.chunk(2, 3, 64), "{content:?}");
            assert!(chunk != content.chunk(1, 4, 64), "{content:?}");
        }
    }

    #[test]
    fn each_kind_shrinks_as_it_should() {
        let noise = Content::Noise.chunk(1, 0, 64);
        assert!(text_ratio(&noise) < 1.01);
        assert!((2.9..4.0).contains(&Content::Text.shrinks_by(1, 64)));
        let field = Content::Field.chunk(1, 0, 64);
        assert!(text_ratio(&field) < 1.2, "plain zstd gains little: {}", text_ratio(&field));
        let mean =
            (0..8).map(|plane| field_ratio(&Content::Field.chunk(7, 100 * plane, 2048))).sum::<f64>() / 8.0;
        assert!((1.5..1.9).contains(&mean), "{mean}");
    }

    #[test]
    fn four_chunks_in_five_of_a_revision_are_known() {
        let chunks = 100;
        let known: Vec<_> = (0..chunks).map(|n| Content::Noise.chunk(9, n, chunks)).collect();
        let here = (0..chunks).filter(|n| known.contains(&Content::Revised.chunk(9, *n, chunks))).count();
        assert_eq!(here, 80);
        assert_eq!(Content::Revised.shrinks_by(9, chunks), 5.0);
    }
}
