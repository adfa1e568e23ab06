//! Reads a daemon's `/metrics` page.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a daemon may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// One reading of a daemon's metrics: `name{labels}` -> value.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Asks the daemon whose metrics are served at `address`.
    pub fn fetch(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
        Ok(Self::parse(body))
    }

    fn parse(body: &str) -> Self {
        let lines = body.lines().filter(|line| !line.starts_with('#'));
        let values = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(values.collect())
    }

    /// The sum over all label sets of the metric `name`; 0 when there is none.
    pub fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, "")
    }

    /// The sum over the label sets of `name` that contain the text `label`, such as `src="onprem"`.
    pub fn sum_where(&self, name: &str, label: &str) -> f64 {
        let of_name =
            |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.0.iter().filter(|(key, _)| of_name(key) && key.contains(label)).map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_labels() {
        let metrics = Metrics::parse("# HELP x\nx{a=\"1\"} 2\nx{a=\"2\"} 3\nxy 100\nz 1e3\n");
        assert_eq!(metrics.sum("x"), 5.0);
        assert_eq!(metrics.sum_where("x", "a=\"2\""), 3.0);
        assert_eq!(metrics.sum("z"), 1000.0);
        assert_eq!(metrics.sum("nothing"), 0.0);
    }
}
