//! Sealed segments on their way to the reconciler, and receipts on their way back.
//!
//! Owns the conversation: who is talked to, what is sent next, what each answer means. Does not own
//! segments ([`crate::buffer`]), nor when they are sealed (`run`). Nothing is forgotten here before a
//! receipt has been verified (I2).
//!
//! ```text
//! buffer ─▶ session (pure: what next, what does this mean) ─▶ connection (quinn) ══▶ reconciler
//! ```

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tallystick_common::ids::{NodeId, Seq, StoreEpoch, StreamId};
use tallystick_common::keys::{PublicKey, ReceiptKeyCertificate, Signed};
use tallystick_common::receipt::Receipt;
use tallystick_common::time::Timestamp;
use tallystick_common::wire::ALPN_INGEST;
use tokio::sync::watch;

use self::backoff::Backoff;
use self::conversation::{Conversation, Ending};
use self::session::{Party, StreamOver};
use crate::buffer::Handle;

pub mod backoff;
pub mod connection;
mod conversation;
pub mod enroll;
pub mod session;
pub mod tls;

/// Who ships, to whom.
#[derive(Clone)]
pub struct Shipping {
    /// The node.
    pub node: NodeId,
    /// The seed of its TLS key.
    pub tls_seed: [u8; 32],
    /// Its TLS certificate (DER).
    pub certificate: Vec<u8>,
    /// The CA's certificate (DER).
    pub ca: Vec<u8>,
    /// When the node was enrolled: an instant that has certainly passed.
    pub enrolled_at: Timestamp,
    /// Keys that sign receipts, certified by the CA, as known so far.
    pub receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
    /// `host:port` of the reconciler, in the order in which to try.
    pub addresses: Vec<String>,
    /// Shortest wait between attempts.
    pub retry_min: Duration,
    /// Longest wait between attempts.
    pub retry_max: Duration,
    /// How long a stop waits for receipts of what is sealed.
    pub drain: Duration,
}

impl std::fmt::Debug for Shipping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shipping(of {} to {:?})", self.node, self.addresses)
    }
}

/// What happened, for status and for the run loop.
#[derive(Debug, Clone)]
pub enum ShipEvent {
    /// The reconciler said welcome.
    Connected {
        /// Where.
        address: String,
        /// Its clock.
        server_time: Timestamp,
        /// Its store.
        epoch: StoreEpoch,
        /// The keys that sign its receipts, as certified by the CA; to be stored.
        receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
    },
    /// A receipt was verified and stored.
    Receipted(Receipt),
    /// There is no connection; another attempt follows.
    Waiting {
        /// Why.
        why: String,
        /// Whether nothing will change until somebody acts.
        held: bool,
        /// How long.
        retry_in: Duration,
    },
    /// The stream cannot go on. Nothing is shipped until the buffer has another.
    StreamOver {
        /// Which.
        stream: StreamId,
        /// Why.
        why: StreamOver,
    },
}

/// Why shipping cannot begin at all.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The stored CA certificate is damaged.
    #[error("ship: the stored certificate of the authority cannot be used: {0}; enrol again")]
    Authority(rustls::Error),
}

/// Ships until `shutdown` holds true, or nobody holds it any more. What happens is told to `tell`,
/// which must not block.
///
/// # Errors
/// When the identity cannot be used; never because of the reconciler or the network.
pub async fn run(
    shipping: Shipping,
    buffer: Handle,
    tell: impl Fn(ShipEvent) + Send + Sync,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ShipError> {
    let ca = CertificateDer::from(shipping.ca.clone());
    let ca_key = PublicKey(tls::authority_key(&ca).map_err(ShipError::Authority)?);
    let mut backoff = Backoff::new(shipping.retry_min, shipping.retry_max);
    let mut heads = buffer.heads();
    let mut turn = 0;
    while !*shutdown.borrow() {
        let stream = buffer.stream();
        let conversation = Conversation {
            shipping: &shipping,
            party: Party {
                node: shipping.node,
                stream,
                ca: ca_key,
                receipt_keys: shipping.receipt_keys.clone(),
                software: concat!("tallystick-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            address: shipping
                .addresses
                .get(turn % shipping.addresses.len().max(1)),
            buffer: &buffer,
            tell: &tell,
        };
        turn = turn.wrapping_add(1);
        let ending = Box::pin(conversation.hold(&mut backoff, shutdown.clone())).await;
        let (why, held) = match ending {
            Ending::Stopped => return Ok(()),
            Ending::NewStream => continue,
            Ending::StreamOver(why) => {
                tell(ShipEvent::StreamOver { stream, why });
                wait_for_stream(&buffer, stream, &mut shutdown).await;
                continue;
            }
            Ending::Hold(why) => (why, true),
            Ending::Retry(why) => (why, false),
        };
        let retry_in = if held {
            shipping.retry_max
        } else {
            backoff.after_failure(random())
        };
        tell(ShipEvent::Waiting {
            why,
            held,
            retry_in,
        });
        pause(retry_in, &mut shutdown, &mut heads, stream, &buffer).await;
    }
    Ok(())
}

/// The client's side of TLS for every contact after enrolment.
fn tls(shipping: &Shipping) -> Result<rustls::ClientConfig, rustls::Error> {
    let ca = CertificateDer::from(shipping.ca.clone());
    let certificate = CertificateDer::from(shipping.certificate.clone());
    let passed = shipping.enrolled_at.as_micros() / tallystick_common::time::SECOND_US;
    tls::enrolled(&ca, certificate, &shipping.tls_seed, passed, ALPN_INGEST)
}

/// Waits out the delay; a stop or a new stream ends it early.
async fn pause(
    delay: Duration,
    shutdown: &mut watch::Receiver<bool>,
    heads: &mut watch::Receiver<crate::buffer::Head>,
    stream: StreamId,
    buffer: &Handle,
) {
    let over = tokio::time::sleep(delay);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return,
            () = stopped(shutdown) => return,
            changed = heads.changed() => {
                if changed.is_err() || buffer.stream() != stream {
                    return;
                }
            }
        }
    }
}

async fn wait_for_stream(buffer: &Handle, over: StreamId, shutdown: &mut watch::Receiver<bool>) {
    let mut heads = buffer.heads();
    while buffer.stream() == over {
        tokio::select! {
            () = stopped(shutdown) => return,
            changed = heads.changed() => if changed.is_err() { return },
        }
    }
}

/// When a stop is asked for, or nobody is left who could ask.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// For jitter alone; a system without random bytes waits the shortest time.
fn random() -> u64 {
    let mut bytes = [0; 8];
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// The number before, where there is one.
fn before(next: Seq) -> Option<Seq> {
    next.0.checked_sub(1).map(Seq)
}
