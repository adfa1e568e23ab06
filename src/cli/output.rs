//! What commands print: tables and numbers for people, JSON for machines.
//!
//! *Invariant:* results go to stdout through [`Output`], which reports a closed pipe as an error instead of
//! ending in a panic; everything else goes to stderr.

use crate::config::ByteSize;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

/// Where a command's results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Prints JSON if `json`, else text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON is wanted; text for people is left out then.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Prints a line for people; nothing when JSON is wanted.
    pub fn line(self, text: impl Display) -> io::Result<()> {
        if self.json { Ok(()) } else { write_line(text) }
    }

    /// Prints a table for people; nothing when JSON is wanted.
    pub fn table<const N: usize>(self, head: [&str; N], rows: Vec<[String; N]>) -> io::Result<()> {
        self.line(table(head, rows))
    }

    /// Prints `value` as JSON; nothing when people read.
    pub fn json(self, value: &impl Serialize) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        write_line(serde_json::to_string_pretty(value)?)
    }
}

/// Columns without lines around them, as wide as the terminal permits.
pub fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head).add_rows(rows);
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Prints a line on stderr; when stderr is closed too, nobody is left to be told.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A number of bytes for people: `1.5GiB`.
pub fn bytes(count: u64) -> String {
    ByteSize(count).to_string()
}

/// A duration for people, with two units at most: `3m 7s`, `12.4ms`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        _ if seconds >= 60.0 => two_units(duration.as_secs()),
        _ if seconds >= 1.0 => format!("{seconds:.1}s"),
        _ if seconds >= 1e-3 => format!("{:.1}ms", seconds * 1e3),
        _ => format!("{:.0}us", seconds * 1e6),
    }
}

fn two_units(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(length, _)| seconds >= *length).unwrap_or(units.len() - 1);
    let mut left = seconds;
    let parts = units[first..].iter().take(2).filter_map(|(length, unit)| {
        let count = left / length;
        left %= length;
        (count > 0).then(|| format!("{count}{unit}"))
    });
    parts.collect::<Vec<_>>().join(" ")
}

fn write_line(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    written.map_err(|error| io::Error::new(error.kind(), format!("cannot write to stdout: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let check = |ms: f64, want: &str| assert_eq!(duration(Duration::from_secs_f64(ms / 1e3)), want);
        check(0.0, "0us");
        check(0.25, "250us");
        check(12.41, "12.4ms");
        check(1500.0, "1.5s");
        check(187_000.0, "3m 7s");
        check(7_200_000.0, "2h");
        check(90_061_000.0, "1d 1h");
    }

    #[test]
    fn tables_have_aligned_columns() {
        let rows = vec![["onprem".to_owned(), "1".to_owned()], ["c".to_owned(), "22".to_owned()]];
        assert_eq!(table(["SITE", "N"], rows), " SITE    N\n onprem  1\n c       22");
    }
}
