//! `tallystick-agent report`: one event, from a script to the running agent.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::client::{Call, Reply, exchange};
use crate::config::Config;
use crate::config::intake::{AppUnit, Target};

/// What is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the application meter.
    pub meter: String,
    /// How much, a whole number.
    pub value: String,
    /// Whose; the caller's own without it.
    pub workload: Option<String>,
    /// Under which a repetition is known; drawn without it.
    pub id: Option<String>,
    /// In which unit.
    pub unit: AppUnit,
}

/// Why a report was not counted.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No agent listens.
    #[error(
        "no agent listens on {}: is it running, with intake.enabled? --config or --data say which one is meant", list(.0)
    )]
    Nobody(Vec<PathBuf>),
    /// The connection: whether it was counted is not known.
    #[error("report to {path}: {source}; repeat it with --id {id}, it is counted once")]
    Connection {
        /// The socket.
        path: PathBuf,
        /// Under which it was reported.
        id: String,
        /// What the system said.
        source: io::Error,
    },
    /// The agent did not take it.
    #[error("not counted: {0}")]
    Refused(String),
    /// No random bytes.
    #[error("draw an id: {0}; give one with --id")]
    Random(getrandom::Error),
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(" or ")
}

impl Report {
    /// Sends it to the agent of `config`: what a person is told when it is durable.
    ///
    /// # Errors
    /// When it was not counted.
    pub async fn send(&self, config: &Config) -> Result<String, SendError> {
        let id = self.id()?;
        let body = self.event(&id).to_string();
        let call = Call {
            method: "POST",
            headers: &["content-type: application/cloudevents+json"],
            body: body.as_bytes(),
        };
        let sockets = config.intake.look_at(&config.data);
        for path in &sockets {
            let target = Target::Unix(path.clone(), "/v1/events".to_owned());
            match exchange(&target, &call).await {
                Ok(reply) => return told(&reply),
                Err(error) if is_nobody(&error) => {}
                Err(source) => {
                    let path = path.clone();
                    return Err(SendError::Connection { path, id, source });
                }
            }
        }
        Err(SendError::Nobody(sockets))
    }

    fn id(&self) -> Result<String, SendError> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(SendError::Random)?;
        Ok(data_encoding::HEXLOWER.encode(&bytes))
    }

    fn event(&self, id: &str) -> Value {
        let mut event = json!({
            "specversion": "1.0",
            "id": id,
            "source": "tallystick-agent/report",
            "type": "report",
            "data": { "meter": self.meter, "value": self.value, "unit": self.unit },
        });
        if let Some(workload) = &self.workload {
            event["subject"] = json!(workload);
        }
        event
    }
}

fn is_nobody(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused
}

fn told(reply: &Reply) -> Result<String, SendError> {
    match reply.status {
        202 => Ok("counted".to_owned()),
        200 => Ok("counted before".to_owned()),
        status => {
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            let detail = body["detail"].as_str().map(str::to_owned);
            Err(SendError::Refused(
                detail.unwrap_or_else(|| format!("status {status}")),
            ))
        }
    }
}
