//! What is joined, what waits, what is too late.

use super::*;

const FILE: NodeId = NodeId(7);
const OTHER: NodeId = NodeId(8);
const NOW: Duration = Duration::from_secs(100);
const FAST: Duration = Duration::from_millis(1);

fn bytes(length: usize, fill: u8) -> Bytes {
    vec![fill; length].into()
}

fn put(behind: &mut Behind, offset: usize, length: usize) -> Put {
    behind.put(FILE, offset as u64, &bytes(length, 1), NOW)
}

/// Sends the next piece: its offset and length.
fn send(behind: &mut Behind) -> Option<(u64, usize)> {
    match behind.begin(FILE, NOW) {
        Next::Piece(offset, data) => {
            behind.end(FILE, FAST);
            Some((offset, data.len()))
        }
        _ => None,
    }
}

#[test]
fn what_follows_on_is_joined_and_leaves_in_order() {
    let mut behind = Behind::default();
    assert_eq!(behind.put(FILE, 10, &Bytes::from_static(b"ab"), NOW), Put::Begin(Start::Soon));
    assert_eq!(behind.put(FILE, 12, &Bytes::from_static(b"cd"), NOW), Put::Taken);
    assert_eq!(behind.put(FILE, 14, &Bytes::from_static(b"e"), NOW), Put::Taken);
    assert_eq!(behind.put(FILE, 3, &Bytes::from_static(b"back"), NOW), Put::Begin(Start::Now));
    assert_eq!(behind.put(FILE, 7, &Bytes::from_static(b"!"), NOW), Put::Taken);
    let mut next = || {
        let next = behind.begin(FILE, NOW);
        if next != Next::Nothing {
            behind.end(FILE, FAST);
        }
        next
    };
    assert_eq!(next(), Next::Piece(10, Bytes::from_static(b"abcde")));
    assert_eq!(next(), Next::Piece(3, Bytes::from_static(b"back!")));
    assert_eq!(next(), Next::Nothing);
    assert_eq!((behind.cost, behind.files.len()), (0, 0));
}

#[test]
fn a_request_that_is_full_is_not_joined_with_more() {
    let mut behind = Behind::default();
    assert_eq!(put(&mut behind, 0, MAX_JOINED - 1), Put::Begin(Start::Soon));
    assert_eq!(put(&mut behind, MAX_JOINED - 1, 1), Put::Begin(Start::Now));
    assert_eq!(put(&mut behind, MAX_JOINED, 1), Put::Taken);
    assert_eq!(send(&mut behind), Some((0, MAX_JOINED)));
    assert_eq!(behind.go_on(FILE), Some(Start::Soon), "one byte waits for more");
    assert_eq!(send(&mut behind), Some((MAX_JOINED as u64, 1)), "somebody asked for it");
    assert_eq!((behind.go_on(FILE), behind.wake(FILE)), (None, false));
    // What is larger is sent as it comes.
    assert_eq!(put(&mut behind, 0, 2 * MAX_JOINED), Put::Begin(Start::Now));
    assert_eq!(send(&mut behind), Some((0, 2 * MAX_JOINED)));
}

#[test]
fn what_comes_while_a_piece_is_on_its_way_is_not_joined_to_it() {
    let mut behind = Behind::default();
    put(&mut behind, 0, 5);
    assert_eq!(behind.begin(FILE, NOW), Next::Piece(0, bytes(5, 1)));
    assert_eq!(put(&mut behind, 5, 5), Put::Taken, "who waited for more has not come back");
    behind.end(FILE, FAST);
    assert!(behind.wake(FILE) && !behind.wake(FILE));
    assert_eq!(send(&mut behind), Some((5, 5)));
}

#[test]
fn who_waits_waits_for_what_was_written_before() {
    let mut behind = Behind::default();
    assert_eq!(behind.ticket(FILE), None);
    put(&mut behind, 0, 5);
    let ticket = behind.ticket(FILE).unwrap();
    put(&mut behind, 100, 5);
    assert_eq!(behind.begin(FILE, NOW), Next::Piece(0, bytes(5, 1)));
    assert!(behind.is_pending(FILE, ticket), "it is on its way");
    behind.end(FILE, FAST);
    assert!(!behind.is_pending(FILE, ticket) && behind.ticket(FILE).is_some());
    send(&mut behind);
    put(&mut behind, 200, 5);
    assert!(!behind.is_pending(FILE, ticket), "what is there now is newer");
    assert_eq!(behind.nodes(), [FILE]);
}

#[test]
fn what_is_kept_is_bounded() {
    let mut behind = Behind::default();
    let mega = 1 << 20;
    assert_eq!(put(&mut behind, 0, mega), Put::Begin(Start::Now), "one write is always kept");
    assert_eq!(put(&mut behind, mega, 1), Put::Full);
    send(&mut behind);
    let most = (0..100).take_while(|n| put(&mut behind, n * mega, mega) != Put::Full).count();
    assert_eq!(most, 7, "{MAX_OF_FILE} bytes with what they cost");
    let other = |behind: &mut Behind, n: u64| behind.put(NodeId(100 + n), 0, &bytes(mega, 1), NOW);
    let most = (0..100).take_while(|n| other(&mut behind, *n) != Put::Crowded).count();
    assert_eq!((most, behind.cost <= MAX_OF_ALL), (56, true));
    assert_eq!(behind.put(NodeId(100), mega as u64, &bytes(mega, 1), NOW), Put::Full);
    // Where each piece takes long, less is kept.
    behind.begin(FILE, NOW);
    behind.end(FILE, AIM / 2);
    assert_eq!(behind.limit, 2 * mega);
    behind.begin(FILE, NOW);
    behind.end(FILE, AIM * 10);
    assert_eq!(behind.limit, MIN_OF_FILE);
    // Pieces of one byte take more than that.
    behind.nodes().into_iter().for_each(|node| assert!(behind.fail(node)));
    assert_eq!(behind.cost, 0);
    let most = (0..mega).take_while(|n| put(&mut behind, n * 2, 1) != Put::Full).count();
    assert_eq!(most, MIN_OF_FILE / (PIECE_COST + 1));
}

#[test]
fn behind_a_failure_nothing_is_sent() {
    let mut behind = Behind::default();
    put(&mut behind, 0, 5);
    put(&mut behind, 100, 5);
    behind.put(OTHER, 0, &bytes(3, 1), NOW);
    let ticket = behind.ticket(FILE).unwrap();
    behind.begin(FILE, NOW);
    assert!(behind.fail(FILE) && !behind.fail(FILE));
    assert!(!behind.is_pending(FILE, ticket));
    assert_eq!((behind.begin(FILE, NOW), behind.go_on(FILE)), (Next::Nothing, None));
    assert_eq!((behind.nodes(), behind.cost), (vec![OTHER], 3 + PIECE_COST));
}

#[test]
fn what_has_waited_for_too_long_is_not_sent() {
    let mut behind = Behind::default();
    put(&mut behind, 0, 5);
    let late = NOW + DEFAULT_DEADLINE + FAST;
    behind.put(FILE, 5, &bytes(5, 1), late);
    assert_eq!(behind.begin(FILE, late), Next::TooLate);
    assert!(behind.fail(FILE));
}
