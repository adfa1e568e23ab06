//! A report as a table for people.

use super::report::{Figure, LinkReport, Report, Row};
use crate::model::{Better, number, ratio};
use crate::systems::OURS;
use crate::table::{peers, ruled};
use std::fmt::Write;

/// Most characters of a reason in a cell; the whole stands in the JSON.
const MAX_REASON: usize = 40;

/// The table of one link.
pub(super) fn of(report: &Report) -> String {
    let peers = peers(|name| report.rows.iter().any(|row| row.systems.contains_key(name)));
    let mut head = vec!["phase", "unit", "bound", "goal", OURS, "of bound", "goal met"];
    head.extend(&peers);
    head.push("to best peer");
    let table = ruled(head, report.rows.iter().map(|row| line(row, &peers)));
    let mut text = format!("\n{}\n{table}\n", title(&report.link));
    for row in &report.rows {
        let _ = write!(text, "{:<16} {}", row.phase, row.about);
        let _ = writeln!(text, "{}", row.local_s.map_or(String::new(), |s| format!("; local disk {s:.2} s")));
    }
    text
}

fn title(link: &LinkReport) -> String {
    let rate =
        link.rate_bits_per_s.map_or("no rate limit".into(), |bits| format!("{} Mbit/s", bits / 1_000_000));
    let scale = if link.size_scale == 1.0 { String::new() } else { format!(", sizes x {}", link.size_scale) };
    let (rtt, loss, mtu, rounds) = (link.rtt_ms, link.loss * 100.0, link.mtu, link.rounds);
    format!("{rtt} ms, {rate}, loss {loss} %, MTU {mtu}; median of {rounds} rounds{scale}")
}

fn line(row: &Row, peers: &[&str]) -> Vec<String> {
    let better = if row.higher_is_better { Better::Higher } else { Better::Lower };
    let ours = row.systems.get(OURS);
    let median = ours.and_then(|figure| figure.median);
    let met =
        median.zip(row.goal).map(|(median, goal)| if better.reaches(median, goal) { "yes" } else { "no" });
    let mut cells = vec![row.phase.to_owned(), row.unit.to_owned(), number(row.bound)];
    cells.push(row.goal.map_or("-".into(), number));
    cells.push(ours.map_or("-".into(), cell));
    cells.push(ours.and_then(|figure| figure.of_bound).map_or("-".into(), |of| format!("{of:.2}")));
    cells.push(met.unwrap_or("-").to_owned());
    cells.extend(peers.iter().map(|peer| row.systems.get(peer).map_or("-".into(), cell)));
    let best = row.best_other(OURS).zip(median);
    cells.push(
        best.map_or("-".into(), |((name, best), own)| format!("{:.2} {name}", ratio(own, best, better))),
    );
    cells
}

fn cell(figure: &Figure) -> String {
    match (figure.median, &figure.failure) {
        (Some(median), _) => number(median),
        (None, Some(reason)) => reason.chars().take(MAX_REASON).collect(),
        (None, None) => "-".into(),
    }
}
