//! How a log line is written: `ts=… level=info target=… msg="…" key=value`, one line an event.
//!
//! Owns quoting, so that no value can pass for a field or begin a line of its own. Does not own what is
//! logged, nor where to.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events as logfmt, in the order of their fields, the message first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("ts=")?;
        SystemTime.format_time(&mut writer)?;
        let metadata = event.metadata();
        let level = metadata.level().as_str().to_ascii_lowercase();
        write!(writer, " level={level} target={}", metadata.target())?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "{}{}", fields.message, fields.others)
    }
}

#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: &str) {
        let (into, name) = match field.name() {
            "message" => (&mut self.message, "msg"),
            name => (&mut self.others, name),
        };
        into.push(' ');
        into.push_str(name);
        into.push('=');
        push_quoted(into, value);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// The value as it is where that is plain, in quotation marks otherwise.
fn push_quoted(into: &mut String, value: &str) {
    let plain = |c: char| c.is_alphanumeric() || "-_.:/+@,*()[]{}<>%#&;!?|~^'".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        into.push_str(value);
        return;
    }
    into.push('"');
    for c in value.chars() {
        match c {
            '"' => into.push_str("\\\""),
            '\\' => into.push_str("\\\\"),
            c if c.is_control() => into.extend(c.escape_default()),
            c => into.push(c),
        }
    }
    into.push('"');
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Clone, Default)]
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

    #[test]
    fn an_event_is_one_line_of_fields_whatever_its_values_hold() {
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(Logfmt)
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                count = 3,
                why = "a \"b\"\nlevel=error",
                empty = "",
                "not connected"
            );
        });
        let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let (stamp, rest) = said.split_once(' ').unwrap();
        assert!(stamp.starts_with("ts=2") && stamp.ends_with('Z'), "{stamp}");
        assert_eq!(
            rest,
            "level=warn target=tallystick_common::logfmt::tests msg=\"not connected\" count=3 \
             why=\"a \\\"b\\\"\\nlevel=error\" empty=\"\"\n"
        );
    }
}
