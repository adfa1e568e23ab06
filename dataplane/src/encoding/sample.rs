//! A look at a small part of a chunk: what its bytes promise, and which way of sending it is the smallest.
//!
//! Two looks. The *glance* at 4 KiB costs a microsecond: for each of the eight positions of a byte in a 64-bit
//! number it counts how often values meet again (the collision entropy, which also sees columns of 4-byte
//! numbers). What promises nothing is sent raw after that. The *trial* compresses 16 KiB in each way.

use super::codec::Codec;
use super::shuffle::Width;
use globalfs_proto::ChunkEncoding;

/// Bytes of a glance, and the places of the chunk from which they come.
const GLANCE_SIZE: usize = 4096;
/// Bytes of a trial.
const TRIAL_SIZE: usize = 16 * 1024;
/// Places of the chunk from which either takes its bytes.
const PLACES: usize = 4;
/// The positions in a number that are looked at apart.
const PLANES: usize = 8;

/// What a glance must promise before a trial is made. Noise shows 0.003 by chance.
const WORTH_A_TRIAL: f32 = 0.05;

/// A part of the bytes that must be saved, so that the work at both ends pays.
pub(super) const LEAST_GAIN: (usize, usize) = (1, 11);

/// Shuffling has to win against plain zstd by this in percent, which sees less in a trial than in a chunk.
const SHUFFLE_MARGIN_PERCENT: usize = 5;

/// The part of the bytes, 0 to 1, that coding each position's values by their frequency might save; seldom too
/// low for what compresses at all.
pub(super) fn promise(data: &[u8]) -> f32 {
    let mut counts = [[0_u16; 256]; PLANES];
    let mut numbers = 0_u32;
    for piece in pieces(data, GLANCE_SIZE) {
        for number in piece.chunks_exact(PLANES) {
            for (counts, byte) in counts.iter_mut().zip(number) {
                counts[usize::from(*byte)] += 1;
            }
            numbers += 1;
        }
    }
    let saved: f32 = counts.iter().map(|counts| saved_bits(counts, numbers)).sum();
    saved / (8 * PLANES) as f32
}

/// 8 bits less the collision entropy of the values of one position.
fn saved_bits(counts: &[u16; 256], numbers: u32) -> f32 {
    let squares: u32 = counts.iter().map(|&count| u32::from(count) * u32::from(count)).sum();
    let pairs = numbers as f32 * (numbers.saturating_sub(1)) as f32;
    let meetings = (squares - numbers) as f32 / pairs.max(1.0);
    (8.0 + meetings.max(f32::MIN_POSITIVE).log2()).clamp(0.0, 8.0)
}

/// Whether a glance promises enough for a trial.
pub(super) fn is_worth_a_trial(promise: f32) -> bool {
    promise >= WORTH_A_TRIAL
}

/// The smallest form of a part of the chunk, or of all of it when it is small.
pub(super) fn trial(codec: &mut Codec, data: &[u8]) -> ChunkEncoding {
    let part = pieces(data, TRIAL_SIZE).collect::<Vec<_>>().concat();
    let enough = part.len() - part.len() * LEAST_GAIN.0 / LEAST_GAIN.1;
    let (mut best, mut least) = (ChunkEncoding::Raw, enough);
    if let Some(size) = codec.size(None, &part, least) {
        (best, least) = (ChunkEncoding::Zstd, size);
    }
    let ways = [(Width::Four, ChunkEncoding::Shuffle4), (Width::Eight, ChunkEncoding::Shuffle8)];
    let mut margin = if best == ChunkEncoding::Zstd { SHUFFLE_MARGIN_PERCENT } else { 0 };
    for (width, encoding) in ways {
        let limit = least - least * margin / 100;
        if let Some(size) = codec.size(Some(width), &part, limit) {
            (best, least, margin) = (encoding, size, 0);
        }
    }
    best
}

/// Whether plain zstd saves enough of a part of the bytes, or of all of them when they are few.
pub(super) fn zstd_pays(codec: &mut Codec, data: &[u8]) -> bool {
    let part = pieces(data, TRIAL_SIZE).collect::<Vec<_>>().concat();
    let enough = part.len() - part.len() * LEAST_GAIN.0 / LEAST_GAIN.1;
    codec.size(None, &part, enough).is_some()
}

/// `total` bytes of `data` from places far apart, all of it when it is not longer. Pieces begin where a number
/// would.
fn pieces(data: &[u8], total: usize) -> impl Iterator<Item = &[u8]> {
    let whole = data.len() <= total;
    let length = if whole { data.len() } else { total / PLACES };
    let step = data.len().saturating_sub(length) / (PLACES - 1) / PLANES * PLANES;
    let places = if whole { 1 } else { PLACES };
    (0..places).map(move |place| &data[place * step..place * step + length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_spread_and_aligned() {
        let data: Vec<u8> = (0..100_000_u32).map(|n| (n / 8) as u8).collect();
        let found: Vec<&[u8]> = pieces(&data, 4096).collect();
        assert_eq!(found.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [1024; 4]);
        assert!(found.iter().all(|piece| piece[..8] == [piece[0]; 8]), "aligned");
        assert_eq!(pieces(&data[..4096], 4096).collect::<Vec<_>>(), [&data[..4096]]);
        assert_eq!(pieces(&[], 4096).map(<[u8]>::len).sum::<usize>(), 0);
    }

    #[test]
    fn a_glance_tells_noise_from_structure() {
        let mut noise = vec![0; 128 * 1024];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(promise(&noise) < WORTH_A_TRIAL / 3.0, "{}", promise(&noise));
        assert!(promise(&vec![7; 4096]) > 0.99);
        // Every eighth byte of eight is constant: an eighth can be saved.
        let mut column = noise.clone();
        column.iter_mut().skip(7).step_by(8).for_each(|byte| *byte = 64);
        assert!((0.11..0.14).contains(&promise(&column)), "{}", promise(&column));
        assert_eq!(promise(&[]), promise(&[1, 2, 3]), "too short to tell");
    }
}
