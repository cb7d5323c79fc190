//! A node's end: a last sample, every register closed in one final segment, and its receipt.
//!
//! ```text
//! DATA/retired.json   which segment was the last, and up to when it accounts for time
//! ```
//!
//! Nothing is metered after it: `run` refuses a data folder whose stream ended. That segment is durable
//! before the file is written; a crash in between is found by reading the last segment.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tallystick_common::ids::{Seq, StreamId};
use tallystick_common::seal::SealedSegment;
use tallystick_common::segment::Purpose;
use tallystick_common::time::{SECOND_US, Timestamp};
use tokio::sync::watch;

use super::{Meter, RunError, Shipper, central, enrolled, now, random, shipping, start, until};
use crate::buffer::Buffer;
use crate::config::Config;
use crate::durable;
use crate::ship::ShipEvent;

/// The end of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The stream.
    pub stream: StreamId,
    /// Its last segment.
    pub seq: Seq,
    /// Up to when it accounts for time.
    pub covered_through: Timestamp,
}

impl End {
    /// The end of the node in `data`, if its file says so.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn load(data: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(data.join("retired.json")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn store(&self, data: &Path) -> io::Result<()> {
        durable::replace_file(&data.join("retired.json"), &serde_json::to_vec(self)?)
    }

    /// As [`Self::load`], else by the last segment there is.
    pub(super) fn find(data: &Path, buffer: &mut Buffer) -> Result<Option<Self>, RunError> {
        if let Some(end) = Self::load(data).map_err(RunError::Retired)? {
            return Ok(Some(end));
        }
        let Some(seq) = buffer.head().last() else {
            return Ok(None);
        };
        let last = buffer.segments_from(seq, 1, usize::MAX).ok();
        let last = last.and_then(|mut found| found.pop());
        let sealed = last.and_then(|last| SealedSegment::parse(last.bytes).ok());
        let ends = sealed.is_some_and(|sealed| sealed.header().purpose == Purpose::Final);
        Ok(ends.then(|| Self {
            stream: buffer.stream(),
            seq,
            covered_through: buffer.head().covered_through,
        }))
    }
}

/// What a retirement came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retirement {
    /// Where it ended.
    pub end: End,
    /// Segments that still wait for their receipt, the last one among them.
    pub unreceipted: u64,
}

/// Ends the node: seals its last segment, unless that was done before, and ships for at most `patience` or
/// until `shutdown` is ready.
///
/// # Errors
/// As [`super::run`]; nothing is ended then unless the error says so.
pub async fn retire(
    config: Config,
    patience: Duration,
    shutdown: impl Future<Output = ()>,
) -> Result<Retirement, RunError> {
    let (_lock, identity) = enrolled(&config)?;
    let data = config.data.clone();
    let central = central::Central::load(&data);
    let (config, problem) = central::effective(&config, central.as_ref());
    let (mut meter, _) = start(&config, &identity, &data)?;
    let found = End::find(&data, &mut meter.station.buffer().lock())?;
    let end = match found {
        Some(end) => end,
        None => meter.end().await?,
    };
    end.store(&data).map_err(RunError::Retired)?;
    let in_force = central::in_force(&config, &identity, central.as_ref(), problem.as_ref());
    let (_in_force, told) = watch::channel(in_force);
    let buffer = meter.station.buffer().clone();
    let mut shipper = Shipper::start(shipping(&identity, &config, told), buffer.clone());
    let waiting = || buffer.lock().stats().unreceipted;
    let receipted = async {
        while waiting() > 0 {
            match shipper.events.recv().await {
                Some(ShipEvent::Waiting { why, .. }) => tracing::warn!(%why, "not connected"),
                Some(_) => {}
                None => break,
            }
        }
    };
    tokio::select! {
        () = receipted => {}
        () = tokio::time::sleep(patience) => {}
        () = shutdown => {}
    }
    shipper.stop().await;
    Ok(Retirement {
        end,
        unreceipted: buffer.lock().stats().unreceipted,
    })
}

impl Meter {
    /// Takes the last sample, later than everything accounted for, and seals it.
    async fn end(&mut self) -> Result<End, RunError> {
        loop {
            let sample = self.sampler.sample();
            self.station.observe(&sample);
            if let Some(head) = self.station.seal_last(random()?)? {
                self.station.buffer().lock().flush()?;
                if let Err(error) = self.keep_tally() {
                    tracing::warn!(%error, "the tally was not kept");
                }
                return Ok(End {
                    stream: self.station.buffer().lock().stream(),
                    seq: head.last().unwrap_or(Seq::FIRST),
                    covered_through: head.covered_through,
                });
            }
            // A clock that was set back has to pass what is accounted for already.
            let behind = self.station.accrual().accounted_through();
            tracing::info!(?behind, "waits for time to pass");
            let due = behind.unwrap_or_else(now).next_multiple(SECOND_US);
            tokio::time::sleep(until(due, SECOND_US)).await;
        }
    }
}
