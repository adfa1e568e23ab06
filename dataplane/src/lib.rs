//! Origin, cache, fetching and serving: how bytes get from a site's storage to a reader, verified.

pub mod cache;
pub mod disk;
pub mod encoding;
pub mod fetch;
pub mod model;
pub mod origin;
pub mod remote;
mod ring;
pub mod route;
pub mod serve;
pub mod source;
#[doc(hidden)]
pub mod testing;
mod warm;

pub use disk::Disk;
pub use source::{Chunk, ChunkStream, Deadline, Listing, Source, WarmStream};
