//! The sample tree of `onprem`: small, and the same at each run.

use anyhow::Result;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

/// The large file, relative to the tree.
pub(super) const FIELD: &str = "datasets/climate/temperature.f32";
/// Its size.
pub(super) const FIELD_SIZE: u64 = (STEPS * ROWS * COLUMNS * size_of::<f32>()) as u64;
/// An empty directory for what jobs make, relative to the tree.
pub(super) const RESULTS: &str = "results";

const STEPS: usize = 64;
const ROWS: usize = 512;
const COLUMNS: usize = 512;

const STATIONS: [(&str, f32); 4] = [("hamburg", 9.5), ("nairobi", 19.0), ("quito", 13.5), ("tromso", 2.9)];
const DAYS: u32 = 1461;
const MODULES: [&str; 12] = [
    "advection",
    "boundary",
    "clouds",
    "coupling",
    "diffusion",
    "grid",
    "ice",
    "land",
    "ocean",
    "output",
    "radiation",
    "tracers",
];
const FILES_PER_MODULE: u32 = 25;

const README: &str = "\
Climate sample, made by 'globalfs demo'
  datasets/climate/STATION.csv      daily means of four stations
  datasets/climate/temperature.f32  64 steps of a 512 x 512 field, 32-bit floats, little endian
  datasets/current                  a symbolic link to datasets/climate
  models/atmosphere                 a source tree of small files
  results                           what jobs make, at any site
";

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Writes the tree into the directory `root`.
pub(super) fn write(root: &Path) -> Result<Sample> {
    let mut sample = Sample::default();
    fs::create_dir_all(root.join("datasets/climate"))?;
    fs::create_dir(root.join(RESULTS))?;
    sample.file(&root.join("README"), README)?;
    for (n, (station, mean)) in STATIONS.iter().enumerate() {
        let path = root.join(format!("datasets/climate/{station}.csv"));
        sample.file(&path, &station_table(*mean, Noise(n as u32 + 1)))?;
    }
    symlink("climate", root.join("datasets/current"))?;
    write_field(&root.join(FIELD))?;
    (sample.files, sample.bytes) = (sample.files + 1, sample.bytes + FIELD_SIZE);
    sample.model(&root.join("models/atmosphere"))?;
    Ok(sample)
}

impl Sample {
    fn file(&mut self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text)?;
        self.files += 1;
        self.bytes += text.len() as u64;
        Ok(())
    }

    fn model(&mut self, root: &Path) -> Result<()> {
        for (n, module) in MODULES.iter().enumerate() {
            let dir = root.join("src").join(module);
            fs::create_dir_all(&dir)?;
            for part in 0..FILES_PER_MODULE {
                let text = source_text(module, part, Noise(n as u32 * FILES_PER_MODULE + part + 1));
                self.file(&dir.join(format!("{module}_{part:02}.f90")), &text)?;
            }
        }
        self.file(&root.join("namelist.nml"), "&run\n  steps = 64\n  grid = 512, 512\n/\n")
    }
}

fn station_table(mean: f32, mut noise: Noise) -> String {
    let mut text = String::from("day,temperature_c,wind_m_s\n");
    for day in 0..DAYS {
        let season = (day as f32 / 365.25 * std::f32::consts::TAU).cos();
        let (temperature, wind) = (mean - 8.0 * season + noise.next(), 4.0 + noise.next());
        let _ = writeln!(text, "{day},{temperature:.1},{wind:.1}");
    }
    text
}

fn source_text(module: &str, part: u32, mut noise: Noise) -> String {
    let mut text = format!("module {module}_{part:02}\n  implicit none\n");
    for n in 0..40 {
        let _ = writeln!(text, "  real, parameter :: c{n:02} = {:.4}", noise.next());
    }
    text + &format!("end module {module}_{part:02}\n")
}

/// A smooth field with weather on top, in hundredths of a degree as instruments give it.
fn write_field(path: &Path) -> Result<()> {
    /// A prime, so that no two rows are alike.
    const CYCLE: usize = 65_521;
    let mut noise = Noise(2026);
    let weather: Vec<f32> = (0..CYCLE + COLUMNS).map(|_| noise.next()).collect();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for line in 0..STEPS * ROWS {
        let latitude = (line % ROWS) as f32 / ROWS as f32 * std::f32::consts::PI;
        let climate = 28.0 * latitude.sin() - 6.0 + (line / ROWS) as f32 / 8.0;
        let start = line * 7919 % CYCLE;
        let weather = &weather[start..start + COLUMNS];
        let bytes: Vec<u8> = weather.iter().flat_map(|w| hundredths(climate + w).to_le_bytes()).collect();
        file.write_all(&bytes)?;
    }
    Ok(file.flush()?)
}

fn hundredths(value: f32) -> f32 {
    (value * 100.0).round() / 100.0
}

/// Numbers between -3 and 3 that look random (xorshift). Never zero inside.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 % 6001) as f32 / 1000.0 - 3.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_it_says() {
        let scratch = tempfile::tempdir().unwrap();
        let sample = write(scratch.path()).unwrap();
        assert_eq!(fs::metadata(scratch.path().join(FIELD)).unwrap().len(), FIELD_SIZE);
        assert_eq!(sample.files, 1 + 4 + 1 + 12 * 25 + 1);
        assert!(sample.bytes > FIELD_SIZE);
        assert!(fs::metadata(scratch.path().join("datasets/current/quito.csv")).unwrap().len() > 10_000);
    }
}
