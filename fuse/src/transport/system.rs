//! What Rust cannot check: the device's ioctls, and the memory that a ring shares with the kernel. The only file of
//! this crate with `unsafe`.
//!
//! *Invariant:* the bytes of an [`Entry`] belong either to the kernel, while the [`Ring`] keeps it, or to who holds
//! it. There is one of each slot, so nobody reads what another writes.

use crate::kernel::abi::{self, RingCommand, RingHeader, ring_command};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, Setter};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

const CLONE: Opcode = ioctl::opcode::read::<u32>(abi::ioctl::GROUP, abi::ioctl::CLONE);
const BACKING_OPEN: Opcode =
    ioctl::opcode::write::<abi::BackingMap>(abi::ioctl::GROUP, abi::ioctl::BACKING_OPEN);
const BACKING_CLOSE: Opcode = ioctl::opcode::write::<u32>(abi::ioctl::GROUP, abi::ioctl::BACKING_CLOSE);

/// Connects the freshly opened `device` with the mount of `other`.
pub(super) fn join_mount(device: &File, other: &File) -> io::Result<()> {
    // SAFETY: this ioctl reads a descriptor's number from the address, and writes nothing, whatever its name says.
    Ok(unsafe { ioctl::ioctl(device, Setter::<CLONE, u32>::new(other.as_raw_fd() as u32)) }?)
}

/// The call that makes a file known, which returns its number.
struct OpenBacking(abi::BackingMap);

// SAFETY: the ioctl reads one structure of this type from the address and writes nothing.
unsafe impl Ioctl for OpenBacking {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        BACKING_OPEN
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    // SAFETY: the address is not looked at.
    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

/// Makes the file behind `fd` known to the mount of `device` and gives its number.
pub(super) fn open_backing(device: &File, fd: RawFd) -> io::Result<i32> {
    let call = OpenBacking(abi::BackingMap { fd, flags: 0, padding: 0 });
    // SAFETY: `OpenBacking` describes this ioctl.
    Ok(unsafe { ioctl::ioctl(device, call) }?)
}

/// Takes back what [`open_backing`] gave; files that are open go on.
pub(super) fn close_backing(device: &File, id: i32) -> io::Result<()> {
    // SAFETY: this ioctl reads a number from the address.
    Ok(unsafe { ioctl::ioctl(device, Setter::<BACKING_CLOSE, u32>::new(id as u32)) }?)
}

/// A slot begins with a page for the header.
const HEADER_ROOM: usize = 4096;
const _: () = assert!(size_of::<RingHeader>() <= HEADER_ROOM);

/// Memory for all slots of a ring, of zeros. What is never used takes none.
#[derive(Debug)]
struct Slots {
    start: NonNull<c_void>,
    count: usize,
    payload: usize,
}

// SAFETY: it is memory of the process, which no thread owns; who may use which part is for `Entry` to say.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    fn map(count: usize, payload: usize) -> io::Result<Self> {
        let length = count.checked_mul(HEADER_ROOM + payload).ok_or(io::ErrorKind::OutOfMemory)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), length, access, MapFlags::PRIVATE | MapFlags::NORESERVE)
        }?;
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, count, payload })
    }

    fn length(&self) -> usize {
        self.count * (HEADER_ROOM + self.payload)
    }

    /// Where slot `index` begins: first its header, then its payload.
    fn slot(&self, index: usize) -> *mut u8 {
        assert!(index < self.count, "a slot is one of those that were mapped");
        // SAFETY: the result is within the mapping, as was checked.
        unsafe { self.start.as_ptr().cast::<u8>().add(index * (HEADER_ROOM + self.payload)) }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no `Entry` is left, since each keeps it alive. A ring that ends
        // with slots at the kernel leaks it.
        let _ = unsafe { munmap(self.start.as_ptr(), self.length()) };
    }
}

/// A slot that is not at the kernel: a request and the room for its answer.
#[derive(Debug)]
pub(super) struct Entry {
    slots: Arc<Slots>,
    index: usize,
}

impl Entry {
    pub(super) fn header(&self) -> &RingHeader {
        let start = self.slots.slot(self.index);
        // SAFETY: a slot begins with room for a header, and this is the only `Entry` of it.
        let bytes = unsafe { std::slice::from_raw_parts(start, size_of::<RingHeader>()) };
        RingHeader::ref_from_bytes(bytes).expect("a page has room and alignment for a header")
    }

    pub(super) fn header_mut(&mut self) -> &mut RingHeader {
        let start = self.slots.slot(self.index);
        // SAFETY: as in `header`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start, size_of::<RingHeader>()) };
        RingHeader::mut_from_bytes(bytes).expect("a page has room and alignment for a header")
    }

    pub(super) fn payload(&self) -> &[u8] {
        // SAFETY: the payload follows the header's room, and this is the only `Entry` of the slot.
        unsafe {
            std::slice::from_raw_parts(self.slots.slot(self.index).add(HEADER_ROOM), self.slots.payload)
        }
    }

    pub(super) fn payload_mut(&mut self) -> &mut [u8] {
        let start = self.slots.slot(self.index);
        // SAFETY: as in `payload`.
        unsafe { std::slice::from_raw_parts_mut(start.add(HEADER_ROOM), self.slots.payload) }
    }
}

/// What became of something that was submitted.
pub(super) enum Completion {
    /// Somebody has written to the bell.
    Woken,
    /// The slot holds a request.
    Request(Entry),
    /// The kernel gave the slot back without one, and takes it no more.
    Refused(io::Error),
}

/// How long a ring rests when the kernel is too busy for it.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// The tag of the bell's completions; slots have their number.
const BELL: u64 = u64::MAX;

/// `POLLIN` of poll(2).
const POLL_IN: u32 = 0x001;

/// Where the length lies in a submission, which is what an array of buffers has in elements.
const LENGTH_OFFSET: usize = 24;

/// The device is the ring's only registered file.
const DEVICE: types::Fixed = types::Fixed(0);

/// Address and length of a buffer, as in `struct iovec`.
type Buffer = [usize; 2];

/// A ring, for use by one thread, whose slots are at the kernel or given out.
pub(super) struct Ring {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    queue: u16,
    /// Where the kernel finds the parts of each slot.
    buffers: Box<[[Buffer; 2]]>,
    /// By number: the slots that the kernel has.
    with_kernel: Box<[Option<Entry>]>,
    slots: Arc<Slots>,
    bell: Arc<OwnedFd>,
}

impl Ring {
    /// A ring for queue `queue` of `device`'s mount, with `depth` slots, each with `payload` bytes beside its header.
    /// To be made on the thread that uses it.
    pub(super) fn new(
        device: &File,
        queue: u16,
        depth: usize,
        payload: usize,
        bell: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        let slots = Arc::new(Slots::map(depth, payload)?);
        let entries = (depth + 2).next_power_of_two() as u32;
        let ring = build(entries)?;
        ring.submitter().register_files(&[device.as_raw_fd()])?;
        let buffers = (0..depth).map(|index| {
            let start = slots.slot(index) as usize;
            [[start, size_of::<RingHeader>()], [start + HEADER_ROOM, payload]]
        });
        let with_kernel = (0..depth).map(|_| None).collect();
        Ok(Self { ring, queue, buffers: buffers.collect(), with_kernel, slots, bell })
    }

    /// Offers all slots to the kernel, and listens to the bell. To be called once.
    pub(super) fn register(&mut self) -> io::Result<()> {
        self.listen()?;
        for index in 0..self.with_kernel.len() {
            let address = (&raw const self.buffers[index]) as u64;
            let mut submission = opcode::UringCmd80::new(DEVICE, ring_command::REGISTER)
                .cmd(self.command(0))
                .addr(Some(address))
                .build()
                .user_data(index as u64);
            // SAFETY: a submission has the kernel's layout, which has 32 bits for a length there; the crate has no
            // other way to set it for this operation.
            unsafe { (&raw mut submission).cast::<u8>().add(LENGTH_OFFSET).cast::<u32>().write(2) };
            self.push(&submission)?;
            self.with_kernel[index] = Some(Entry { slots: self.slots.clone(), index });
        }
        Ok(())
    }

    /// Gives `entry` with the answer to its request back to the kernel, for the next one.
    pub(super) fn commit(&mut self, entry: Entry) -> io::Result<()> {
        let (index, command) = (entry.index, self.command(entry.header().entry.commit_id));
        let submission = opcode::UringCmd80::new(DEVICE, ring_command::COMMIT_AND_FETCH).cmd(command);
        self.push(&submission.build().user_data(index as u64))?;
        self.with_kernel[index] = Some(entry);
        Ok(())
    }

    fn command(&self, commit_id: u64) -> [u8; 80] {
        let mut bytes = [0; 80];
        let command = RingCommand { commit_id, queue: self.queue, ..RingCommand::default() };
        bytes[..size_of::<RingCommand>()].copy_from_slice(command.as_bytes());
        bytes
    }

    fn listen(&mut self) -> io::Result<()> {
        let poll = opcode::PollAdd::new(types::Fd(self.bell.as_raw_fd()), POLL_IN).multi(true).build();
        self.push(&squeue::Entry128::from(poll.user_data(BELL)))
    }

    fn push(&mut self, submission: &squeue::Entry128) -> io::Result<()> {
        // SAFETY: the memory that a submission names is that of a slot, or of `buffers`: both live until the kernel
        // has given the slot back, or are leaked. A poll names none, and keeps its file alive by itself.
        let pushed = unsafe { self.ring.submission().push(submission) };
        pushed.map_err(|_| io::Error::other("a ring has room for all that may be submitted"))
    }

    /// Whether the kernel has none of the slots.
    pub(super) fn is_idle(&self) -> bool {
        self.with_kernel.iter().all(Option::is_none)
    }

    /// Hands what was pushed to the kernel, and waits for a completion. May return before one comes.
    pub(super) fn submit_and_wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy) => {
                // The kernel lacks memory for the moment.
                std::thread::sleep(BUSY_PAUSE);
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// What has completed, one by one.
    pub(super) fn next(&mut self) -> io::Result<Option<Completion>> {
        let Some(completion) = ({ self.ring.completion().next() }) else { return Ok(None) };
        if completion.user_data() == BELL {
            if !cqueue::more(completion.flags()) {
                self.listen()?;
            }
            return Ok(Some(Completion::Woken));
        }
        let slot = usize::try_from(completion.user_data()).ok().and_then(|n| self.with_kernel.get_mut(n));
        let entry = slot.and_then(Option::take).ok_or_else(|| io::Error::other("a completion of nothing"))?;
        Ok(Some(match completion.result() {
            0.. => Completion::Request(entry),
            error => Completion::Refused(io::Error::from_raw_os_error(-error)),
        }))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.is_idle() {
            // The kernel may still write to them.
            std::mem::forget((self.slots.clone(), std::mem::take(&mut self.buffers)));
        }
    }
}

fn build(entries: u32) -> io::Result<IoUring<squeue::Entry128, cqueue::Entry>> {
    let mut builder = IoUring::<squeue::Entry128, cqueue::Entry>::builder();
    // Every kernel with FUSE over io_uring knows these. Not `setup_defer_taskrun`: when the ring's thread is gone and the
    // ring is not yet, a request would then wait for the thread for ever, and who made it could not be killed.
    builder.setup_cqsize(entries * 2).setup_single_issuer().setup_coop_taskrun();
    builder.build(entries)
}
