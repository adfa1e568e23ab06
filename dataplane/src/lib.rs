//! Origin, cache, fetching and serving: how bytes get from a site's storage to a reader, verified.

pub mod cache;
pub mod changes;
pub mod direct;
pub mod disk;
pub mod encoding;
pub mod fetch;
pub mod home;
mod listing;
pub mod locks;
pub mod model;
pub mod origin;
pub mod paced;
mod pack;
pub mod remote;
mod remote_files;
pub mod replicas;
mod ring;
pub mod route;
pub mod serve;
pub mod source;
mod subscriptions;
#[doc(hidden)]
pub mod testing;
mod warm;

pub use disk::Disk;
pub use source::{Chunk, ChunkStream, Deadline, Directory, FileChunks, Listing, Source, WarmStream};
