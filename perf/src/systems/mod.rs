//! The file systems that are compared, all over the same origin and the same link.

mod globalfs;
mod juicefs;
mod peer;
mod peers;
mod s3;
mod ssh;

pub(crate) use globalfs::GlobalFs;

use crate::arguments::named;
use crate::wan::{Namespace, Wan};
use ::globalfs::local::{Place, Programs};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// The system whose figures are judged.
pub(crate) const OURS: &str = "globalfs";

/// Mounts of one site in the phases about several of them.
pub(crate) const MOUNTS: usize = 4;

/// A file system whose data is at the far end and whose mounts are at the near end.
pub(crate) trait System {
    /// Mounts it `count` times with empty caches that know no name, and gives the mount points. What crosses
    /// the link as soon as one is mounted has crossed when this returns.
    fn mount_cold(&mut self, count: usize) -> Result<Vec<PathBuf>>;

    /// Mounts it once, cold, for a reader who asks the machine with the data without another one between.
    fn mount_cold_beside_data(&mut self) -> Result<PathBuf> {
        Ok(self.mount_cold(1)?.swap_remove(0))
    }

    /// Makes what is new below `folder` of the origin readable, where that takes more than putting it there.
    fn publish(&mut self, _folder: &Path) -> Result<()> {
        Ok(())
    }

    /// Takes the mounts away; whatever reads there at the moment fails.
    fn unmount(&mut self);
}

/// The link and the directories between which the systems are compared.
#[derive(Debug)]
pub(crate) struct Bed<'a> {
    /// The link.
    pub wan: &'a Wan,
    /// Both ends are on the far side, joined by its loopback device.
    pub is_loopback: bool,
    /// Everything of this link.
    pub dir: PathBuf,
    /// The programs of GlobalFS.
    pub programs: Programs,
}

/// Which systems there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Ours.
    GlobalFs,
    /// FUSE over SFTP.
    Sshfs,
    /// rclone over SFTP.
    Rclone,
    /// rclone over its own S3 server.
    RcloneS3,
    /// s3fs.
    S3fs,
    /// Mountpoint for Amazon S3.
    MountS3,
    /// JuiceFS, with its metadata and objects at the far end.
    JuiceFs,
}

impl Bed<'_> {
    /// The directory at the far end that all systems show.
    pub(crate) fn origin(&self) -> PathBuf {
        self.dir.join("far/origin")
    }

    pub(super) fn near(&self) -> Place {
        if self.is_loopback { self.far() } else { place(self.wan.near()) }
    }

    pub(super) fn far(&self) -> Place {
        place(self.wan.far())
    }

    /// A directory for one system at one end.
    pub(crate) fn folder(&self, end: &str, name: &str) -> Result<PathBuf> {
        let folder = self.dir.join(end).join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

impl Kind {
    /// Every system, ours first.
    pub(crate) const ALL: [Self; 7] =
        [Self::GlobalFs, Self::Sshfs, Self::Rclone, Self::RcloneS3, Self::S3fs, Self::MountS3, Self::JuiceFs];

    /// What it is called on command lines and in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GlobalFs => OURS,
            Self::Sshfs => "sshfs",
            Self::Rclone => "rclone",
            Self::RcloneS3 => "rclone-s3",
            Self::S3fs => "s3fs",
            Self::MountS3 => "mount-s3",
            Self::JuiceFs => "juicefs",
        }
    }

    /// The system of that name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        named(&Self::ALL, Self::name, "system", name)
    }

    /// What it needs that is not installed; nothing if it can run.
    pub(crate) fn missing(self) -> Option<String> {
        peers::missing(self)
    }

    /// Starts what it needs at both ends.
    pub(crate) fn start(self, bed: &Bed<'_>) -> Result<Box<dyn System>> {
        match self {
            Self::GlobalFs => Ok(Box::new(GlobalFs::start(bed)?)),
            other => peers::start(other, bed),
        }
    }
}

/// A side of the link as a place for processes.
pub(crate) fn place(side: &Namespace) -> Place {
    Place::in_namespace(side.address().into(), &Path::new("/run/netns").join(side.name()))
}

/// Empties a directory, which is made if missing.
fn empty(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Ok(std::fs::create_dir_all(folder)?)
}
