//! The shipping task: with what it is begun, what it tells, how it ends.

use std::time::Duration;

use tallystick_common::wire::InForce;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::buffer::Handle;
use crate::config::Config;
use crate::identity::Identity;
use crate::ship::{self, ShipEvent, Shipping};

/// How long a stop waits for the last receipts.
const DRAIN: Duration = Duration::from_secs(3);
/// How long it waits for shipping to end at all: with the last sample and seal a stop takes at most 5 s.
const LET_GO: Duration = Duration::from_millis(4_500);
/// How long TCP is used, where QUIC did not get through, before that is tried again.
const PROBE_QUIC_AFTER: Duration = Duration::from_secs(600);

pub(super) fn shipping(
    identity: &Identity,
    config: &Config,
    in_force: watch::Receiver<InForce>,
) -> Shipping {
    let enrolment = &identity.enrolment;
    let addresses_fixed = !config.addresses.is_empty();
    let addresses = if addresses_fixed {
        &config.addresses
    } else {
        &enrolment.addresses
    };
    Shipping {
        node: identity.node(),
        tls_seed: enrolment.keys.tls_seed,
        certificate: enrolment.certificate.clone(),
        ca: enrolment.ca.clone(),
        successions: enrolment.successions.clone(),
        retirements: enrolment.retirements.clone(),
        enrolled_at: enrolment.record.at,
        receipt_keys: enrolment.receipt_keys.clone(),
        addresses: addresses.clone(),
        addresses_fixed,
        in_force,
        probe_quic_after: PROBE_QUIC_AFTER,
        retry_min: Duration::from_millis(200),
        retry_max: Duration::from_secs(60),
        drain: DRAIN,
    }
}

/// The shipping task and what it tells.
pub(super) struct Shipper {
    task: JoinHandle<()>,
    pub(super) events: mpsc::UnboundedReceiver<ShipEvent>,
    stop: watch::Sender<bool>,
}

impl Shipper {
    pub(super) fn start(shipping: Shipping, buffer: Handle) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let tell = move |event| {
                // Nobody listens any more only when the agent has stopped.
                let _ = tell.send(event);
            };
            if let Err(error) = ship::run(shipping, buffer, tell, stopped).await {
                tracing::error!(%error, "nothing is shipped");
            }
        });
        Self { task, events, stop }
    }

    /// Lets it drain; gives up a little after it should have.
    pub(super) async fn stop(mut self) {
        let _ = self.stop.send(true);
        if tokio::time::timeout(LET_GO, &mut self.task).await.is_err() {
            tracing::warn!("shipping did not stop in time");
            self.task.abort();
        }
    }
}
