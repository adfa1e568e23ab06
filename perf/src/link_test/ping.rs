//! Round trips as `ping` of the near side measures them.

use super::prefer_this_thread;
use crate::wan::Wan;
use anyhow::{Context, Result, ensure};
use std::time::Duration;

/// What `ping` tells.
#[derive(Debug, Clone, Copy)]
pub struct RoundTrips {
    /// Answers that came.
    pub answers: u32,
    /// The mean.
    pub mean_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// Sends `count` requests, one each `interval`.
pub fn ping(wan: &Wan, count: u32, interval: Duration) -> Result<RoundTrips> {
    prefer_this_thread();
    let (count, interval) = (count.to_string(), format!("{:.3}", interval.as_secs_f64()));
    let mut command = wan.near().command("ping");
    command.args(["-q", "-n", "-W", "1", "-c", &count, "-i", &interval, &wan.far().address().to_string()]);
    let output = command.env("LC_ALL", "C").output()?;
    // Without an answer it ends with 1, without being there nsenter ends with 127.
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code().is_some_and(|code| code <= 1), "ping (package iputils-ping): {error}");
    parse(&text).with_context(|| format!("cannot read what ping says:\n{text}\n{error}"))
}

fn parse(text: &str) -> Option<RoundTrips> {
    let answers = text.split(" received").next()?.rsplit(' ').next()?.parse().ok()?;
    let Some(times) = text.split("min/avg/max/mdev = ").nth(1) else {
        return (answers == 0).then_some(RoundTrips { answers, mean_ms: 0.0, max_ms: 0.0 });
    };
    let mut times = times.split('/').map(|time| time.parse().ok());
    Some(RoundTrips { answers, mean_ms: times.nth(1)??, max_ms: times.next()?? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_answers_and_none() {
        let some = "5 packets transmitted, 4 received, 20% packet loss, time 6ms\n\
                    rtt min/avg/max/mdev = 0.019/0.045/0.292/0.037 ms, pipe 2\n";
        let trips = parse(some).unwrap();
        assert_eq!((trips.answers, trips.mean_ms, trips.max_ms), (4, 0.045, 0.292));
        let none = "5 packets transmitted, 0 received, 100% packet loss, time 6ms\n\n";
        assert_eq!(parse(none).unwrap().answers, 0);
        assert!(parse("ping: unknown host").is_none());
    }
}
