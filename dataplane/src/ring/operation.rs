//! One operation from submission to answer: its file, its memory, how far it has come.
//!
//! *Invariant:* the address that [`Operation::entry`] gives to the kernel stays valid while the operation
//! exists: buffers live on the heap and are neither grown nor freed in between.

use bytes::{Buf, Bytes};
use io_uring::{opcode, squeue, types};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Bytes that one submission moves; more than that is done in several. Below the kernel's own cut.
const MAX_TRANSFER: usize = 1 << 30;

/// How often one submission is repeated when the kernel says "interrupted" or "again".
const MAX_REPEATS: u32 = 100;

/// What to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Fills `buffer`, whose capacity is at least `length`.
    Read {
        buffer: Vec<u8>,
        length: usize,
    },
    /// Writes what is left.
    Write(Bytes),
    Sync,
}

impl Work {
    /// A read of `length` bytes; an error when there is no memory for it.
    pub(super) fn read(length: usize) -> io::Result<Self> {
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self::Read { buffer, length })
    }
}

/// Who waits for the answer, and the place in the queue that is given back with it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) sender: oneshot::Sender<io::Result<Bytes>>,
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// An operation that is queued or running.
#[derive(Debug)]
pub(super) struct Operation {
    file: Arc<File>,
    offset: u64,
    work: Work,
    repeats: u32,
    reply: Reply,
}

impl Operation {
    pub(super) fn new(file: Arc<File>, offset: u64, work: Work, reply: Reply) -> Self {
        Self { file, offset, work, repeats: 0, reply }
    }

    /// Whether nobody would notice if it were never submitted.
    pub(super) fn is_pointless(&self) -> bool {
        matches!(self.work, Work::Read { .. }) && self.reply.sender.is_closed()
    }

    /// The submission of what is still to do.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let fd = types::Fd(self.file.as_raw_fd());
        match &mut self.work {
            Work::Read { buffer, length } => {
                let wanted = (*length - buffer.len()).min(MAX_TRANSFER) as u32;
                let free = buffer.spare_capacity_mut().as_mut_ptr().cast::<u8>();
                opcode::Read::new(fd, free, wanted).offset(self.offset).build()
            }
            Work::Write(data) => {
                let length = data.len().min(MAX_TRANSFER) as u32;
                opcode::Write::new(fd, data.as_ptr(), length).offset(self.offset).build()
            }
            Work::Sync => opcode::Fsync::new(fd).build(),
        }
    }

    /// Takes the kernel's result of the last submission; `None` when the operation is to be submitted again.
    ///
    /// # Safety
    /// `result` is what the kernel reported for the entry that [`Operation::entry`] last made.
    pub(super) unsafe fn advance(&mut self, result: i32) -> Option<io::Result<()>> {
        let Ok(moved) = usize::try_from(result) else {
            return self.failed(io::Error::from_raw_os_error(-result));
        };
        self.offset += moved as u64;
        match &mut self.work {
            Work::Read { buffer, length } => {
                let filled = buffer.len() + moved;
                assert!(filled <= *length, "the kernel reads at most what was asked");
                // SAFETY: `filled` is within the capacity, and the kernel has written the `moved` bytes
                // behind the old length, as the caller promises.
                unsafe { buffer.set_len(filled) };
                (moved == 0 || filled == *length).then_some(Ok(()))
            }
            Work::Write(_) if moved == 0 => Some(Err(io::ErrorKind::WriteZero.into())),
            Work::Write(data) => {
                data.advance(moved);
                data.is_empty().then_some(Ok(()))
            }
            Work::Sync => Some(Ok(())),
        }
    }

    fn failed(&mut self, error: io::Error) -> Option<io::Result<()>> {
        let again = matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock);
        if again && self.repeats < MAX_REPEATS {
            self.repeats += 1;
            return None;
        }
        Some(Err(error))
    }

    /// Hands the outcome to who waits, if anybody still does.
    pub(super) fn answer(self, outcome: io::Result<()>) {
        let bytes = match self.work {
            Work::Read { buffer, .. } => Bytes::from(buffer),
            Work::Write(_) | Work::Sync => Bytes::new(),
        };
        let _ = self.reply.sender.send(outcome.map(|()| bytes));
    }

    /// Answers with an error and leaks file and memory: the kernel may still write to them.
    pub(super) fn abandon(self) {
        std::mem::forget((self.file, self.work));
        let _ = self.reply.sender.send(Err(super::worker_ended()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(work: Work) -> (Operation, oneshot::Receiver<io::Result<Bytes>>) {
        let (sender, answer) = oneshot::channel();
        let file = Arc::new(tempfile::tempfile().unwrap());
        (Operation::new(file, 0, work, Reply { sender, _permit: None }), answer)
    }

    fn advance(operation: &mut Operation, result: i32) -> Option<io::Result<()>> {
        if let (Work::Read { buffer, .. }, Ok(n)) = (&mut operation.work, usize::try_from(result)) {
            buffer.spare_capacity_mut()[..n].fill(std::mem::MaybeUninit::new(7));
        }
        // SAFETY: the bytes that a kernel would have written were written above.
        unsafe { operation.advance(result) }
    }

    #[tokio::test]
    async fn short_reads_go_on_until_the_end() {
        let (mut read, answer) = operation(Work::read(10).unwrap());
        assert!(advance(&mut read, 4).is_none());
        assert!(advance(&mut read, 5).is_none());
        assert_eq!(read.offset, 9);
        let outcome = advance(&mut read, 0).unwrap();
        read.answer(outcome);
        assert_eq!(answer.await.unwrap().unwrap(), [7u8; 9][..]);
    }

    #[test]
    fn short_writes_go_on_and_empty_ones_fail() {
        let (mut write, _answer) = operation(Work::Write(Bytes::from_static(b"hello")));
        assert!(advance(&mut write, 2).is_none());
        assert!(matches!(&write.work, Work::Write(rest) if &rest[..] == b"llo"));
        assert_eq!(advance(&mut write, 0).unwrap().unwrap_err().kind(), io::ErrorKind::WriteZero);
        assert!(advance(&mut write, 3).unwrap().is_ok());
    }

    #[test]
    fn interruptions_are_repeated_a_bounded_number_of_times() {
        const EINTR: i32 = 4;
        const EIO: i32 = 5;
        let (mut sync, _answer) = operation(Work::Sync);
        for _ in 0..MAX_REPEATS {
            assert!(advance(&mut sync, -EINTR).is_none());
        }
        assert_eq!(advance(&mut sync, -EINTR).unwrap().unwrap_err().raw_os_error(), Some(EINTR));
        assert_eq!(advance(&mut sync, -EIO).unwrap().unwrap_err().raw_os_error(), Some(EIO));
    }

    #[tokio::test]
    async fn what_is_abandoned_is_answered() {
        let (read, answer) = operation(Work::read(10).unwrap());
        read.abandon();
        answer.await.unwrap().unwrap_err();
    }
}
