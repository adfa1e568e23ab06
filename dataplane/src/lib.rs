//! Origin, cache, fetching and serving: how bytes get from a site's storage to a reader, verified.

pub mod source;

pub use source::{Chunk, ChunkStream, Deadline, Listing, Source};
