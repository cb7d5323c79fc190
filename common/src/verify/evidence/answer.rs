//! The answer to somebody who asks about a file: text, JSON and exit code, alike in every program.

use std::fmt;

use serde_json::{Value, json};

use super::{Difference, Report, Tally, Trust, verify};

/// What a file is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer(pub Result<Report, Difference>);

impl Answer {
    /// Checks a file.
    #[must_use]
    pub fn of(file: &[u8], trust: &[Trust], tally: Option<&Tally>) -> Self {
        Self(verify(file, trust, tally))
    }

    /// 0: everything stands, borne out from outside. 1: something differs. 9: the file agrees with itself,
    /// and nothing that was given bears it out.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match &self.0 {
            Ok(report) if report.standing.authenticated => 0,
            Ok(_) => 9,
            Err(_) => 1,
        }
    }

    /// As one object.
    #[must_use]
    pub fn json(&self) -> Value {
        match &self.0 {
            Ok(report) => json!({
                "verified": true,
                "authenticated": report.standing.authenticated,
                "report": report,
            }),
            Err(difference) => json!({ "verified": false, "difference": difference }),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(report) => report.fmt(f),
            Err(Difference { step, subject, why }) => writeln!(
                f,
                "differs: step {step}\n    {subject}\n    {why}\nNothing after this step was checked."
            ),
        }
    }
}
