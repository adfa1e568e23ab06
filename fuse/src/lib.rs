//! From kernel requests to the [`Volume`] trait. Knows nothing of sites, caches and networks.
//!
//! `model` holds the tables of nodes and handles (pure), `operations` what each request means, `adapter`
//! the translation to and from the kernel's terms, `session` mounting and unmounting.
//!
//! *Invariant:* a node of a regular file or a symbolic link stands for one version of it, so the kernel's
//! page cache never holds bytes of two versions under one inode number.

mod adapter;
mod errno;
mod invalidate;
mod kernel_attr;
mod model;
mod mount_point;
pub mod operations;
mod options;
mod passthrough;
mod session;
pub mod volume;

pub use model::{Identity, Keeping, NodeId};
pub use mount_point::{Detach, our_mounts, unmount};
pub use operations::Operations;
pub use options::{OptionError, Options};
pub use session::{MountError, Session, mount, prepare};
pub use volume::{Edition, Lasting, Names, Volume, WholeFile};
