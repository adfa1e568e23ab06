//! JuiceFS: metadata in a Redis and objects in an S3 server, both at the far end. It does not use files in
//! place, so what a phase reads is copied in first, which is not measured.

use super::peer::{Peer, start_server};
use super::{Bed, System, empty, s3};
use anyhow::{Context, Result, ensure};
use globalfs::local::{Place, Process};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

const S3_PORT: u16 = 2206;
const REDIS_PORT: u16 = 2207;

/// The bucket of the objects: a directory beside the origin.
const BUCKET: &str = "juicefs";

/// The volume's name.
const VOLUME: &str = "compare";

/// A volume that is made anew for each phase and round.
pub(super) struct JuiceFs {
    peer: Peer,
    far: Place,
    dir: PathBuf,
    origin: PathBuf,
    objects: PathBuf,
    bucket_url: String,
    metadata_url: String,
    address: IpAddr,
    redis: Option<Process>,
}

impl JuiceFs {
    pub(super) fn start(bed: &Bed<'_>) -> Result<Self> {
        let address = IpAddr::from(bed.wan.far().address());
        let metadata_url = format!("redis://{address}:{REDIS_PORT}/0");
        let url = metadata_url.clone();
        let command = move |at: &Path, cache: &Path| mount(&url, at, cache);
        let objects = bed.folder("far", BUCKET)?;
        Ok(Self {
            peer: Peer::start(bed, "juicefs", s3::object_server(bed, S3_PORT), S3_PORT, Box::new(command))?,
            far: bed.far(),
            dir: bed.folder("far", "juicefs-redis")?,
            origin: bed.origin(),
            objects,
            bucket_url: format!("http://{address}:{S3_PORT}/{BUCKET}"),
            metadata_url,
            address,
            redis: None,
        })
    }

    fn start_redis(&mut self) -> Result<()> {
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            &self.address.to_string(),
            "--port",
            &REDIS_PORT.to_string(),
            "--protected-mode",
            "no",
        ]);
        command.args(["--save", "", "--appendonly", "no"]).current_dir(&self.dir);
        let address = SocketAddr::new(self.address, REDIS_PORT);
        self.redis = Some(start_server(&self.far, command, address, &self.dir.join("redis.log"))?);
        Ok(())
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("juicefs");
        command.args(args).env(VOLUME, &self.metadata_url);
        let output = self.far.enter(|| command.output().context("cannot run juicefs"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().next_back().unwrap_or_default();
        ensure!(output.status.success(), "juicefs {}: {last}", args[0]);
        Ok(())
    }
}

impl System for JuiceFs {
    fn mount_cold(&mut self, count: usize) -> Result<Vec<PathBuf>> {
        self.peer.mount_cold(count)
    }

    fn unmount(&mut self) {
        self.peer.unmount();
    }

    fn publish(&mut self, folder: &Path) -> Result<()> {
        self.unmount();
        drop(self.redis.take());
        empty(&self.objects)?;
        self.start_redis()?;
        let (access, secret) = s3::KEYS;
        self.run(&[
            "format",
            "--storage",
            "s3",
            "--bucket",
            &self.bucket_url,
            "--access-key",
            access,
            "--secret-key",
            secret,
            "--trash-days",
            "0",
            &self.metadata_url,
            VOLUME,
        ])?;
        let from = format!("{}/", self.origin.join(folder).display());
        self.run(&["sync", "--dirs", &from, &format!("jfs://{VOLUME}/{}/", folder.display())])
    }
}

/// Caches as users are told to set them, and read-ahead that suits a long link.
fn mount(metadata_url: &str, at: &Path, cache: &Path) -> Command {
    let mut command = Command::new("juicefs");
    command
        .arg("mount")
        .arg(metadata_url)
        .arg(at)
        .arg("--cache-dir")
        .arg(cache)
        .args(["--read-only", "--no-usage-report"]);
    command.args([
        "--attr-cache",
        "60",
        "--entry-cache",
        "60",
        "--dir-entry-cache",
        "60",
        "--open-cache",
        "60",
    ]);
    command.args([
        "--open-cache-limit",
        "0",
        "--prefetch",
        "4",
        "--buffer-size",
        "1024",
        "--max-readahead",
        "256",
    ]);
    command.args(["--no-bgjob", "--backup-meta", "0", "--log", "/dev/null"]);
    command
}
