//! From kernel requests to the [`Volume`] trait. Knows nothing of sites, caches and networks.
//!
//! `model` holds the tables of nodes and handles, `kernel` the kernel's terms (both pure), `transport` the ways to the
//! kernel, `operations` what each request means, `serve` what lies between them, `session` mounting and unmounting.
//!
//! *Invariant:* a node of a regular file or a symbolic link stands for one version of it, so the kernel's
//! page cache never holds bytes of two versions under one inode number. What this mount changes by itself stays the same
//! node; there the page cache follows, and is dropped when others have changed the file, too.

mod connect;
mod errno;
mod fusermount;
mod invalidate;
mod kernel;
mod model;
mod mount_point;
pub mod operations;
mod options;
mod passthrough;
mod push;
mod serve;
mod session;
mod transport;
pub mod volume;

pub use model::{Identity, NodeId};
pub use mount_point::{Detach, abort, our_mounts, unmount};
pub use operations::Operations;
pub use options::{IoUring, OptionError, Options};
pub use session::{MountError, Session, mount, prepare};
pub use transport::Notifier;
pub use volume::{LockTarget, Names, Volume, WholeFile};
