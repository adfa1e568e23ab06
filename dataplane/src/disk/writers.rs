//! Threads that write. A buffered write is a copy into the page cache: next to nothing beside waking a thread for it,
//! so one thread takes all writes so long as it keeps up, and a burst of them wakes it once. Further threads help
//! when it falls behind, or a device keeps it waiting.
//!
//! *Invariants:* every write is answered, with an error if its thread has ended; at most [`MAX_WAITING`] writes wait
//! or run for one thread, and who asks for more waits.

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Threads of one disk.
const THREADS: usize = 4;

/// Writes that one thread has before the next one is asked to help: sixteen chunks with what is noted of them, a
/// millisecond's work. Fewer, and several threads write one file, whose lock they then spin for.
const KEEPS_UP: usize = 48;

/// Writes that wait or run for one thread.
const MAX_WAITING: usize = 64;

const _: () = assert!(KEEPS_UP < MAX_WAITING);

/// The threads. Dropping it lets them finish what was asked of them and end.
#[derive(Debug)]
pub(super) struct Writers(Vec<Inlet>);

/// Where writes enter one thread.
#[derive(Debug)]
struct Inlet {
    queue: Sender<Write>,
    room: Arc<Semaphore>,
}

/// One write, and who waits for it.
struct Write {
    file: Arc<File>,
    offset: u64,
    data: Bytes,
    answer: oneshot::Sender<io::Result<()>>,
    permit: OwnedSemaphorePermit,
}

impl Writers {
    pub(super) fn start() -> io::Result<Self> {
        (0..THREADS).map(|_| Inlet::start()).collect::<io::Result<_>>().map(Self)
    }

    /// Writes all of `data` at `offset`. When the future is dropped, the write happens all the same or not at all.
    pub(super) async fn write(&self, file: &Arc<File>, offset: u64, data: Bytes) -> io::Result<()> {
        let inlet = &self.0[who_keeps_up(self.0.iter().map(|inlet| inlet.room.available_permits()))];
        let permit = inlet.room.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (answer, written) = oneshot::channel();
        let ended = || io::Error::other("the thread that writes has ended");
        let write = Write { file: file.clone(), offset, data, answer, permit };
        inlet.queue.send(write).map_err(|_| ended())?;
        written.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// The first thread that keeps up, by the writes that each has room for; if none does, that with most room.
fn who_keeps_up(room: impl Iterator<Item = usize>) -> usize {
    let (mut best, mut most) = (0, 0);
    for (number, room) in room.enumerate() {
        if MAX_WAITING - room < KEEPS_UP {
            return number;
        }
        if room > most {
            (best, most) = (number, room);
        }
    }
    best
}

impl Inlet {
    fn start() -> io::Result<Self> {
        // The permits bound it.
        let (queue, writes) = unbounded();
        std::thread::Builder::new().name("globalfs-write".into()).spawn(move || serve(writes))?;
        Ok(Self { queue, room: Arc::new(Semaphore::new(MAX_WAITING)) })
    }
}

fn serve(writes: Receiver<Write>) {
    for Write { file, offset, data, answer, permit } in writes {
        let outcome = file.write_all_at(&data, offset);
        drop((file, data));
        drop(permit);
        // Nobody may wait any more.
        let _ = answer.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_takes_all_until_it_falls_behind() {
        let check = |waiting: &[usize], want| {
            assert_eq!(
                who_keeps_up(waiting.iter().map(|waiting| MAX_WAITING - waiting)),
                want,
                "{waiting:?}"
            );
        };
        check(&[0, 0, 0], 0);
        check(&[KEEPS_UP - 1, 0, 0], 0);
        check(&[KEEPS_UP, 0, 0], 1);
        check(&[MAX_WAITING, KEEPS_UP, 2], 2);
        check(&[MAX_WAITING, KEEPS_UP, KEEPS_UP + 1], 1);
        check(&[MAX_WAITING, MAX_WAITING, MAX_WAITING], 0);
    }

    #[tokio::test]
    async fn writes_beyond_what_may_wait_are_all_made() {
        let writers = Arc::new(Writers::start().unwrap());
        let file = Arc::new(tempfile::tempfile().unwrap());
        let count = 3 * THREADS * MAX_WAITING;
        let writes: Vec<_> = (0..count)
            .map(|number| {
                let (writers, file) = (writers.clone(), file.clone());
                let data = Bytes::from(vec![number as u8; 100]);
                tokio::spawn(async move { writers.write(&file, 100 * number as u64, data).await })
            })
            .collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
        let mut all = vec![0; 100 * count];
        file.read_exact_at(&mut all, 0).unwrap();
        assert!(all.chunks(100).enumerate().all(|(number, part)| part == [number as u8; 100]));
    }
}
