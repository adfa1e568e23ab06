//! A report as a table for people.

use super::model::Goal;
use super::report::{Figure, Report, Row, SettingReport};
use crate::model::{Better, number};
use crate::systems::OURS;
use crate::table::{peers, ruled};
use std::fmt::Write;

/// The table of one run, and a line about each phase below it.
pub(super) fn of(report: &Report) -> String {
    let peers = peers(|name| report.rows.iter().any(|row| row.systems.contains_key(name)));
    let mut head = vec!["phase", "unit", "local", OURS, "ratio", "goal", "met"];
    head.extend(&peers);
    head.push("to best peer");
    let table = ruled(head, report.rows.iter().map(|row| line(row, &peers)));
    let mut text = format!("\n{}\n{table}\n", title(&report.setting));
    for row in &report.rows {
        let _ = writeln!(text, "{:<18} {}{}", row.phase, row.about, known_for(row));
    }
    text
}

fn title(setting: &SettingReport) -> String {
    let scale =
        if setting.size_scale == 1.0 { String::new() } else { format!(", sizes x {}", setting.size_scale) };
    format!(
        "warm, beside {} of Linux {}; median of {} pairs{scale}; a peer's column is its ratio to the local file \
         system",
        setting.file_system, setting.kernel, setting.rounds
    )
}

fn line(row: &Row, peers: &[&str]) -> Vec<String> {
    let ours = row.systems.get(OURS);
    let shown = |value: Option<f64>| value.map_or("-".into(), number);
    let mut cells = vec![row.phase.to_owned(), row.unit.to_owned()];
    cells.push(shown(ours.and_then(|figure| figure.local)));
    cells.push(ours.map_or("-".into(), |figure| cell(figure, figure.mounted)));
    cells.push(shown(ours.and_then(|figure| figure.ratio)));
    cells.push(row.goal.map_or("-".into(), |goal| aim(goal, row.higher_is_better)));
    let met = row.reaches_goal(OURS).map_or("-", |met| if met { "yes" } else { "**missed**" });
    cells.push(met.to_owned());
    cells.extend(
        peers
            .iter()
            .map(|peer| row.systems.get(peer).map_or("-".into(), |figure| cell(figure, figure.ratio))),
    );
    let best = row.best_peer(OURS);
    cells.push(best.map_or("-".into(), |best| format!("{} {}", number(best.times), best.name)));
    cells
}

fn aim(goal: Goal, higher_is_better: bool) -> String {
    let better = if higher_is_better { Better::Higher } else { Better::Lower };
    match (goal, better) {
        (Goal::OfLocal(goal), Better::Higher) => format!(">= {goal}"),
        (Goal::OfLocal(goal), Better::Lower) => format!("<= {goal}"),
        (Goal::OfBestPeer(goal), _) => format!("{goal} x peer"),
    }
}

fn cell(figure: &Figure, value: Option<f64>) -> String {
    match (value, &figure.failure) {
        (Some(value), _) => number(value),
        (None, Some(reason)) if reason.starts_with('>') => reason.clone(),
        (None, Some(_)) => "fails".into(),
        (None, None) => "-".into(),
    }
}

/// How long ago the names of a phase were last seen on our mount, and why it has no figure there.
fn known_for(row: &Row) -> String {
    let Some(ours) = row.systems.get(OURS) else { return String::new() };
    let known = ours
        .known_for_s
        .map_or(String::new(), |seconds| format!("; each name was seen {} s before", number(seconds)));
    let failure = ours.failure.as_ref().map_or(String::new(), |reason| format!("; {reason}"));
    known + &failure
}

#[cfg(test)]
mod tests {
    use super::super::model::{Phase, Work};
    use super::super::report::Pair;
    use super::*;
    use std::time::Duration;

    fn figure(phase: Phase, mounted: u64) -> Figure {
        let work = |seconds| Work::of(1, 1, Duration::from_secs(seconds));
        Figure::of(phase, vec![Pair { local: work(10), mounted: work(mounted) }], None)
    }

    #[test]
    fn a_line_says_what_is_missed_and_by_whom_it_is_beaten() {
        let failed = Figure { failure: Some("fails: no such file".into()), ..Figure::default() };
        let systems =
            [("globalfs", figure(Phase::Find, 20)), ("sshfs", figure(Phase::Find, 10)), ("s3fs", failed)];
        let row = Row::of(Phase::Find, systems.into());
        let cells = line(&row, &["sshfs", "s3fs"]);
        let want =
            ["find", "s", "10.0", "20.0", "2.00", "<= 1.3", "**missed**", "1.00", "fails", "0.50 sshfs"];
        assert_eq!(cells, want);
        assert_eq!(peers(|name| row.systems.contains_key(name)), ["sshfs", "s3fs"]);
    }
}
