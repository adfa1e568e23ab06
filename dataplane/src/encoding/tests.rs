//! Each kind of data travels as it should and comes back; damage is noticed.

use super::*;
use globalfs_proto::ChunkIndex;
use proptest::prelude::*;

fn chunk(data: impl Into<Bytes>) -> Chunk {
    let data = data.into();
    Chunk { index: ChunkIndex(7), hash: hash(&data), data }
}

fn noise(length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    data
}

fn check(data: Vec<u8>, encoding: ChunkEncoding, most: usize) {
    let chunk = chunk(data);
    let encoded = encode(&chunk);
    assert_eq!(encoded.header.encoding, encoding);
    assert_eq!(encoded.payload.len(), encoded.header.wire_length as usize);
    assert!(encoded.payload.len() <= most, "{} bytes on the wire", encoded.payload.len());
    assert_eq!(decode(&encoded.header, encoded.payload).unwrap(), chunk);
}

#[test]
fn each_kind_of_data_travels_as_it_should() {
    let whole = CHUNK_SIZE as usize;
    check(vec![0; whole], ChunkEncoding::Zero, 0);
    check(vec![0; 1], ChunkEncoding::Zero, 0);
    check(vec![1], ChunkEncoding::Raw, 1);
    check(noise(whole), ChunkEncoding::Raw, whole);
    check(b"a line of text\n".repeat(8000), ChunkEncoding::Zstd, 1000);
    check([noise(whole / 2), vec![0; whole / 2]].concat(), ChunkEncoding::Zstd, whole / 2 + 1000);
}

#[test]
fn zeros_behind_a_long_start_are_not_taken_for_all_zeros() {
    let mut data = vec![0; 1000];
    *data.last_mut().unwrap() = 1;
    assert!(!is_zero(&data));
}

#[test]
fn a_bomb_does_not_grow_past_its_header() {
    let mut encoded = encode(&chunk(vec![1; CHUNK_SIZE as usize]));
    assert_eq!(encoded.header.encoding, ChunkEncoding::Zstd);
    encoded.header.length = 100;
    assert!(matches!(decode(&encoded.header, encoded.payload), Err(FsError::Damaged(_))));
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 1..3000);
    let repeated = (proptest::collection::vec(any::<u8>(), 1..50), 1..2000_usize)
        .prop_map(|(piece, times)| piece.repeat(times));
    prop_oneof![noise, repeated, (1..CHUNK_SIZE as usize).prop_map(|n| vec![0; n])]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(data in data()) {
        let chunk = chunk(data);
        let encoded = encode(&chunk);
        prop_assert_eq!(decode(&encoded.header, encoded.payload).unwrap(), chunk);
    }

    #[test]
    fn any_flipped_bit_is_detected(
        data in data(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let chunk = chunk(data);
        let Encoded { mut header, payload } = encode(&chunk);
        let mut payload = payload.to_vec();
        let at = at.index(payload.len() + header.hash.0.len());
        match at.checked_sub(payload.len()) {
            Some(at) => header.hash.0[at] ^= 1 << bit,
            None => payload[at] ^= 1 << bit,
        }
        // zstd ignores some bits of its frame header; then the bytes are still the right ones.
        match decode(&header, payload.into()) {
            Ok(decoded) => prop_assert_eq!(decoded, chunk),
            Err(error) => prop_assert!(matches!(error, FsError::Damaged(_))),
        }
    }
}
