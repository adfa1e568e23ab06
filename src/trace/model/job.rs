//! Whose work a process is: the batch job that its environment tells.

use globalfs_proto::TraceName;

/// The variables that are looked at.
const SYSTEMS: [System; 3] = [
    System {
        name: "SLURM_JOB_NAME",
        id: "SLURM_JOB_ID",
        task: "SLURM_ARRAY_TASK_ID",
        user: "SLURM_JOB_USER",
    },
    System { name: "PBS_JOBNAME", id: "PBS_JOBID", task: "PBS_ARRAY_INDEX", user: "PBS_O_LOGNAME" },
    System { name: "LSB_JOBNAME", id: "LSB_JOBID", task: "LSB_JOBINDEX", user: "LSFUSER" },
];

/// How a batch system tells a job.
struct System {
    name: &'static str,
    id: &'static str,
    task: &'static str,
    user: &'static str,
}

/// A run of a batch job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Job {
    /// The name of its trace: the same for each run, and for each task of an array another.
    pub trace: TraceName,
    /// Which run, as the batch system numbers them.
    pub id: String,
}

impl Job {
    /// The job to which a process belongs whose variables `value` gives and whose user has the number `uid`.
    pub fn of<'e>(value: impl Fn(&str) -> Option<&'e str>, uid: u32) -> Option<Self> {
        let given = |name: &str| value(name).filter(|text| !text.is_empty());
        let system = SYSTEMS.iter().find(|system| given(system.name).is_some())?;
        let user = [system.user, "USER", "LOGNAME"].into_iter().find_map(given);
        let user = user.map_or_else(|| format!("uid{uid}"), str::to_owned);
        // LSF gives 0 to a job that is no array.
        let task = given(system.task).filter(|task| *task != "0" || !system.task.starts_with("LSB"));
        let parts: Vec<&str> = given(system.name).into_iter().chain(task).collect();
        let id = given(system.id).unwrap_or_default();
        Some(Self {
            trace: TraceName::of_job(&user, &parts),
            id: format!("{id}/{}", task.unwrap_or_default()),
        })
    }

    /// The number of the run, the same at every node that works on it.
    pub fn run(&self) -> u64 {
        number_of(self.trace.as_str().bytes().chain([0]).chain(self.id.bytes()))
    }
}

/// FNV-1a, 64 bits.
fn number_of(bytes: impl Iterator<Item = u8>) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_known_by_their_environment() {
        let check = |environment: &[(&str, &str)], want: Option<(&str, &str)>| {
            let value = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
            let job = Job::of(value, 7);
            assert_eq!(job.as_ref().map(|job| (job.trace.as_str(), job.id.as_str())), want);
        };
        check(&[("USER", "alice")], None);
        check(&[("SLURM_JOB_NAME", "")], None);
        check(
            &[("SLURM_JOB_NAME", "train"), ("SLURM_JOB_ID", "12"), ("USER", "alice")],
            Some(("job/alice/train", "12/")),
        );
        check(
            &[("SLURM_JOB_NAME", "t x"), ("SLURM_JOB_ID", "12"), ("SLURM_ARRAY_TASK_ID", "0")],
            Some(("job/uid7/t_x/0", "12/0")),
        );
        check(&[("PBS_JOBNAME", "p"), ("PBS_JOBID", "3.host")], Some(("job/uid7/p", "3.host/")));
        check(
            &[("LSB_JOBNAME", "l"), ("LSB_JOBID", "9"), ("LSB_JOBINDEX", "0"), ("LSFUSER", "bob")],
            Some(("job/bob/l", "9/")),
        );
    }

    #[test]
    fn runs_have_numbers() {
        let job = |id: &str| Job { trace: TraceName::new("job/a/b").unwrap(), id: id.into() };
        assert_eq!(job("1").run(), job("1").run());
        assert_ne!(job("1").run(), job("2").run());
    }
}
