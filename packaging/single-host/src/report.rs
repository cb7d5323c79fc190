//! What `up` says: lines for people, or one JSON object a line.

use std::io::Write as _;

use serde_json::{Value, json};

/// Where the words go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    /// One JSON object a line.
    pub(crate) json: bool,
}

impl Report {
    /// Says that something was done.
    pub(crate) fn done(self, event: &str, words: &str, details: Value) {
        if self.json {
            let mut object = json!({ "event": event });
            if let (Some(object), Value::Object(details)) = (object.as_object_mut(), details) {
                object.extend(details);
            }
            say(&object.to_string());
        } else {
            say(words);
        }
    }
}

/// A reader that has gone is no reason to stop metering.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
