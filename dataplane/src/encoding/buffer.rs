//! Memory for decoded chunks that is used again: fresh memory of this size costs a page fault for each 4 KiB,
//! as much time as hashing it.
//!
//! *Invariant:* at most [`MAX_IDLE`] buffers are kept idle, for all threads together.

use bytes::Bytes;
use globalfs_proto::limits::CHUNK_SIZE;
use parking_lot::Mutex;

/// Idle buffers that are kept: 8 MiB.
const MAX_IDLE: usize = 64;

static IDLE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// Room for one chunk, all of it initialised.
pub(super) struct Buffer {
    memory: Box<[u8]>,
    length: usize,
}

/// A buffer of `length` bytes of unspecified content, at most `CHUNK_SIZE`.
pub(super) fn take(length: usize) -> Buffer {
    assert!(length as u64 <= CHUNK_SIZE, "a chunk is not longer");
    let idle = IDLE.lock().pop();
    let memory = idle.unwrap_or_else(|| vec![0; CHUNK_SIZE as usize].into_boxed_slice());
    Buffer { memory, length }
}

impl Buffer {
    /// Shares the bytes; the memory is idle again when the last of them is dropped.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = IDLE.lock();
        if idle.len() < MAX_IDLE {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_apart_while_shared_and_never_pile_up() {
        let filled = |n: usize| {
            let mut buffer = take(1000);
            buffer.as_mut().fill(n as u8);
            buffer.freeze()
        };
        let shared: Vec<Bytes> = (0..2 * MAX_IDLE).map(filled).collect();
        assert!(shared.iter().enumerate().all(|(n, bytes)| bytes[..] == [n as u8; 1000]));
        drop(shared);
        assert!(IDLE.lock().len() <= MAX_IDLE);
    }
}
