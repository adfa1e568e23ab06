//! The vocabulary that every part of GlobalFS shares: names, paths, ranges, versions, attributes,
//! messages and their frozen binary form, limits. No IO, no clock, no async.
//!
//! *Invariant:* nothing here touches a file, a socket or the time; what is decoded from the network is
//! validated before it becomes one of these types.

pub mod attr;
pub mod bulk;
pub mod change;
pub mod changed;
pub mod chunk;
pub mod codec;
pub mod error;
pub mod hand_over;
pub mod home;
pub mod ids;
pub mod lasting;
pub mod limits;
pub mod listing;
pub mod lock;
pub mod message;
pub mod path;
pub mod trace;
pub mod warm;

pub use attr::{Attr, DirEntry, FileId, FileKind, FsStat, Version};
pub use bulk::{PackHeader, PackedChunk, Record, WantedFile};
pub use change::{Allocation, Change, CopiedRange, Existing, NewAttr, NewFile, NewTime, Owner, Target};
pub use changed::Changed;
pub use chunk::{ByteRange, ChunkHash, ChunkIndex, ChunkSpan};
pub use codec::{DecodeError, Reader, Writer};
pub use error::{FsError, FsResult};
pub use hand_over::{HandOvers, HandedOver};
pub use home::{BringHome, Fence, HomeItem, Settled};
pub use ids::{NameError, NodeName, PeerIdentity, SiteName};
pub use lasting::{Edition, Lasting};
pub use listing::{ChangedDirectory, Changes, DirectoryPart, PartEncoding};
pub use lock::{
    KeepLocks, Lock, LockAction, LockKind, LockMode, LockOwner, LockRange, LockRequest, LockSession, Locked,
    Tenure,
};
pub use message::{ChunkEncoding, ChunkHeader, Request, RequestHeader, Response, Seek};
pub use path::{GlobalPath, PathError};
pub use trace::{PutTrace, TraceName, TraceNameError, TraceSummary};
pub use warm::{Warm, WarmFile, Warmed};
