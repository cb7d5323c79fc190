//! The figures that scrapes get, and the task that answers them.

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::error::RunError;
use super::meter::Meter;
use crate::config::Config;
use crate::figures::Figures;
use crate::metrics;
use crate::ship::ShipEvent;

/// The task that answers scrapes; ends with this.
#[derive(Default)]
pub(super) struct Scrapes(Option<JoinHandle<()>>);

impl Scrapes {
    pub(super) async fn start(
        config: &Config,
        figures: &watch::Sender<Figures>,
    ) -> Result<Self, RunError> {
        let Some(address) = config.metrics else {
            return Ok(Self(None));
        };
        let listener = metrics::bind(address).await?;
        let serving = metrics::serve(listener, figures.subscribe());
        Ok(Self(Some(tokio::spawn(serving))))
    }
}

impl Drop for Scrapes {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// How things stand, for scrapes.
pub(super) fn note(figures: &mut Figures, meter: &Meter) {
    let buffer = meter.station.buffer().lock();
    let (head, stats) = (buffer.head(), buffer.stats());
    figures.next_seq = head.next;
    figures.covered_through = head.last().map(|_| head.covered_through);
    figures.unreceipted = stats.unreceipted;
    figures.buffer_bytes = stats.bytes;
    figures.journal_alone = stats.journal_alone;
    figures.in_reserve = stats.in_reserve;
    figures.full_in = stats.full_in;
    drop(buffer);
    figures.registers = meter.station.accrual().registers().count() as u64;
}

pub(super) fn count(figures: &mut Figures, event: &ShipEvent) {
    match event {
        ShipEvent::Connected { .. } => {
            figures.connections += 1;
            figures.connected = true;
        }
        ShipEvent::Receipted(_) => figures.receipts += 1,
        ShipEvent::Renewed(_) => figures.renewals += 1,
        ShipEvent::NotRenewed { .. } | ShipEvent::Noticed(_) => {}
        ShipEvent::Waiting { .. } | ShipEvent::StreamOver { .. } => {
            figures.disconnections += 1;
            figures.connected = false;
        }
    }
}
