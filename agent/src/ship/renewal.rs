//! When a node's certificate is renewed, and asking for it.
//!
//! From half of its life on; while it still holds a failed attempt only waits. An expired one is enough to
//! ask: it proves the possession of its key.

use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use tallystick_common::wire::{ALPN_RENEW, Message, Renew, Renewed, Versions};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::backoff::Backoff;
use super::connection::{self, ConnectError};
use super::standing::Standing;
use super::{SOFTWARE, Shipping};

/// Shortest and longest wait after a failed attempt, while the certificate still holds.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// From when until when a certificate holds, in seconds since 1970, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub from: u64,
    /// The last second.
    pub last: u64,
}

impl Validity {
    /// Of a certificate (DER); `None` when the bytes are none.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let second = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
        Some(Self {
            from: second(parsed.validity().not_before)?,
            last: second(parsed.validity().not_after)?,
        })
    }

    /// The second in which half of it has passed.
    #[must_use]
    pub fn half(&self) -> u64 {
        self.from + self.last.saturating_sub(self.from) / 2
    }
}

/// Says when to renew. Pure: both clocks are passed in.
#[derive(Debug, Clone)]
pub struct Renewal {
    validity: Option<Validity>,
    /// The reconciler says it has expired, whatever our clock says.
    told: bool,
    not_before: Option<Instant>,
    backoff: Backoff,
}

impl Renewal {
    /// Of a certificate. One that cannot be read is to be renewed.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        Self {
            validity: Validity::of(certificate),
            told: false,
            not_before: None,
            backoff: Backoff::new(RETRY.0, RETRY.1),
        }
    }

    /// The reconciler took the certificate for expired.
    pub fn handle_expired(&mut self) {
        self.told = true;
        self.not_before = None;
    }

    /// An attempt failed; no other before so long.
    pub fn handle_failure(&mut self, now: Instant, random: u64) {
        self.not_before = Some(now + self.backoff.after_failure(random));
    }

    /// Whether the certificate is good for nothing else any more.
    #[must_use]
    pub fn is_needed(&self, wall_seconds: u64) -> bool {
        self.told || self.validity.is_none_or(|held| wall_seconds > held.last)
    }

    /// Whether to ask now.
    #[must_use]
    pub fn is_due(&self, wall_seconds: u64, now: Instant) -> bool {
        if self.is_needed(wall_seconds) {
            return true;
        }
        let half = self.validity.is_none_or(|held| wall_seconds >= held.half());
        half && self.not_before.is_none_or(|not_before| now >= not_before)
    }

    /// How long from now [`Self::is_due`] should be asked again.
    #[must_use]
    pub fn timeout(&self, wall_seconds: u64, now: Instant) -> Duration {
        let half = self.validity.map_or(0, |held| held.half());
        let until_half = Duration::from_secs(half.saturating_sub(wall_seconds));
        let until_retry = self
            .not_before
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        until_half.max(until_retry)
    }
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenewError {
    /// No answer.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The reconciler says no.
    #[error("{reason}: {detail}")]
    Refused {
        /// Why.
        reason: tallystick_common::wire::RefusalReason,
        /// For people.
        detail: String,
    },
    /// It said something else.
    #[error("the reconciler's answer is not one: {0}")]
    Answer(String),
}

impl RenewError {
    /// Whether asking again soon is of no use.
    pub(super) fn needs_action(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason.is_permanent())
    }
}

/// Asks at one address after the other.
pub(super) async fn renew(shipping: &Shipping, standing: &Standing) -> Result<Renewed, RenewError> {
    let mut last = RenewError::Answer("no address of a reconciler is known".to_owned());
    for address in &standing.addresses {
        match tokio::time::timeout(connection::ANSWER_WITHIN, ask(shipping, standing, address))
            .await
        {
            Ok(Ok(renewed)) => return Ok(renewed),
            Ok(Err(refused @ RenewError::Refused { .. })) => return Err(refused),
            Ok(Err(error)) => last = error,
            Err(_) => last = ConnectError::Slow.into(),
        }
    }
    Err(last)
}

async fn ask(
    shipping: &Shipping,
    standing: &Standing,
    address: &str,
) -> Result<Renewed, RenewError> {
    let tls = standing
        .tls(shipping, ALPN_RENEW)
        .map_err(ConnectError::Tls)?;
    let mut link = connection::connect(address, tls).await?;
    let request = Renew {
        versions: Versions::OURS,
        software: SOFTWARE.to_owned(),
        node: shipping.node,
    };
    link.send(&Message::Renew(request)).await?;
    let answer = link.receive().await?;
    link.close().await;
    match answer {
        Message::Renewed(renewed) => {
            let own = renewed.certificates.first();
            match own.and_then(|own| tls_key(own)) {
                Some(key) if key == shipping.tls_public() => Ok(renewed),
                _ => Err(RenewError::Answer(
                    "the certificate in it is not for this node's key".to_owned(),
                )),
            }
        }
        Message::Refused(refused) => Err(RenewError::Refused {
            reason: refused.reason,
            detail: refused.detail,
        }),
        other => Err(RenewError::Answer(format!("a {:?} message", other.kind()))),
    }
}

fn tls_key(certificate: &[u8]) -> Option<[u8; 32]> {
    super::tls::authority_key(&CertificateDer::from(certificate)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewal(from: u64, last: u64) -> Renewal {
        Renewal {
            validity: Some(Validity { from, last }),
            told: false,
            not_before: None,
            backoff: Backoff::new(RETRY.0, RETRY.1),
        }
    }

    #[test]
    fn a_certificate_is_renewed_from_half_of_its_life_on() {
        let now = Instant::now();
        let renewal = renewal(1000, 2000);
        assert!(!renewal.is_due(1499, now) && renewal.is_due(1500, now));
        assert_eq!(renewal.timeout(1400, now), Duration::from_secs(100));
        assert!(!renewal.is_needed(2000) && renewal.is_needed(2001));
    }

    #[test]
    fn a_failed_attempt_waits_as_long_as_the_certificate_holds() {
        let now = Instant::now();
        let mut renewal = renewal(1000, 2000);
        renewal.handle_failure(now, 0);
        assert!(!renewal.is_due(1600, now));
        assert_eq!(renewal.timeout(1600, now), RETRY.0 / 2);
        assert!(renewal.is_due(1600, now + RETRY.0));
        assert!(renewal.is_due(2001, now), "expired, it cannot wait");
    }

    #[test]
    fn the_reconciler_knows_better_than_a_clock_in_the_past() {
        let now = Instant::now();
        let mut renewal = renewal(1000, 2000);
        assert!(!renewal.is_due(1000, now));
        renewal.handle_expired();
        assert!(renewal.is_due(1000, now) && renewal.is_needed(1000));
    }
}
