//! What is asked, when asking stops, and what is fetched in place of what is here.

use super::*;
use proptest::prelude::*;

fn hash(n: u64) -> ChunkHash {
    ChunkHash(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn content(chunks: u64) -> Content {
    Content::new(chunks * globalfs_proto::limits::CHUNK_SIZE)
}

/// Answers a question; `held` tells which chunks are here.
fn answer(content: &mut Content, asked: &Range<u64>, held: impl Fn(u64) -> bool) -> Option<Range<u64>> {
    asked.clone().for_each(|index| content.learn(index, hash(index), held(index)));
    content.ended(asked, true)
}

#[test]
fn small_contents_and_random_readers_are_not_asked_for() {
    let size = MIN_CHUNKS * globalfs_proto::limits::CHUNK_SIZE;
    assert!(is_worth_asking(size) && !is_worth_asking(size / 2));
    assert_eq!(content(1000).want(500..501, 1_000_000), None);
    assert_eq!(content(1000).want(500..504, 1_000_000), Some(500..756));
    assert_eq!(content(MIN_CHUNKS).want(0..1, 1_000_000), Some(0..MIN_CHUNKS));
}

#[test]
fn a_cache_that_holds_nothing_else_is_no_reason_to_ask() {
    let mut content = content(1000);
    assert_eq!(content.want(0..16, 0), None);
    assert_eq!(content.want(16..32, 16), None);
    assert_eq!(content.want(32..48, 33), Some(32..288));
}

#[test]
fn what_is_not_here_is_not_asked_for_again() {
    let mut content = content(100_000);
    let asked = content.want(0..16, 1_000_000).unwrap();
    assert_eq!(asked, 0..FIRST_ASK);
    assert_eq!(content.want(16..32, 1_000_000), None, "one question at a time");
    assert_eq!(answer(&mut content, &asked, |_| false), None);
    assert!((0..1000).all(|n| content.want(16 * n..16 * n + 16, 1_000_000).is_none()));
}

#[test]
fn one_hit_keeps_the_hashes_ahead_of_the_reader() {
    let mut content = content(100_000);
    let asked = content.want(0..16, 1_000_000).unwrap();
    let next = answer(&mut content, &asked, |index| index == 200).unwrap();
    assert_eq!(next, 256..256 + 4096);
    assert!(content.is_promising());
    assert_eq!(answer(&mut content, &next, |_| true), None, "far enough ahead");
    assert_eq!(content.want(3000..3016, 1_000_000), None);
    assert_eq!(content.want(3400..3416, 1_000_000), Some(4352..4352 + 4096));
}

#[test]
fn a_content_that_differs_from_some_point_on_is_given_up() {
    let mut content = content(100_000);
    let mut asked = content.want(0..16, 1_000_000);
    let mut told = 0;
    while let Some(range) = asked {
        told = range.end;
        asked = answer(&mut content, &range, |index| index < 10)
            .or_else(|| content.want(told..told + 16, 1_000_000));
    }
    assert!(told <= HITLESS_LATER + FIRST_ASK + u64::from(MAX_HASHES_PER_REQUEST), "{told}");
    assert!(!content.is_promising());
}

#[test]
fn failure_and_distrust_end_it() {
    let mut failed = content(1000);
    let asked = failed.want(0..16, 1_000_000).unwrap();
    assert_eq!(failed.ended(&asked, false), None);
    assert_eq!(failed.want(16..32, 1_000_000), None);
    let mut lied = content(10_000);
    let asked = lied.want(0..16, 1_000_000).unwrap();
    let next = answer(&mut lied, &asked, |_| true).unwrap();
    lied.distrust();
    assert_eq!(answer(&mut lied, &next, |_| true), None);
    assert_eq!((lied.look(3), lied.want(300..316, 1_000_000)), (Look::Unknown, None));
}

#[test]
fn what_is_missing_takes_the_place_of_what_is_here_once() {
    let mut content = content(1000);
    let asked = content.want(0..16, 1_000_000).unwrap();
    answer(&mut content, &asked, |_| true);
    let held = |hash_: &ChunkHash| !(0..1000).step_by(5).any(|n| hash(n) == *hash_);
    assert_eq!(content.reach(16, 3, held), [20, 25, 30]);
    assert_eq!(content.reach(24, 2, held), [35, 40]);
    assert_eq!(content.reach(100, 1, held), [100]);
    assert_eq!(content.reach(255, 9, held), [255], "behind that nothing is known");
}

proptest! {
    #[test]
    fn stays_bounded_and_never_asks_twice_for_what_it_knows(
        steps in proptest::collection::vec((0..50_000_u64, 1..40_u64, 0..4_u8), 1..60),
    ) {
        let mut content = content(50_000);
        for (first, count, hits) in steps {
            let run = first..(first + count).min(50_000);
            let mut asked = content.want(run.clone(), 1_000_000);
            prop_assert!(asked.as_ref().is_none_or(|ask| ask.start >= run.start));
            while let Some(range) = asked {
                prop_assert!(range.end <= 50_000 && !range.is_empty());
                prop_assert!(range.end - range.start <= MAX_HASHES_PER_REQUEST.into());
                prop_assert!(matches!(content.look(range.start), Look::Coming));
                prop_assert_eq!(content.want(run.clone(), 1_000_000), None, "one question at a time");
                asked = answer(&mut content, &range, |index| index % 4 < hits.into());
            }
            prop_assert!(content.hashes.len() <= MAX_HASHES && content.coming.is_empty());
        }
    }
}

#[test]
fn what_others_ask_leaves_nothing_coming() {
    let mut content = content(10_000);
    let asked = content.want(0..16, 1_000_000).unwrap();
    asked.clone().for_each(|index| content.learn(index, hash(index), true));
    let others = content.ask(5000..5100);
    content.told(&others);
    assert_eq!(content.look(5000), Look::Unknown);
    let next = content.ended(&asked, true).unwrap();
    assert_eq!((content.look(next.start), content.look(5000)), (Look::Coming, Look::Unknown));
}
