//! What was written and is not sent yet, file by file: what is joined, what has to wait, what is too late.
//!
//! *Invariants:* of a file one piece is sent at a time, in the order in which they came; what is kept is bounded, for each
//! file and for all of them; behind a piece that failed nothing is sent.

use crate::model::NodeId;
use bytes::Bytes;
use globalfs_proto::limits::{DEFAULT_DEADLINE, MAX_WRITE};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// What is kept of one file, in bytes, where it leaves fast.
const MAX_OF_FILE: usize = 8 << 20;

/// The same where it does not: some of the kernel's requests.
const MIN_OF_FILE: usize = 1 << 20;

/// What is kept of all files, in bytes.
const MAX_OF_ALL: usize = 64 << 20;

/// What is kept shall leave within this time, at the pace of the last piece: a close waits for it.
const AIM: Duration = Duration::from_secs(2);

/// Small writes are joined up to a request of the protocol. What is larger comes in few pieces by itself.
const MAX_JOINED: usize = MAX_WRITE;

/// What a piece takes beside its bytes.
const PIECE_COST: usize = 128;

/// Until when something was written, in the order in which it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ticket(u64);

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is kept, and somebody is sending or about to.
    Taken,
    /// It is kept, and somebody has to begin to send.
    Begin(Start),
    /// It has to wait until something of the file has left.
    Full,
    /// It is not kept: others have taken all the room.
    Crowded,
}

/// When sending begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At once: a request is full.
    Now,
    /// When more may have come.
    Soon,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// These bytes, at this offset.
    Piece(u64, Bytes),
    /// Nothing: what is there has waited for too long.
    TooLate,
    /// Nothing: there is nothing.
    Nothing,
}

/// Who sends the pieces of a file unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Nobody,
    /// Somebody who waits whether more comes.
    Waiting,
    Sending,
}

#[derive(Debug)]
enum Data {
    Whole(Bytes),
    Growing(Vec<u8>),
}

#[derive(Debug)]
struct Piece {
    offset: u64,
    data: Data,
    /// Of the first write in it.
    first: Ticket,
    since: Duration,
}

#[derive(Debug)]
struct Queue {
    pieces: VecDeque<Piece>,
    /// Bytes on their way, and since which write.
    sent: Option<(usize, Ticket)>,
    cost: usize,
    sender: Sender,
}

/// What this mount has answered and not sent.
#[derive(Debug)]
pub(crate) struct Behind {
    files: HashMap<NodeId, Queue>,
    cost: usize,
    /// What is kept of a file at present.
    limit: usize,
    last: Ticket,
}

impl Default for Behind {
    fn default() -> Self {
        Self { files: HashMap::new(), cost: 0, limit: MIN_OF_FILE, last: Ticket::default() }
    }
}

impl Behind {
    /// `data` was written to `node`.
    pub(crate) fn put(&mut self, node: NodeId, offset: u64, data: &Bytes, now: Duration) -> Put {
        let cost = data.len() + PIECE_COST;
        let kept = self.files.get(&node).map_or(0, |queue| queue.cost);
        let is_crowded = self.cost + cost > MAX_OF_ALL;
        match kept {
            0 if is_crowded => return Put::Crowded,
            1.. if is_crowded || kept + cost > self.limit => return Put::Full,
            _ => {}
        }
        self.last.0 += 1;
        let queue = self.files.entry(node).or_insert_with(Queue::new);
        let added =
            queue.add(Piece { offset, data: Data::Whole(data.clone()), first: self.last, since: now });
        queue.cost += added;
        self.cost += added;
        queue.start()
    }

    /// What has to have left for all to be there that was written to `node` until now.
    pub(crate) fn ticket(&self, node: NodeId) -> Option<Ticket> {
        self.files.contains_key(&node).then_some(self.last)
    }

    /// Whether something of `node` that was written until `ticket` has not left.
    pub(crate) fn is_pending(&self, node: NodeId, ticket: Ticket) -> bool {
        self.files.get(&node).and_then(Queue::oldest).is_some_and(|first| first <= ticket)
    }

    /// Files of which something has not left.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.files.keys().copied().collect()
    }

    /// The next piece of `node` leaves, if it is not too late. The one before must have left.
    pub(crate) fn begin(&mut self, node: NodeId, now: Duration) -> Next {
        let Some(queue) = self.files.get_mut(&node) else { return Next::Nothing };
        assert!(queue.sent.is_none(), "pieces of a file leave one after another");
        let is_late = |piece: &Piece| now.saturating_sub(piece.since) > DEFAULT_DEADLINE;
        if queue.pieces.front().is_some_and(is_late) {
            return Next::TooLate;
        }
        let piece = queue.pieces.pop_front().expect("a queue goes with its last piece");
        let data = piece.data.into_bytes();
        queue.sent = Some((data.len(), piece.first));
        Next::Piece(piece.offset, data)
    }

    /// What began to leave has left, within `took`.
    pub(crate) fn end(&mut self, node: NodeId, took: Duration) {
        let queue = self.files.get_mut(&node).expect("a queue stays while a piece of it leaves");
        let (length, _) = queue.sent.take().expect("it began to leave");
        let pace = length as f64 / took.as_secs_f64().max(1e-6);
        self.limit = ((pace * AIM.as_secs_f64()) as usize).clamp(MIN_OF_FILE, MAX_OF_FILE);
        queue.cost -= length + PIECE_COST;
        self.cost -= length + PIECE_COST;
        if queue.pieces.is_empty() {
            assert_eq!(queue.cost, 0, "nothing is kept of nothing");
            self.files.remove(&node);
        }
    }

    /// It has not, or it is too late: what is kept of `node` is not sent. Whether there was something.
    pub(crate) fn fail(&mut self, node: NodeId) -> bool {
        let failed = self.files.remove(&node);
        failed.iter().for_each(|queue| self.cost -= queue.cost);
        failed.is_some()
    }

    /// Who waited whether more comes for `node` waits no longer: whether it is to send.
    pub(crate) fn wake(&mut self, node: NodeId) -> bool {
        let Some(queue) = self.files.get_mut(&node) else { return false };
        let sends = queue.sender == Sender::Waiting;
        if sends {
            queue.sender = Sender::Sending;
        }
        sends
    }

    /// Who sent a piece of `node` unasked goes on at once, or soon, or not.
    pub(crate) fn go_on(&mut self, node: NodeId) -> Option<Start> {
        let queue = self.files.get_mut(&node)?;
        let (sender, start) = match queue.pieces.is_empty() {
            true => (Sender::Nobody, None),
            false if queue.is_ripe() => (Sender::Sending, Some(Start::Now)),
            false => (Sender::Waiting, Some(Start::Soon)),
        };
        queue.sender = sender;
        start
    }
}

impl Queue {
    fn new() -> Self {
        Self { pieces: VecDeque::new(), sent: None, cost: 0, sender: Sender::Nobody }
    }

    /// Joins `piece` to the last one, or puts it behind that. What it costs.
    fn add(&mut self, piece: Piece) -> usize {
        let length = piece.data.len();
        match self.pieces.back_mut() {
            Some(last) if last.takes(&piece) => {
                last.data.grow(&piece.data);
                length
            }
            _ => {
                self.pieces.push_back(piece);
                length + PIECE_COST
            }
        }
    }

    /// Whether more to come would change nothing for the next piece.
    fn is_ripe(&self) -> bool {
        self.pieces.len() > 1 || self.pieces.front().is_some_and(|piece| piece.data.len() >= MAX_JOINED)
    }

    fn start(&mut self) -> Put {
        match (self.sender, self.is_ripe()) {
            (Sender::Nobody | Sender::Waiting, true) => {
                self.sender = Sender::Sending;
                Put::Begin(Start::Now)
            }
            (Sender::Nobody, false) => {
                self.sender = Sender::Waiting;
                Put::Begin(Start::Soon)
            }
            _ => Put::Taken,
        }
    }

    fn oldest(&self) -> Option<Ticket> {
        self.sent.map(|(_, first)| first).or(self.pieces.front().map(|piece| piece.first))
    }
}

impl Piece {
    fn takes(&self, next: &Self) -> bool {
        self.offset + self.data.len() as u64 == next.offset && self.data.len() + next.data.len() <= MAX_JOINED
    }
}

impl Data {
    fn len(&self) -> usize {
        self.bytes().len()
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Growing(bytes) => bytes,
        }
    }

    fn grow(&mut self, more: &Self) {
        if let Self::Whole(bytes) = self {
            *self = Self::Growing(bytes.to_vec());
        }
        if let Self::Growing(bytes) = self {
            bytes.extend_from_slice(more.bytes());
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Growing(bytes) => bytes.into(),
        }
    }
}

#[cfg(test)]
#[path = "behind_tests.rs"]
mod tests;
