//! sshfs and rclone over SFTP: an OpenSSH server at the far end with keys made for the run.

use super::Bed;
use super::peer::Peer;
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SSHD: &str = "/usr/sbin/sshd";
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// Where sshd wants an empty directory.
const PRIVILEGE_DIR: &str = "/run/sshd";

/// Keys and configuration of one server.
struct Keys {
    dir: PathBuf,
    port: u16,
}

/// sshfs, which reads ahead as far as it can and keeps names for a minute.
pub(super) fn sshfs(bed: &Bed<'_>) -> Result<Peer> {
    let keys = Keys::make(bed, "sshfs", 2201)?;
    let remote = format!("root@{}:{}", bed.wan.far().address(), bed.origin().display());
    let (key, port) = (keys.path("client"), keys.port);
    let command = move |at: &Path, _: &Path| {
        let mut command = Command::new("sshfs");
        command.arg("-f").arg(&remote).arg(at).args(["-p", &port.to_string()]);
        let identity = format!("IdentityFile={}", key.display());
        for option in [identity.as_str(), "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"] {
            command.args(["-o", option]);
        }
        // The cipher that costs least here, and caches as users are told to set them.
        command.args(["-o", "Ciphers=aes128-gcm@openssh.com", "-o", "compression=no"]);
        // Several connections bring nothing to one reader, and each costs six round trips to begin.
        command.args(["-o", "cache=yes,kernel_cache,dcache_timeout=60,ro"]);
        command
    };
    Peer::start(bed, "sshfs", keys.server(), port, Box::new(command))
}

/// rclone over SFTP with the cache that it needs for random reads. Reads in several streams, which this remote
/// has to connect for, gained nothing when it was tried.
pub(super) fn rclone(bed: &Bed<'_>) -> Result<Peer> {
    let keys = Keys::make(bed, "rclone", 2202)?;
    let (host, port, key) = (bed.wan.far().address(), keys.port, keys.path("client"));
    let remote = format!(
        ":sftp,host={host},port={port},user=root,key_file={},shell_type=none,concurrency=64:{}",
        key.display(),
        bed.origin().display()
    );
    let command = move |at: &Path, cache: &Path| rclone_mount(&remote, at, cache);
    Peer::start(bed, "rclone", keys.server(), port, Box::new(command))
}

/// The mount that all remotes of rclone share.
pub(super) fn rclone_mount(remote: &str, at: &Path, cache: &Path) -> Command {
    let mut command = Command::new("rclone");
    command.arg("mount").arg(remote).arg(at).arg("--cache-dir").arg(cache).env("RCLONE_CONFIG", "/dev/null");
    command.args(["--read-only", "--vfs-cache-mode", "full", "--vfs-fast-fingerprint", "--no-checksum"]);
    command.args(["--buffer-size", "64M", "--vfs-read-ahead", "128M", "--vfs-read-chunk-size", "16M"]);
    command.args(["--dir-cache-time", "5m", "--attr-timeout", "1m"]);
    command
}

impl Keys {
    fn make(bed: &Bed<'_>, name: &str, port: u16) -> Result<Self> {
        let keys = Self { dir: bed.folder("far", name)?, port };
        for file in ["host", "client"] {
            let mut make = Command::new("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(keys.path(file));
            ensure!(make.status()?.success(), "ssh-keygen fails");
        }
        fs::copy(keys.path("client.pub"), keys.path("authorized_keys"))?;
        fs::set_permissions(keys.path("authorized_keys"), fs::Permissions::from_mode(0o600))?;
        fs::create_dir_all(PRIVILEGE_DIR)?;
        fs::write(keys.path("config"), keys.config(bed))?;
        Ok(keys)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    fn config(&self, bed: &Bed<'_>) -> String {
        format!(
            "Port {}\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nStrictModes no\nUseDNS no\nMaxStartups 64\n\
             Subsystem sftp {SFTP_SERVER}\n",
            self.port,
            bed.wan.far().address(),
            self.path("host").display(),
            self.path("authorized_keys").display(),
        )
    }

    fn server(&self) -> Command {
        let mut command = Command::new(SSHD);
        command.args(["-D", "-e", "-f"]).arg(self.path("config"));
        command
    }
}
