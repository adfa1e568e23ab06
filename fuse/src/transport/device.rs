//! `/dev/fuse`: requests are read from it one by one, answers and notices are written to it at once.

use super::{Reply, system};
use crate::kernel::abi::{self, MIN_READ_BUFFER, OutHeader};
use crate::kernel::init::MAX_PAYLOAD;
use crate::kernel::notice::{self, Notice};
use crate::kernel::request;
use crate::model::NodeId;
use crate::serve::{Server, Then};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::{Arc, Weak};
use tracing::{debug, warn};
use zerocopy::IntoBytes;

/// Where the device is.
pub(crate) const PATH: &str = "/dev/fuse";

/// The kernel refuses a smaller buffer than its longest request, a write. What was never used of it takes no memory.
pub(crate) const REQUEST_BUFFER: usize = MAX_PAYLOAD as usize + 4096;
const _: () = assert!(REQUEST_BUFFER >= MIN_READ_BUFFER);

/// Pieces that are written at once; `writev` takes 1024.
const MAX_PIECES: usize = 1000;

/// An open `/dev/fuse`, connected to a mount.
#[derive(Debug)]
pub(crate) struct Device(File);

impl Device {
    /// Opens the device. It is of no mount yet.
    pub(crate) fn open() -> io::Result<Self> {
        let device = File::options().read(true).write(true).open(PATH)?;
        // Some containers put an empty file in its place, of which mount(2) would only say `EINVAL`.
        let is_device = device.metadata()?.file_type().is_char_device();
        is_device.then_some(Self(device)).ok_or_else(|| io::Error::other("it is no device"))
    }

    /// A device that another program has opened and connected.
    pub(crate) fn received(file: File) -> Self {
        Self(file)
    }

    /// One more way to the same mount, so that threads do not read from one.
    pub(crate) fn another(&self) -> io::Result<Self> {
        let other = Self::open()?;
        system::join_mount(&other.0, &self.0)?;
        Ok(other)
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// Waits for a request and gives its length; `None` when the mount has ended.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let outcome = (&self.0).read(buffer);
            match outcome.as_ref().err().and_then(Errno::from_io_error) {
                None => return outcome.map(Some),
                Some(Errno::NODEV) => return Ok(None),
                // The caller gave up meanwhile, or the read was interrupted.
                Some(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                Some(_) => return outcome.map(Some),
            }
        }
    }

    /// Answers request `unique`; `error` is 0 or a negative errno.
    pub(super) fn answer(&self, unique: u64, error: i32, pieces: &[IoSlice<'_>]) {
        let Err(refused) = self.write_answer(unique, error, pieces) else { return };
        match Errno::from_io_error(&refused) {
            // Nobody waits any more: the caller was killed, or all is unmounted.
            Some(Errno::NOENT | Errno::NODEV) => debug!(unique, "an answer came too late"),
            _ => {
                warn!(unique, error = %refused, "the kernel refused an answer; the request ends with EIO");
                let _ = self.write_answer(unique, -Errno::IO.raw_os_error(), &[]);
            }
        }
    }

    fn write_answer(&self, unique: u64, error: i32, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let length = u32::try_from(size_of::<OutHeader>() + length).map_err(io::Error::other)?;
        let header = OutHeader { length, error, unique };
        self.write(header.as_bytes(), pieces)
    }

    fn write(&self, head: &[u8], pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let head = IoSlice::new(head);
        match pieces {
            [] => (&self.0).write(&head)?,
            [piece] => (&self.0).write_vectored(&[head, *piece])?,
            pieces if pieces.len() <= MAX_PIECES => {
                let all: Vec<_> = std::iter::once(head).chain(pieces.iter().copied()).collect();
                (&self.0).write_vectored(&all)?
            }
            pieces => {
                let joined = pieces.iter().map(|piece| &piece[..]).collect::<Vec<_>>().concat();
                (&self.0).write_vectored(&[head, IoSlice::new(&joined)])?
            }
        };
        Ok(())
    }

    /// Reads requests for `server` and hands them to it, until the mount has ended.
    pub(crate) fn serve(self: Arc<Self>, server: &Server) -> io::Result<()> {
        let mut buffer = vec![0; REQUEST_BUFFER];
        while let Some(length) = self.read(&mut buffer)? {
            if self.take(&buffer[..length], server)? == Then::End {
                break;
            }
        }
        Ok(())
    }

    fn take(self: &Arc<Self>, bytes: &[u8], server: &Server) -> io::Result<Then> {
        match request::parse(bytes) {
            Ok(request) => Ok(server.handle(&request, Reply::by_device(self.clone(), request.unique))),
            Err(error) => {
                warn!(%error, "a request was refused");
                match error {
                    request::RequestError::NoHeader(_) => Err(io::Error::other(error)),
                    _ => {
                        let waiting = error.unique();
                        waiting.into_iter().for_each(|unique| drop(Reply::by_device(self.clone(), unique)));
                        Ok(Then::Continue)
                    }
                }
            }
        }
    }
}

/// Tells the kernel what has changed. Its calls wait for locks of the kernel, so they are for a thread that serves no
/// request. An error says what the kernel refused; what it does not know it refuses with `ENOENT`, which is as well.
#[derive(Debug, Clone)]
pub struct Notifier {
    device: Arc<Device>,
    minor: u32,
}

impl Notifier {
    /// For a mount with which protocol 7.`minor` was agreed on.
    pub(crate) fn new(device: Arc<Device>, minor: u32) -> Self {
        Self { device, minor }
    }

    /// `name` in `parent` is to be looked up again. Before Linux 6.2 who works in a directory of that name has no name for
    /// it any more.
    pub fn inval_entry(&self, parent: NodeId, name: &[u8]) -> io::Result<()> {
        self.tell(notice::inval_entry(parent, name, self.minor >= abi::EXPIRE_ONLY_MINOR))
    }

    /// Attributes of `node` are to be asked for again, and `length` bytes of it from `offset` on to be read again;
    /// an offset below zero leaves the content alone.
    pub fn inval_inode(&self, node: NodeId, offset: i64, length: i64) -> io::Result<()> {
        self.tell(notice::inval_inode(node, offset, length))
    }

    /// Gives the kernel `content` of `node` at `offset` for its page cache.
    pub fn store(&self, node: NodeId, offset: u64, content: &[u8]) -> io::Result<()> {
        self.tell(notice::store(node, offset, content))
    }

    fn tell(&self, notice: Option<Notice<'_>>) -> io::Result<()> {
        let Notice { head, data, end } = notice.ok_or(io::ErrorKind::InvalidInput)?;
        self.device.write(&head, &[IoSlice::new(data), IoSlice::new(end)])
    }
}

/// A local file that the kernel reads by itself, as the kernel knows it.
#[derive(Debug)]
pub(crate) struct BackingId {
    device: Weak<Device>,
    id: i32,
}

impl BackingId {
    /// Makes `file` known to the kernel; only an administrator may. Use one for all opens of a node: the kernel
    /// refuses another with `EIO`.
    pub(crate) fn open(device: &Arc<Device>, file: &File) -> io::Result<Self> {
        let id = system::open_backing(&device.0, file.as_raw_fd())?;
        Ok(Self { device: Arc::downgrade(device), id })
    }

    /// How an answer to an open names it.
    pub(crate) fn number(&self) -> i32 {
        self.id
    }
}

impl Drop for BackingId {
    fn drop(&mut self) {
        if let Some(device) = self.device.upgrade()
            && let Err(error) = system::close_backing(&device.0, self.id)
        {
            debug!(%error, "a file that was passed through could not be given back");
        }
    }
}
