//! What samples and seals, on a thread that may wait for the disk.

use std::path::{Path, PathBuf};

use tallystick_common::ids::StreamId;

use super::error::RunError;
use super::{now, random};
use crate::buffer::{self, Buffer, Handle};
use crate::config::Config;
use crate::identity::Identity;
use crate::intake::desk::Desk;
use crate::sample::Sampler;
use crate::station::Station;
use crate::status::Status;
use crate::tally::{Tally, TallyError};

/// The stream that is to follow it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    pub(super) stream: StreamId,
    pub(super) lives_on: bool,
}

/// What samples and seals; moves to a blocking thread and back.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) sampler: Sampler,
    pub(super) station: Station,
    /// Where that was counted is remembered.
    pub(super) intake: PathBuf,
    /// Counts what applications report; `None` when they may not, or it cannot be opened.
    pub(super) desk: Option<Desk>,
    /// The last batch of reports in the registers; none when they were not found.
    pub(super) counted: Option<u64>,
    tally: Tally,
    notes: Vec<String>,
    /// Why the last seal failed; a log says it once.
    pub(super) unsealed: Option<String>,
}

pub(super) fn start(
    config: &Config,
    identity: &Identity,
    data: &Path,
) -> Result<(Meter, Status), RunError> {
    let settings = buffer::Settings {
        limit_bytes: config.buffer.limit_bytes,
        ..buffer::Settings::default()
    };
    let stream = StreamId(random()?);
    let (buffer, recovered) = Buffer::open(&data.join("buffer"), settings, stream)?;
    let mut status = Status::new(identity);
    for report in &recovered.reports {
        tracing::warn!(%report, "the buffer was mended");
        status.mended.push(report.to_string());
    }
    tracing::info!(node = %identity.node(), stream = %recovered.stream, next = %recovered.head.next, "metering begins");
    let station = Station::new(
        identity.node(),
        identity.signing_key(),
        config.accrual(&identity.signing_key(), identity.enrolment.record.at),
        Handle::new(buffer),
        recovered.state.as_deref(),
    )?;
    Ok((
        Meter {
            sampler: Sampler::new(config)?,
            counted: station
                .accrual()
                .accounted_through()
                .map(|_| station.accrual().batch()),
            station,
            intake: data.join("intake"),
            desk: None,
            tally: Tally::open(data)?,
            notes: Vec::new(),
            unsealed: None,
        },
        status,
    ))
}

impl Meter {
    pub(super) fn work(&mut self, seed: Option<[u8; 32]>, new_stream: Option<Next>) -> Vec<String> {
        let mut troubles = Vec::new();
        if let Some(next) = new_stream
            && let Err(error) = self.begin_stream(next)
        {
            tracing::error!(%error, "no new stream could be begun");
            troubles.push(error.to_string());
        }
        let sample = self.sampler.sample();
        self.tell_new(sample.notes.iter().map(ToString::to_string).collect());
        self.station.observe(&sample);
        if let Some(seed) = seed {
            self.seal(seed);
            if let Err(error) = self.keep_tally() {
                tracing::warn!(%error, "the tally was not kept");
                troubles.push(error.to_string());
            }
        }
        troubles.extend(self.unsealed.clone());
        troubles.extend(self.notes.iter().cloned());
        troubles.extend(self.counters_that_fell());
        let refused = self.station.accrual().refused();
        if refused > 0 {
            troubles.push(format!(
                "the register limit is reached, {refused} times something was not metered by itself: raise registers.limit or select fewer workloads"
            ));
        }
        troubles
    }

    fn begin_stream(&mut self, next: Next) -> Result<(), RunError> {
        if next.lives_on {
            // First: should the rest fail, too little is billed and not too much.
            match &mut self.desk {
                Some(desk) => desk.forget_series(&self.station, now())?,
                None => Desk::forget_all(&self.intake)?,
            }
        }
        Ok(self.station.begin_stream(next.stream, next.lives_on)?)
    }

    fn seal(&mut self, seed: [u8; 32]) {
        let error = self.station.seal(seed).err().map(|error| error.to_string());
        match (&self.unsealed, &error) {
            (None, Some(error)) => tracing::error!(%error, "nothing is sealed"),
            (Some(_), None) => tracing::warn!("sealing goes on"),
            _ => {}
        }
        self.unsealed = error;
    }

    fn counters_that_fell(&self) -> Option<String> {
        let accrual = self.station.accrual();
        let (slips, resets) = (accrual.slips(), accrual.resets());
        (slips + resets > 0).then(|| {
            format!(
                "since the start counters were {slips} times below their highest value, which bills nothing until they are past it, \
                 and {resets} times began anew, which closes their registers"
            )
        })
    }

    pub(super) fn keep_tally(&mut self) -> Result<(), TallyError> {
        let closed = self.station.take_closed();
        let (stream, head, receipt) = {
            let buffer = self.station.buffer().lock();
            let receipt = self.tally.wants_receipt().then(|| {
                let receipt = buffer.last_receipt().cloned();
                receipt.zip(buffer.receipted_time())
            });
            (buffer.stream(), buffer.head(), receipt.flatten())
        };
        if head.last().is_some() {
            let registers = self.station.accrual().registers();
            self.tally.sealed(stream, &head, registers, closed)?;
        }
        match receipt {
            Some((receipt, covered_through)) => self.tally.receipted(&receipt, covered_through),
            None => Ok(()),
        }
    }

    /// Sampling says the same for as long as it holds; a log says it once.
    fn tell_new(&mut self, notes: Vec<String>) {
        for note in notes.iter().filter(|note| !self.notes.contains(note)) {
            tracing::warn!(%note, "sampling");
        }
        self.notes = notes;
    }
}
