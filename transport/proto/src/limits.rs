//! Every limit of the protocol, with the reason for its value.

use std::time::Duration;

/// Bytes in a chunk, the unit of transfer, verification and caching. At 1 Gbit/s a chunk takes 1 ms, a
/// fortieth of a 40 ms round trip, so a cold random read pays little for what it does not need.
pub const CHUNK_SIZE: u64 = 128 * 1024;

/// Chunks in one read request: 4 MiB, what one QUIC stream may have in flight.
pub const MAX_CHUNKS_PER_READ: u32 = 32;

/// Chunks in one request for hashes: those of 512 MiB, 128 KiB of answer.
pub const MAX_HASHES_PER_REQUEST: u32 = 4096;

/// Hashes in one frame of the answer, so that the first ones arrive while the others are computed.
pub const MAX_HASHES_PER_FRAME: usize = 256;
/// Bytes of one request frame: the largest one carries a trace, all others take a few KiB.
pub const MAX_REQUEST_FRAME: usize = 528 * 1024;

/// Bytes of the frame that asks for many small files by their names.
pub const MAX_FILES_FRAME: usize = 64 * 1024;

/// The largest file that is asked for in bulk: at 1 Gbit/s it takes 8 ms, and then a request of its own costs
/// little.
pub const MAX_PACKED_FILE: u64 = 1024 * 1024;

/// Files in one bulk request: a millisecond of work for the master, and a frame of 60 KiB.
pub const MAX_FILES_PER_REQUEST: usize = 1024;

/// Bytes of the files in one bulk request.
pub const MAX_PACKED_BYTES: u64 = 16 * 1024 * 1024;

/// A pack is sent when its records pass this many bytes: enough to compress well and for few packs a second,
/// little enough that the first files do not wait for the last ones.
pub const PACK_TARGET: usize = 256 * 1024;

/// Bytes of one pack, decoded: its target and one more record.
pub const MAX_PACK: usize = 512 * 1024;

/// Bytes of a path with its slashes; one less than `PATH_MAX`, which counts the final NUL.
pub const MAX_PATH: usize = 4095;

/// Bytes of one component of a path (`NAME_MAX`).
pub const MAX_NAME: usize = 255;

/// Bytes of one message frame, header included; a listing is split into frames below this.
pub const MAX_FRAME: usize = 1024 * 1024;

/// A part of a listing is sent when its entries pass this many bytes.
pub const LIST_PART_TARGET: usize = 256 * 1024;

/// Bytes of the entries of one part, once decoded. What claims more is refused before it is decoded.
pub const MAX_LIST_PART: usize = 512 * 1024;

/// Entries of directories below a path that one request may ask for beside what it is about: some 1.5 MB
/// before compression, and 30 ms of work for an origin on a local disk.
pub const MAX_ENTRIES_BELOW: u32 = 16 * 1024;

/// Bytes of the content of one file that may come along with its attributes: far less than what a round trip between sites
/// could carry, so that it costs little where nobody reads it.
pub const MAX_CONTENT_ALONG: u32 = 16 * 1024;

/// Entries of a directory that is told although nobody asked for its listing. A larger one is left out, so a
/// lookup in a directory with a million names costs one small answer.
pub const MAX_ENTRIES_UNASKED: usize = 4096;

/// Bytes of a link's target that is told in a listing; most are shorter, and longer ones are asked for.
pub const MAX_LISTED_TARGET: usize = 255;

/// Directories in one message of changes.
pub const MAX_CHANGES: usize = 256;

/// Changed names of one directory in one message; more are told as a change of the whole directory. With
/// [`MAX_CHANGES`] of them a message may pass [`MAX_FRAME`], so who sends splits by bytes as well.
pub const MAX_NAMES_PER_CHANGE: usize = 64;

/// Subtrees of which it is remembered which grant was told of last; policies name fewer.
pub const MAX_HAND_OVERS: usize = 4096;

/// How often who is subscribed to changes may wish to hear that there were none.
pub const MIN_HEARTBEAT: Duration = Duration::from_millis(20);

/// How often it hears so at the least.
pub const MAX_HEARTBEAT: Duration = Duration::from_secs(1);

/// Entries of one directory; above this the answer is an error, never a part of the listing.
pub const MAX_DIR_ENTRIES: usize = 4_000_000;

/// Bytes of an extended attribute's value (`XATTR_SIZE_MAX`), which also bounds a list of names.
pub const MAX_XATTR: usize = 64 * 1024;

/// How names begin that no mount shows: of files that are not quite made yet, or no more quite there.
pub const HIDDEN_PREFIX: &[u8] = b".globalfs-";

/// Bytes of one write. Larger ones are several, so that a request stays below its limit.
pub const MAX_WRITE: usize = 512 * 1024;

/// Bytes that one request copies from file to file: at 100 MB/s a second of work where the file system cannot share them.
pub const MAX_COPY: u64 = 64 * 1024 * 1024;

/// Bytes of the explanation inside an error that crosses the network.
pub const MAX_ERROR_TEXT: usize = 512;

/// Files that one request asks to be warmed.
pub const MAX_WARM_FILES: usize = 512;

/// Chunks that one request asks to be warmed: 256 MiB, which at 4 Mbit/s still arrives within the longest
/// deadline, and beyond which a client shares the site's attention with the next one.
pub const MAX_WARM_CHUNKS: u32 = 2048;

/// A request to warm takes another file only below this many bytes.
pub const WARM_FRAME_TARGET: usize = 15 * 1024;

/// Bytes of a stored trace, compressed: some 20,000 files.
pub const MAX_TRACE_BYTES: usize = 512 * 1024;

/// Paths that one request brings home: those of a few milliseconds of small writes, and one flush to disk for all.
pub const MAX_HOME_ITEMS: usize = 1024;

/// A request to bring home takes another path only below this many bytes.
pub const HOME_FRAME_TARGET: usize = 256 * 1024;

/// Locks of one owner on one file: a database divides its file into some hundreds of ranges.
pub const MAX_LOCKS_PER_OWNER: usize = 4096;

/// Traces that one site keeps; the one that was used longest ago goes first.
pub const MAX_TRACES: usize = 1024;

/// The longest time that any single operation may be given.
pub const MAX_DEADLINE: Duration = Duration::from_secs(600);

/// What an operation is given when nobody said otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

const _: () = assert!(CHUNK_SIZE.is_power_of_two());
const _: () = assert!(LIST_PART_TARGET * 2 <= MAX_LIST_PART && MAX_LIST_PART * 2 <= MAX_FRAME);
const _: () = assert!(PACK_TARGET + CHUNK_SIZE as usize + 1024 < MAX_PACK);
const _: () = assert!(MAX_PACKED_FILE <= MAX_PACKED_BYTES);
const _: () = assert!(MAX_PATH + MAX_NAME + 256 < MAX_FILES_FRAME && MAX_FILES_FRAME <= MAX_REQUEST_FRAME);
const _: () = assert!(MAX_TRACE_BYTES + 1024 <= MAX_REQUEST_FRAME);
const _: () = assert!(HOME_FRAME_TARGET + 4 * MAX_PATH < MAX_REQUEST_FRAME);
const _: () = assert!(MAX_LOCKS_PER_OWNER * 17 + 1024 <= MAX_REQUEST_FRAME);
const _: () = assert!(MAX_WRITE + MAX_PATH + 1024 <= MAX_REQUEST_FRAME);
const _: () = assert!(MAX_PATH + MAX_XATTR < MAX_FRAME);
const _: () = assert!(MAX_TRACE_BYTES + MAX_NAME < MAX_FRAME);
