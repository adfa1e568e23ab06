//! File systems over S3: rclone's server shows the origin as a bucket. It speaks plain HTTP, which spares the
//! peers the cost of TLS, and hashes nothing, which would make it read a whole file to tell its attributes.

use super::Bed;
use super::peer::Peer;
use super::ssh::rclone_mount;
use anyhow::Result;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const ACCESS_KEY: &str = "compare";
const SECRET_KEY: &str = "compare-secret";

/// What the servers ask for.
pub(super) const KEYS: (&str, &str) = (ACCESS_KEY, SECRET_KEY);

/// The origin's name at the far end, where its parent holds buckets.
const BUCKET: &str = "origin";

/// s3fs with many parallel requests and a large cache of attributes.
pub(super) fn s3fs(bed: &Bed<'_>) -> Result<Peer> {
    let port = 2203;
    let password = bed.folder("near", "s3fs")?.join("password");
    fs::write(&password, format!("{ACCESS_KEY}:{SECRET_KEY}\n"))?;
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
    let url = url(bed, port);
    let command = move |at: &Path, cache: &Path| {
        let mut command = Command::new("s3fs");
        command.arg(BUCKET).arg(at).arg("-f").arg("-o").arg(format!("passwd_file={}", password.display()));
        command.args(["-o", &format!("url={url}"), "-o", "use_path_request_style,ro"]);
        command.args(["-o", "parallel_count=20,multipart_size=16,multireq_max=200"]);
        command.args(["-o", "stat_cache_expire=300,max_stat_cache_size=200000,enable_noobj_cache"]);
        command.arg("-o").arg(format!("use_cache={}", cache.display()));
        command
    };
    Peer::start(bed, "s3fs", server(bed, port), port, Box::new(command))
}

/// Mountpoint with a cache of data and metadata, told how fast the link is.
pub(super) fn mount_s3(bed: &Bed<'_>) -> Result<Peer> {
    let port = 2204;
    let url = url(bed, port);
    let command = move |at: &Path, cache: &Path| {
        let mut command = Command::new("mount-s3");
        command.arg(BUCKET).arg(at).args(["--foreground", "--read-only", "--force-path-style"]);
        command.args(["--endpoint-url", &url, "--region", "us-east-1", "--metadata-ttl", "300"]);
        command.arg("--cache").arg(cache).args(["--maximum-throughput-gbps", "10"]);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command
    };
    Peer::start(bed, "mount-s3", server(bed, port), port, Box::new(command))
}

/// rclone at both ends, with reads in several streams.
pub(super) fn rclone(bed: &Bed<'_>) -> Result<Peer> {
    let port = 2205;
    let remote = format!(
        ":s3,provider=Rclone,endpoint='{}',access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY}:{BUCKET}",
        url(bed, port)
    );
    let command = move |at: &Path, cache: &Path| {
        let mut command = rclone_mount(&remote, at, cache);
        command.args(["--use-server-modtime", "--vfs-read-chunk-streams", "16"]);
        command
    };
    Peer::start(bed, "rclone-s3", server(bed, port), port, Box::new(command))
}

fn url(bed: &Bed<'_>, port: u16) -> String {
    format!("http://{}:{port}", bed.wan.far().address())
}

/// Shows the far directory: each directory in it is a bucket. What is new there is found at once.
fn server(bed: &Bed<'_>, port: u16) -> Command {
    let mut command = Command::new("rclone");
    command.args(["serve", "s3", "--addr", &format!("{}:{port}", bed.wan.far().address())]);
    command.args(["--auth-key", &format!("{ACCESS_KEY},{SECRET_KEY}"), "--etag-hash", "none"]);
    command.args(["--dir-cache-time", "0s"]).arg(bed.dir.join("far")).env("RCLONE_CONFIG", "/dev/null");
    command
}

/// A server for objects that are written to it, too, whose names nobody reads.
pub(super) fn object_server(bed: &Bed<'_>, port: u16) -> Command {
    let mut command = Command::new("s3s-fs");
    command.args(["--host", &bed.wan.far().address().to_string(), "--port", &port.to_string()]);
    command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]).arg(bed.dir.join("far"));
    command
}

/// Whether the rclone that is installed has an S3 server (1.65 and later); older ones show the help of `serve` alone.
pub(super) fn has_server() -> bool {
    let help = Command::new("rclone").args(["serve", "--help"]).output();
    help.is_ok_and(|help| lists_s3(&String::from_utf8_lossy(&help.stdout)))
}

fn lists_s3(help: &str) -> bool {
    help.lines().any(|line| line.split_whitespace().next() == Some("s3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_apart_by_the_help_of_rclone() {
        assert!(lists_s3(
            "Available Commands:\n  restic      Serve\n  s3          Serve remote:path over s3.\n"
        ));
        assert!(!lists_s3("Serve a remote, e.g.\n    rclone serve http s3:\n  http        Serve\n"));
    }
}
