//! Logs and metrics of all programs.
//!
//! *Invariant:* logs go to stderr and nowhere else, so that stdout belongs to what a command prints.

pub mod format;
pub mod metrics;

use format::{JsonFields, JsonLines};
use std::fmt;
use std::io::{self, IsTerminal};
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry};

/// What is logged when `RUST_LOG` is not set: our own events, and of the libraries only what is wrong.
const DEFAULT_FILTER: &str = "info,quinn=warn,quinn_proto=warn,quinn_udp=warn,rustls=warn,h2=warn,hyper=warn,\
                              hyper_util=warn,tonic=warn,tower=warn,fjall=warn,lsm_tree=warn";

/// The program that a log line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// `globalfs coordinator start`.
    Coordinator,
    /// `globalfs site start`.
    Site,
    /// A mount.
    Mount,
    /// Every other command.
    Command,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    Text,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The user has to mend the variable.
    #[error("RUST_LOG is not a log filter: {0}")]
    Filter(String),
    /// [`init`] was called before in this process.
    #[error("logging was set up before")]
    Twice,
}

/// Starts logging to stderr. Without a format, people at a terminal get text and all others JSON.
pub fn init(component: Component, format: Option<LogFormat>) -> Result<(), TelemetryError> {
    let format = format.unwrap_or_else(|| LogFormat::suited(io::stderr().is_terminal()));
    let subscriber = subscriber(component, format, filter()?, io::stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)
}

impl Component {
    /// The name in the field `component`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Site => "site",
            Self::Mount => "mount",
            Self::Command => "command",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl LogFormat {
    fn suited(terminal: bool) -> Self {
        if terminal { Self::Text } else { Self::Json }
    }
}

fn filter() -> Result<EnvFilter, TelemetryError> {
    let text = std::env::var("RUST_LOG").unwrap_or_default();
    let text = if text.trim().is_empty() { DEFAULT_FILTER } else { &text };
    EnvFilter::builder().parse(text).map_err(|error| TelemetryError::Filter(error.to_string()))
}

fn subscriber<W>(
    component: Component,
    format: LogFormat,
    filter: EnvFilter,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Json => {
            let layer = layer.fmt_fields(JsonFields).event_format(JsonLines::new(component));
            Box::new(Registry::default().with(filter).with(layer))
        }
        LogFormat::Text => {
            let layer = layer.with_ansi(io::stderr().is_terminal()).with_target(false).compact();
            Box::new(Registry::default().with(filter).with(layer))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, write: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            subscriber(Component::Coordinator, format, EnvFilter::new(filter), move || writer.clone());
        tracing::subscriber::with_default(subscriber, write);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn json(write: impl FnOnce()) -> serde_json::Value {
        let line = logged(LogFormat::Json, DEFAULT_FILTER, write);
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "one line: {line}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn json_lines_have_the_fields_of_the_design() {
        let line = json(|| {
            tracing::info!(
                event = "replication_started",
                job_id = "job-5678",
                files = 15,
                total_bytes = 10_737_418_240_u64
            );
        });
        let timestamp = line["timestamp"].as_str().unwrap();
        assert!(timestamp.ends_with('Z') && timestamp.parse::<jiff::Timestamp>().is_ok(), "{timestamp}");
        let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 7, "{keys:?}");
        assert_eq!((&line["level"], &line["component"]), (&"info".into(), &"coordinator".into()));
        assert_eq!(line["event"], "replication_started");
        assert_eq!((&line["job_id"], &line["files"]), (&"job-5678".into(), &15.into()));
        assert_eq!(line["total_bytes"], 10_737_418_240_u64);
    }

    #[test]
    fn the_message_is_the_event_unless_a_field_names_it() {
        assert_eq!(json(|| tracing::warn!("disk \"full\"\n"))["event"], "disk \"full\"\n");
        let both = json(|| tracing::error!(event = "e", error = %"no\u{1}route", fine = false, "text"));
        assert_eq!((&both["event"], &both["message"]), (&"e".into(), &"text".into()));
        assert_eq!((&both["error"], &both["fine"]), (&"no\u{1}route".into(), &false.into()));
    }

    #[test]
    fn fields_of_spans_are_flat() {
        let line = json(|| {
            let span = tracing::info_span!("job", job_id = 7, path = tracing::field::Empty);
            span.record("path", "/a");
            let _inside = span.enter();
            tracing::info!(ratio = 0.5, "moved");
        });
        assert_eq!((&line["job_id"], &line["path"]), (&7.into(), &"/a".into()));
        assert_eq!((&line["ratio"], &line["event"]), (&0.5.into(), &"moved".into()));
    }

    #[test]
    fn libraries_are_quiet() {
        let noise = || tracing::info!(target: "quinn::connection", "drop");
        assert_eq!(logged(LogFormat::Json, DEFAULT_FILTER, noise), "");
        let text = logged(LogFormat::Text, DEFAULT_FILTER, || tracing::info!(site = "cloud", "joined"));
        assert!(text.contains("INFO") && text.contains("joined") && text.contains("site"), "{text}");
    }

    #[test]
    fn daemons_write_json_and_people_read_text() {
        assert_eq!((LogFormat::suited(false), LogFormat::suited(true)), (LogFormat::Json, LogFormat::Text));
    }
}
