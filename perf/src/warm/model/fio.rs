//! What fio says about a job, as JSON.

use super::Work;
use serde::Deserialize;

#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

/// One job; all its threads together, for ours report as a group.
#[derive(Deserialize)]
struct Job {
    jobname: String,
    error: i32,
    read: Reads,
    /// CPU time in percent of `job_runtime`.
    usr_cpu: f64,
    sys_cpu: f64,
    /// The sum over all threads.
    #[serde(rename = "job_runtime")]
    threads_ms: f64,
}

#[derive(Deserialize)]
struct Reads {
    io_bytes: u64,
    total_ios: u64,
    /// Of the thread that took longest.
    #[serde(rename = "runtime")]
    elapsed_ms: f64,
}

/// What the only job in fio's output did, or why it did nothing. Before the JSON there may be warnings.
pub(crate) fn parse_fio(output: &str) -> Result<Work, String> {
    let begin = output.find('{').ok_or_else(|| format!("fio printed no JSON: {:?}", output.trim()))?;
    let parsed: Result<Output, _> = serde_json::from_str(&output[begin..]);
    let jobs = parsed.map_err(|error| format!("fio's JSON is not as expected: {error}"))?.jobs;
    let [job] = &jobs[..] else { return Err(format!("fio reports {} jobs instead of one", jobs.len())) };
    let Job { jobname, error, read, .. } = job;
    if *error != 0 {
        return Err(format!("fio's job {jobname} failed: {}", std::io::Error::from_raw_os_error(*error)));
    }
    if read.total_ios == 0 || read.elapsed_ms <= 0.0 {
        return Err(format!("fio's job {jobname} read too little to be measured"));
    }
    Ok(Work {
        bytes: read.io_bytes,
        operations: read.total_ios,
        elapsed_s: read.elapsed_ms / 1e3,
        reader_cpu_s: Some((job.usr_cpu + job.sys_cpu) / 100.0 * job.threads_ms / 1e3),
        ..Work::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(error: i32, total_ios: u64) -> String {
        format!(
            r#"{{"fio version": "fio-3.33", "jobs": [{{"jobname": "cached", "error": {error}, "elapsed": 2,
            "read": {{"io_bytes": 8192000, "bw_bytes": 4096000, "iops": 1000.0, "runtime": 2000,
            "total_ios": {total_ios}}}, "usr_cpu": 5.0, "sys_cpu": 20.0, "job_runtime": 8000}}]}}"#
        )
    }

    #[test]
    fn a_job_is_read_with_the_cpu_time_of_all_threads() {
        let warned = format!("fio: some warning\n{}", output(0, 2000));
        let work = parse_fio(&warned).unwrap();
        assert_eq!((work.bytes, work.operations, work.elapsed_s), (8_192_000, 2000, 2.0));
        assert_eq!(work.reader_cpu_s, Some(2.0));
    }

    #[test]
    fn what_is_no_measurement_is_told() {
        let check = |output: &str, want: &str| {
            let error = parse_fio(output).unwrap_err();
            assert!(error.contains(want), "{error}");
        };
        check("fio: command not understood\n", "no JSON");
        check("{\"jobs\": [{}]}", "not as expected");
        check("{\"jobs\": []}", "0 jobs");
        check(&output(5, 2000), "Input/output error");
        check(&output(0, 0), "too little");
    }
}
