//! Log lines as flat JSON objects: `timestamp`, `level`, `component`, `event`, then the fields.
//!
//! *Invariant:* a line is valid JSON whatever the fields contain, and has no line break inside.

use super::Component;
use serde::Serialize;
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes an event as one line of JSON.
#[derive(Debug, Clone, Copy)]
pub struct JsonLines {
    component: Component,
}

/// Writes fields as `,"name":value`, so that those of spans can be appended to a line as they are.
#[derive(Debug, Clone, Copy)]
pub struct JsonFields;

impl JsonLines {
    /// Lines of `component`.
    pub fn new(component: Component) -> Self {
        Self { component }
    }
}

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fragments::default();
        event.record(&mut fields);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        let (name, message) = match (fields.event, fields.message) {
            (Some(event), message) => (event, message),
            (None, message) => (message.unwrap_or_default(), None),
        };
        write!(writer, r#"{{"timestamp":"{:.3}","level":"{level}""#, jiff::Timestamp::now())?;
        write!(writer, r#","component":"{}","event":{}"#, self.component, json(&name))?;
        if let Some(message) = message {
            write!(writer, r#","message":{}"#, json(&message))?;
        }
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(of_span) = span.extensions().get::<FormattedFields<JsonFields>>() {
                writer.write_str(of_span)?;
            }
        }
        writeln!(writer, "{}}}", fields.others)
    }
}

impl FormatFields<'_> for JsonFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'_>, fields: R) -> fmt::Result {
        let mut fragments = Fragments::default();
        fields.record(&mut fragments);
        writer.write_str(&fragments.others)
    }

    fn add_fields(
        &self,
        current: &mut FormattedFields<Self>,
        fields: &tracing::span::Record<'_>,
    ) -> fmt::Result {
        self.format_fields(current.as_writer(), fields)
    }
}

/// The fields of one event or span.
#[derive(Default)]
struct Fragments {
    event: Option<String>,
    message: Option<String>,
    others: String,
}

impl Fragments {
    fn add(&mut self, field: &Field, value: impl Serialize) {
        self.others += &format!(",{}:{}", json(field.name()), json(value));
    }

    fn add_text(&mut self, field: &Field, text: String) {
        match field.name() {
            "event" => self.event = Some(text),
            "message" => self.message = Some(text),
            _ => self.add(field, text),
        }
    }
}

impl Visit for Fragments {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value.to_owned());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }
}

fn json(value: impl Serialize) -> String {
    serde_json::to_string(&value).expect("text and numbers have a JSON form")
}
