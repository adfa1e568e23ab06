//! Buffers for received and decoded chunks that are used again: memory fresh from the kernel costs more than the copy
//! into it, as each page of it faults and is zeroed first.
//!
//! *Invariant:* at most [`MAX_IDLE`] buffers are kept while nobody uses them.

use bytes::Bytes;
use globalfs_proto::limits::CHUNK_SIZE;
use parking_lot::Mutex;
use std::sync::LazyLock;

/// Bytes of a buffer: a whole chunk that travels as it is.
const BUFFER_SIZE: usize = CHUNK_SIZE as usize;

/// Shorter payloads are not worth a whole buffer, which they might hold for long in a cache.
const LEAST: usize = BUFFER_SIZE / 2;

/// Buffers kept: 8 MiB, what two readers have under way.
const MAX_IDLE: usize = 64;

static IDLE: LazyLock<Mutex<Vec<Box<[u8]>>>> = LazyLock::new(|| Mutex::new(Vec::with_capacity(MAX_IDLE)));

/// Room for some bytes, to be filled and then turned into [`Bytes`]. What it contains before is nobody's
/// business: it never leaves this process.
pub struct Buffer {
    room: Box<[u8]>,
    length: usize,
}

impl Buffer {
    /// Room for `length` bytes; `None` where that is not worth a buffer.
    pub fn of(length: usize) -> Option<Self> {
        if !(LEAST..=BUFFER_SIZE).contains(&length) {
            return None;
        }
        let idle = IDLE.lock().pop();
        Some(Self { room: idle.unwrap_or_else(|| vec![0; BUFFER_SIZE].into()), length })
    }

    /// The room, all of which has to be filled.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.room[..self.length]
    }

    /// What was filled in; the buffer is used again when the last clone is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.room[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = IDLE.lock();
        if idle.len() < MAX_IDLE {
            idle.push(std::mem::take(&mut self.room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(length: usize, with: u8) -> Bytes {
        let mut buffer = Buffer::of(length).unwrap();
        buffer.room().fill(with);
        buffer.freeze()
    }

    /// One test, as the pool is that of the process.
    #[test]
    fn buffers_are_used_again_and_show_only_what_was_filled_in() {
        let first = filled(BUFFER_SIZE, 1);
        let address = first.as_ptr();
        let clone = first.clone();
        drop(first);
        assert!(filled(BUFFER_SIZE, 2).as_ptr() != address, "somebody still has it");
        assert!(clone.iter().all(|byte| *byte == 1));
        drop(clone);
        let second = filled(LEAST, 3);
        assert_eq!((second.len(), second.as_ptr()), (LEAST, address));
        assert!(second.iter().all(|byte| *byte == 3));

        assert!(Buffer::of(LEAST - 1).is_none() && Buffer::of(BUFFER_SIZE + 1).is_none());
        drop((0..2 * MAX_IDLE).map(|_| filled(BUFFER_SIZE, 4)).collect::<Vec<_>>());
        assert_eq!(IDLE.lock().len(), MAX_IDLE);
    }
}
