//! CPU time of the processes of the file system that is measured: of all that run in the sandbox but this one.

use anyhow::Result;
use std::collections::BTreeMap;
use std::fs;

/// CPU time that each process has used so far, in clock ticks, by process number.
#[derive(Debug, Default)]
pub(super) struct CpuTimes(BTreeMap<u32, u64>);

impl CpuTimes {
    /// Those of now. The sandbox has a `/proc` of its own.
    pub(super) fn now() -> Result<Self> {
        let mut times = BTreeMap::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Whoever ends meanwhile is left out.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if let Some(ticks) = ticks_in(&stat).filter(|_| pid != std::process::id()) {
                times.insert(pid, ticks);
            }
        }
        Ok(Self(times))
    }

    /// CPU seconds that were used since `before` by those that still run.
    pub(super) fn seconds_since(&self, before: &Self) -> f64 {
        let since =
            |(pid, ticks): (&u32, &u64)| ticks.saturating_sub(before.0.get(pid).copied().unwrap_or_default());
        let ticks: u64 = self.0.iter().map(since).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }
}

/// User and system time in a line of `/proc/PID/stat`, in which the program's name may have blanks and brackets.
fn ticks_in(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) (b c) S 1 7 7 0 -1 4194560 90 0 0 0 250 37 5 6 20 0 4 0 100 1000 10";
        assert_eq!(ticks_in(stat), Some(287));
        assert_eq!(ticks_in("7 (a) S 1"), None);
        assert_eq!(ticks_in(""), None);
    }

    #[test]
    fn only_what_was_used_since_counts() {
        let before = CpuTimes(BTreeMap::from([(1, 100), (2, 50)]));
        let after = CpuTimes(BTreeMap::from([(1, 130), (3, 20)]));
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(after.seconds_since(&before) * per_second, 50.0);
    }
}
