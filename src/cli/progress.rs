//! How far a long command has come: a bar at a terminal, else a plain line now and then, all on stderr.

use super::output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress of one piece of work, counted in bytes.
#[derive(Debug)]
pub struct Progress {
    title: String,
    total: u64,
    done: u64,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Lines { next: Instant },
}

impl Progress {
    /// Begins work on `total` bytes.
    pub fn begin(title: &str, total: u64) -> Self {
        let form = if io::stderr().is_terminal() {
            Form::Bar(bar(title, total))
        } else {
            Form::Lines { next: Instant::now() + LINE_INTERVAL }
        };
        Self { title: title.to_owned(), total, done: 0, form }
    }

    /// Counts `bytes` more as done.
    pub fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        match &mut self.form {
            Form::Bar(bar) => bar.set_position(self.done),
            Form::Lines { next } if Instant::now() >= *next => {
                *next = Instant::now() + LINE_INTERVAL;
                output::complain(self.text());
            }
            Form::Lines { .. } => {}
        }
    }

    /// Removes the bar, or prints the last line.
    pub fn finish(self) {
        match &self.form {
            Form::Bar(bar) => bar.finish_and_clear(),
            Form::Lines { .. } => output::complain(self.text()),
        }
    }

    fn text(&self) -> String {
        let percent = (self.done as f64 / self.total.max(1) as f64 * 100.0).min(100.0);
        format!(
            "{}: {} of {} ({percent:.0}%)",
            self.title,
            output::bytes(self.done),
            output::bytes(self.total)
        )
    }
}

fn bar(title: &str, total: u64) -> ProgressBar {
    const TEMPLATE: &str =
        "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.with_style(style.progress_chars("=> ")).with_message(title.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_bytes_and_percent() {
        let check = |done, total, want: &str| {
            let form = Form::Lines { next: Instant::now() + LINE_INTERVAL };
            let mut progress = Progress { title: "copy".into(), total, done: 0, form };
            progress.add(done);
            assert_eq!(progress.text(), want);
        };
        check(512, 2048, "copy: 512B of 2KiB (25%)");
        check(5000, 1024, "copy: 4.9KiB of 1KiB (100%)");
        check(0, 0, "copy: 0B of 0B (0%)");
    }
}
