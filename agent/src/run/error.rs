//! Why the agent does not run.

use std::io;
use std::path::PathBuf;

use super::retire::End;
use crate::buffer::BufferError;
use crate::config::Problem;
use crate::identity::IdentityError;
use crate::intake::IntakeError;
use crate::lock::LockError;
use crate::metrics::MetricsError;
use crate::sample::SampleError;
use crate::station::StationError;
use crate::tally::TallyError;

/// Why the agent does not run, or ran no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data folder cannot be made.
    #[error("cannot create the data folder {path}: {source}; choose another with --data")]
    Data {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration.
    #[error("the configuration cannot be run with: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<Problem>),
    /// Nobody has enrolled this host.
    #[error(
        "this host is not enrolled ({0} has no identity): run `tallystick-agent enroll TOKEN` with a token of `tallystick-reconciler token create`"
    )]
    NotEnrolled(PathBuf),
    /// Another agent.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Keys and certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The buffer cannot be opened.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// Nothing could be reported.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// The registers cannot be restored.
    #[error(transparent)]
    Station(#[from] StationError),
    /// The customer's half cannot be kept.
    #[error(transparent)]
    Tally(#[from] TallyError),
    /// The machine cannot be sampled.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The node is retired.
    #[error(
        "this node is retired: segment {} of stream {} is its last and accounts for time up to {}. `tallystick-agent retire --yes` ships what still waits; to meter this host again, enroll it in another data folder",
        .0.seq, .0.stream, .0.covered_through
    )]
    Ended(End),
    /// Whether it is cannot be known, or not be noted.
    #[error("read or write retired.json in the data folder: {0}")]
    Retired(io::Error),
    /// No random bytes.
    #[error("draw random bytes: {0}")]
    Random(getrandom::Error),
    /// The metrics address.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A thread ended.
    #[error("the metering thread ended: {0}")]
    Worker(String),
}
