//! Which peers can run here, and how each is started with the options that its users choose for speed.

use super::juicefs::JuiceFs;
use super::peer::Peer;
use super::{Bed, Kind, System, s3, ssh};
use crate::sandbox::has_program;
use anyhow::{Result, bail};

/// What a peer needs that is not installed.
pub(super) fn missing(kind: Kind) -> Option<String> {
    let needed: &[&str] = match kind {
        Kind::GlobalFs => &[],
        Kind::Sshfs => &["sshfs", "ssh", "/usr/sbin/sshd"],
        Kind::Rclone => &["rclone", "ssh", "/usr/sbin/sshd"],
        Kind::RcloneS3 => &["rclone"],
        Kind::S3fs => &["s3fs", "rclone"],
        Kind::MountS3 => &["mount-s3", "rclone"],
        Kind::JuiceFs => &["juicefs", "redis-server", "s3s-fs"],
    };
    let absent = needed.iter().find(|program| !has_program(program));
    let needs_server = matches!(kind, Kind::RcloneS3 | Kind::S3fs | Kind::MountS3);
    match absent {
        Some(program) => Some(format!("{program} is not installed")),
        None if needs_server && !s3::has_server() => Some("this rclone has no S3 server".to_owned()),
        None => None,
    }
}

/// Starts a peer.
pub(super) fn start(kind: Kind, bed: &Bed<'_>) -> Result<Box<dyn System>> {
    let peer: Peer = match kind {
        Kind::Sshfs => ssh::sshfs(bed)?,
        Kind::Rclone => ssh::rclone(bed)?,
        Kind::RcloneS3 => s3::rclone(bed)?,
        Kind::S3fs => s3::s3fs(bed)?,
        Kind::MountS3 => s3::mount_s3(bed)?,
        Kind::JuiceFs => return Ok(Box::new(JuiceFs::start(bed)?)),
        Kind::GlobalFs => bail!("not a peer"),
    };
    Ok(Box::new(peer))
}
