//! Sealed segments on their way to the reconciler, and receipts on their way back.
//!
//! Owns the conversation: who is talked to, what is sent next, what each answer means. Does not own
//! segments ([`crate::buffer`]), nor when they are sealed (`run`). Nothing is forgotten here before a
//! receipt has been verified (I2).
//!
//! ```text
//! buffer ─▶ session (pure: what next, what does this mean) ─▶ connection (QUIC, TCP) ══▶ reconciler
//! ```
//!
//! Beside it: `renewal` of the node's certificate, `authorities` that are believed, `standing` (what of all
//! that changes while shipping).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tallystick_common::ids::{NodeId, Seq, StoreEpoch, StreamId};
use tallystick_common::keys::{
    AuthorityRetirement, AuthoritySuccession, ReceiptKeyCertificate, SecretKey, Signed,
};
use tallystick_common::receipt::Receipt;
use tallystick_common::time::Timestamp;
use tallystick_common::wire::{InForce, Notice, Renewed};
use tokio::sync::watch;

use self::backoff::Backoff;
use self::connection::Transport;
use self::conversation::{Conversation, Ending};
use self::session::{Party, StreamOver};
use self::standing::Standing;
use crate::buffer::Handle;

pub mod authorities;
pub mod backoff;
pub mod connection;
mod conversation;
pub mod enroll;
pub mod renewal;
pub mod session;
mod standing;
pub mod tls;

pub(crate) use standing::merged;

/// What this software calls itself.
pub(crate) const SOFTWARE: &str = concat!("tallystick-agent ", env!("CARGO_PKG_VERSION"));

/// Who ships, to whom.
#[derive(Clone)]
pub struct Shipping {
    /// The node.
    pub node: NodeId,
    /// The seed of its TLS key.
    pub tls_seed: [u8; 32],
    /// Its TLS certificate (DER).
    pub certificate: Vec<u8>,
    /// The certificate (DER) of the authority it enrolled with.
    pub ca: Vec<u8>,
    /// Each authority's word for the next, as known so far.
    pub successions: Vec<Signed<AuthoritySuccession>>,
    /// Which of them are trusted no longer.
    pub retirements: Vec<Signed<AuthorityRetirement>>,
    /// When the node was enrolled: an instant that has certainly passed.
    pub enrolled_at: Timestamp,
    /// Keys that sign receipts, certified by the CA, as known so far.
    pub receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
    /// `host:port` of the reconciler, in the order in which to try.
    pub addresses: Vec<String>,
    /// Whether they are the operator's, and the reconciler's word on them does not count.
    pub addresses_fixed: bool,
    /// What the node meters by, for the reconciler to know.
    pub in_force: watch::Receiver<InForce>,
    /// How long TCP is used, where QUIC did not get through, before that is tried again.
    pub probe_quic_after: Duration,
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
        /// How.
        transport: Transport,
        /// Its clock.
        server_time: Timestamp,
        /// Its store.
        epoch: StoreEpoch,
        /// The keys that sign its receipts, as certified by the CA; to be stored.
        receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
    },
    /// A receipt was verified and stored.
    Receipted(Receipt),
    /// The node has a new certificate; to be stored.
    Renewed(Renewed),
    /// There is no new certificate yet; the old one still holds.
    NotRenewed {
        /// Why.
        why: String,
    },
    /// What holds now: whom to trust, where to connect, how to meter; to be stored.
    Noticed(Notice),
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
    let mut standing = Standing::of(&shipping).map_err(ShipError::Authority)?;
    let mut backoff = Backoff::new(shipping.retry_min, shipping.retry_max);
    let mut heads = buffer.heads();
    while !*shutdown.borrow() {
        let stream = buffer.stream();
        let ending = tokio::select! {
            () = stopped(&mut shutdown) => return Ok(()),
            renewed = renew(&shipping, &mut standing, &tell) => renewed,
        };
        let ending = match ending {
            Some(ending) => ending,
            None => {
                let conversation = Conversation {
                    shipping: &shipping,
                    party: Party {
                        node: shipping.node,
                        stream,
                        authorities: standing.authorities.trusted_keys(),
                        receipt_keys: standing.receipt_keys.clone(),
                        software: SOFTWARE.to_owned(),
                    },
                    standing: &mut standing,
                    buffer: &buffer,
                    tell: &tell,
                };
                Box::pin(conversation.hold(&mut backoff, shutdown.clone())).await
            }
        };
        let (why, held) = match ending {
            Ending::Stopped => return Ok(()),
            Ending::NewStream | Ending::Better | Ending::Renew(false) => continue,
            Ending::Renew(true) => {
                standing.renewal.handle_expired();
                continue;
            }
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

/// Renews the certificate if that is due. Says how it goes on only where the old one is of no use.
async fn renew(
    shipping: &Shipping,
    standing: &mut Standing,
    tell: &impl Fn(ShipEvent),
) -> Option<Ending> {
    let wall = wall_seconds();
    if !standing.renewal.is_due(wall, Instant::now()) {
        return None;
    }
    match Box::pin(renewal::renew(shipping, standing)).await {
        Ok(renewed) => {
            standing.take(&renewed);
            tell(ShipEvent::Renewed(renewed));
            None
        }
        Err(error) => {
            let needed = standing.renewal.is_needed(wall);
            let why = format!("renew this node's certificate: {error}");
            standing.renewal.handle_failure(Instant::now(), random());
            if !needed {
                tell(ShipEvent::NotRenewed { why });
                return None;
            }
            Some(if error.needs_action() {
                Ending::Hold(why)
            } else {
                Ending::Retry(why)
            })
        }
    }
}

impl Shipping {
    fn tls_public(&self) -> [u8; 32] {
        SecretKey::from_seed(&self.tls_seed).public().0
    }
}

/// Seconds since 1970 by the wall clock; 0 before.
pub(crate) fn wall_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
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
