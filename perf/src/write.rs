//! `cargo perf write`: a job at the near site writes below a directory whose home is the far site.

use crate::model::Summary;
use crate::plain_tls::Sending;
use crate::systems::{Bed, GlobalFs};
use crate::wan::{LinkArgs, Wan};
use crate::{build, sandbox};
use anyhow::{Context, Result, bail, ensure};
use globalfs::local::Programs;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const POLICIES: &str = "\
policies:
  - name: results
    pattern: /results/**
    primary: onprem
    sync_mode: async
";

/// Bytes of a small file.
const SMALL: usize = 4096;

/// Bytes of one write to a large file.
const BLOCK: usize = 1 << 20;

/// The same of programs that write little at a time.
const SMALL_BLOCKS: [usize; 2] = [4096, 65_536];

/// Bytes of a file that is written so.
const IN_SMALL_BLOCKS: usize = 32 << 20;

/// What anything may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Files whose appearance at home is timed.
const SEEN: usize = 20;

/// Arguments of `write`.
#[derive(Debug, clap::Args)]
pub struct WriteArgs {
    #[command(flatten)]
    link: LinkArgs,
    /// Small files to create
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    files: usize,
    /// MiB of one large file
    #[arg(long, value_name = "N", default_value_t = 256)]
    mebibytes: usize,
    /// The writer's node sees the origin of its site, and its kernel writes there by itself
    #[arg(long)]
    direct: bool,
    /// How often the large file is written, at each place in turn; medians are told
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Where everything is put meanwhile; by default the directory for temporary files
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The folder of the programs `globalfs` and `globalfs-fuse`; by default they are built
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// The places that are compared.
struct Field {
    /// Where the job writes.
    job: PathBuf,
    /// The same directory as a node of its home sees it.
    seen: PathBuf,
    /// The same in the origin of its home.
    home: PathBuf,
    /// A directory of the local file system.
    local: PathBuf,
}

impl WriteArgs {
    /// Carries the command out.
    pub fn run(self) -> Result<ExitCode> {
        let programs = build::programs(self.programs.as_deref())?;
        let dir = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        sandbox::run(&dir, |scratch| self.over_the_link(scratch, programs))
    }

    fn over_the_link(&self, scratch: &Path, programs: Programs) -> Result<()> {
        let link = self.link.options();
        let wan = Wan::start(link.clone())?;
        let bed = Bed { wan: &wan, is_loopback: false, dir: scratch.to_owned(), programs };
        fs::create_dir_all(bed.origin().join("results"))?;
        let mut cluster = GlobalFs::start_with(&bed, POLICIES)?;
        let near = match self.direct {
            true => cluster.mount_beside_origin("writer", &bed)?,
            false => cluster.mount_at_near("writer")?,
        };
        let far = cluster.mount_at_far("reader")?;
        let field = Field {
            job: near.join("results/job"),
            seen: far.join("results/job"),
            home: bed.origin().join("results/job"),
            local: bed.folder("near", "local")?,
        };
        println!("link {:?}, {:?} bit/s", link.rtt, link.rate_bits_per_s);
        self.first_changes(&field)?;
        self.small_files(&field)?;
        self.large_file(&field, link.rate_bits_per_s)?;
        small_blocks(&field)?;
        self.visibility(&field, link.rtt)
    }

    fn first_changes(&self, field: &Field) -> Result<()> {
        let begun = Instant::now();
        fs::create_dir(&field.job)?;
        let made = begun.elapsed();
        write_small(&field.job.join("first"))?;
        println!(
            "mkdir beside others {made:.1?}, first file in it, with the lease {:.1?}",
            begun.elapsed() - made
        );
        Ok(())
    }

    /// One after the other, as most programs do.
    fn small_files(&self, field: &Field) -> Result<()> {
        let local = self.create(&field.local.join("small"))?;
        let here = self.create(&field.job.join("small"))?;
        let closed = Instant::now();
        let (local_rate, rate) = (rate(&local), rate(&here));
        println!(
            "create + 4 KiB + close: median {:.3} ms, p99 {:.3} ms; local {:.3} and {:.3} ms",
            percentile(&here, 50.0),
            percentile(&here, 99.0),
            percentile(&local, 50.0),
            percentile(&local, 99.0)
        );
        println!(
            "{} files: {rate:.0}/s, local {local_rate:.0}/s: {:.2} of it",
            self.files,
            rate / local_rate
        );
        let names = field.home.join("small");
        until(|| Ok(fs::read_dir(&names).is_ok_and(|names| names.count() == self.files)))?;
        let last = names.join(format!("{}", self.files - 1));
        until(|| Ok(fs::metadata(&last).is_ok_and(|file| file.len() == SMALL as u64)))?;
        println!("all of them are home {:.2?} after the last close", closed.elapsed());
        Ok(())
    }

    /// Milliseconds of each.
    fn create(&self, dir: &Path) -> Result<Vec<f64>> {
        fs::create_dir(dir)?;
        let one = |n: usize| -> Result<f64> {
            let begun = Instant::now();
            write_small(&dir.join(n.to_string()))?;
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        };
        (0..self.files).map(one).collect()
    }

    fn large_file(&self, field: &Field, bits_per_s: Option<u64>) -> Result<()> {
        for sync in [true, false] {
            self.compare_large(field, sync)?;
        }
        let bytes = (self.mebibytes * BLOCK) as f64;
        self.write_large(&field.job.join("large"), false)?;
        let closed = Instant::now();
        let home = field.home.join("large");
        until(|| Ok(fs::metadata(&home).is_ok_and(|file| file.len() == bytes as u64)))?;
        let took = closed.elapsed().as_secs_f64();
        let link = bits_per_s.map_or(f64::NAN, |bits| bits as f64 / 8.0);
        println!(
            "home {took:.2} s after close: {:.1} MB/s, {:.2} of the link",
            bytes / took / 1e6,
            bytes / took / link
        );
        Ok(())
    }

    /// Each file is new and goes before the next one, so that neither place works for the other meanwhile.
    fn compare_large(&self, field: &Field, sync: bool) -> Result<()> {
        let (mut local, mut here, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            for (dir, took) in [(&field.local, &mut local), (&field.job, &mut here)] {
                let path = dir.join("large-compared");
                took.push(self.write_large(&path, sync)?);
                fs::remove_file(path)?;
            }
            let path = field.local.join("large-sent");
            plain.push(self.send_large(&path, sync)?);
            fs::remove_file(path)?;
        }
        let (local, here, plain) =
            (percentile(&local, 50.0), percentile(&here, 50.0), percentile(&plain, 50.0));
        let rate = |seconds: f64| (self.mebibytes * BLOCK) as f64 / seconds / 1e6;
        let how = if sync { "with fsync" } else { "without fsync" };
        println!(
            "sequential write {how}: {:.0} MB/s, local {:.0} MB/s: {:.2} of it, plain TCP + TLS {:.0} MB/s: {:.2}",
            rate(here),
            rate(local),
            local / here,
            rate(plain),
            plain / here
        );
        Ok(())
    }

    /// Seconds.
    fn write_large(&self, path: &Path, sync: bool) -> Result<f64> {
        let mut file = File::create(path)?;
        let took = self.put_large(|block| Ok(file.write_all(block)?))?;
        let begun = Instant::now();
        if sync {
            file.sync_all()?;
        }
        drop(file);
        Ok((took + begun.elapsed()).as_secs_f64())
    }

    /// The same over a connection to who writes it.
    fn send_large(&self, path: &Path, sync: bool) -> Result<f64> {
        let mut sending = Sending::begin(path.to_owned(), sync)?;
        let took = self.put_large(|block| sending.put(block))?;
        let begun = Instant::now();
        sending.end()?;
        Ok((took + begun.elapsed()).as_secs_f64())
    }

    /// What it takes to put all blocks, without making them.
    fn put_large(&self, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<Duration> {
        let (mut block, mut took) = (vec![0; BLOCK], Duration::ZERO);
        for number in 0..self.mebibytes {
            fill(&mut block, number as u64);
            let begun = Instant::now();
            put(&block)?;
            took += begun.elapsed();
        }
        Ok(took)
    }

    fn visibility(&self, field: &Field, rtt: Duration) -> Result<()> {
        let mut took = Vec::new();
        for n in 0..SEEN {
            let name = format!("seen-{n}");
            write_small(&field.job.join(&name))?;
            let closed = Instant::now();
            let seen = field.seen.join(&name);
            until(|| Ok(fs::read(&seen).is_ok_and(|bytes| bytes.len() == SMALL)))?;
            took.push(closed.elapsed().as_secs_f64() * 1e3);
            ensure!(!field.home.join(&name).exists() || n > 0, "it was home before it was seen");
        }
        let (median, worst) = (percentile(&took, 50.0), percentile(&took, 100.0));
        println!(
            "readable at home: median {median:.1} ms after close, at worst {worst:.1} ms; round trip {rtt:?}"
        );
        Ok(())
    }
}

fn small_blocks(field: &Field) -> Result<()> {
    for block in SMALL_BLOCKS {
        let name = format!("blocks-{block}");
        let write = |dir: &Path| write_in_blocks(&dir.join(&name), block);
        let (local, here) = (write(&field.local)?, write(&field.job)?);
        let rate = |seconds: f64| IN_SMALL_BLOCKS as f64 / seconds / 1e6;
        println!(
            "writes of {} KiB: {:.0} MB/s, local {:.0} MB/s: {:.2} of it",
            block / 1024,
            rate(here),
            rate(local),
            local / here
        );
    }
    Ok(())
}

/// Seconds, the close included.
fn write_in_blocks(path: &Path, block: usize) -> Result<f64> {
    let mut content = vec![0; block];
    fill(&mut content, block as u64);
    let begun = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..IN_SMALL_BLOCKS / block {
        file.write_all(&content)?;
    }
    drop(file);
    Ok(begun.elapsed().as_secs_f64())
}

/// Bytes that do not compress and are in no other block.
fn fill(block: &mut [u8], number: u64) {
    let mut random = SmallRng::seed_from_u64(number);
    random.fill_bytes(block);
}

fn write_small(path: &Path) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(file.write_all(&[7; SMALL])?)
}

fn rate(milliseconds: &[f64]) -> f64 {
    milliseconds.len() as f64 / milliseconds.iter().sum::<f64>() * 1e3
}

fn percentile(samples: &[f64], percent: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * percent / 100.0) as usize).min(sorted.len() - 1);
    let median = Summary::of(samples).map_or(f64::NAN, |summary| summary.median);
    if percent == 50.0 { median } else { sorted[at] }
}

fn until(mut reached: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !reached()? {
        if begun.elapsed() > LIMIT {
            bail!("not within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
