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

/// Side of the field's cube: a plane of 128 x 128 numbers is one chunk.
const SIDE: usize = 128;

/// Waves of which a field is made.
const WAVES: usize = 6;

/// The noise of a field in parts of its amplitude: what an instrument or a solver's tolerance leaves.
const FIELD_NOISE: f64 = 1e-6;

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
            Self::Text => text_ratio(&self.chunk(seed, 0, chunks)),
            Self::Field => field_ratio(&self.chunk(seed, 0, chunks)),
            Self::Revised => {
                let new = (0..chunks).filter(|number| is_new(seed, *number)).count();
                chunks as f64 / new.max(1) as f64
            }
        }
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

/// A plane of the field. Its waves are products, so that a number costs no sine.
fn field(seed: u64, plane: u64) -> Vec<u8> {
    let mut random = generator(seed, plane);
    let waves = waves(seed, plane);
    let mut bytes = Vec::with_capacity(CHUNK_BYTES);
    for y in 0..SIDE {
        let row = waves.each_ref().map(|wave| wave.depth * wave.along_y[y]);
        for x in 0..SIDE {
            let smooth: f64 =
                waves.iter().zip(row).map(|(wave, amplitude)| amplitude * wave.along_x[x]).sum();
            let noise = FIELD_NOISE * random.random_range(-1.0..1.0);
            bytes.extend_from_slice(&(280.0 + 15.0 * (smooth + noise)).to_le_bytes());
        }
    }
    bytes
}

struct Wave {
    depth: f64,
    along_y: Vec<f64>,
    along_x: Vec<f64>,
}

fn waves(seed: u64, plane: u64) -> [Wave; WAVES] {
    let mut random = SmallRng::seed_from_u64(seed);
    std::array::from_fn(|n| {
        let mut line = |length: usize| {
            let (cycles, phase) = (random.random_range(0.3..2.0 + n as f64), random.random_range(0.0..TAU));
            move |at: f64| (TAU * cycles * at / length as f64 + phase).sin()
        };
        let (in_x, in_y, in_z) = (line(SIDE), line(SIDE), line(8 * SIDE));
        let sample = |wave: &dyn Fn(f64) -> f64| (0..SIDE).map(|at| wave(at as f64)).collect();
        Wave { depth: in_z(plane as f64) / (n + 1) as f64, along_y: sample(&in_y), along_x: sample(&in_x) }
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
        assert!((2.4..4.2).contains(&Content::Text.shrinks_by(1, 64)));
        let field = Content::Field.chunk(1, 0, 64);
        assert!(text_ratio(&field) < 1.2, "plain zstd gains little: {}", text_ratio(&field));
        assert!((1.4..2.2).contains(&field_ratio(&field)), "{}", field_ratio(&field));
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
