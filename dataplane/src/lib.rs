//! Origin, cache, fetching and serving: how bytes get from a site's storage to a reader, verified.

pub mod disk;
pub mod model;
pub mod source;

pub use disk::Disk;
pub use source::{Chunk, ChunkStream, Deadline, Listing, Source};
