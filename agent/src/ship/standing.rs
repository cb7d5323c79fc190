//! What changes while shipping: certificate, authorities, receipt keys, addresses, and by which transport.
//!
//! Pure. What is to be kept on disk is told by events; `identity` keeps it.

use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use tallystick_common::keys::{ReceiptKeyCertificate, Signed};
use tallystick_common::wire::{Renewed, Trust};

use super::Shipping;
use super::authorities::Authorities;
use super::renewal::Renewal;
use super::tls;

/// Most addresses that are kept.
const ADDRESSES_MAX: usize = 8;

/// How a node stands with its installation.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    certificate: Vec<u8>,
    pub(super) renewal: Renewal,
    pub(super) authorities: Authorities,
    pub(super) receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
    pub(super) addresses: Vec<String>,
    addresses_fixed: bool,
    /// QUIC did not get through where TCP did: until then TCP is tried first.
    tcp_until: Option<Instant>,
}

impl Standing {
    pub(super) fn of(shipping: &Shipping) -> Result<Self, rustls::Error> {
        let mut authorities = Authorities::new(shipping.ca.clone())?;
        authorities.learn(&shipping.successions, &shipping.retirements);
        Ok(Self {
            certificate: shipping.certificate.clone(),
            renewal: Renewal::of(&shipping.certificate),
            authorities,
            receipt_keys: shipping.receipt_keys.clone(),
            addresses: shipping.addresses.clone(),
            addresses_fixed: shipping.addresses_fixed,
            tcp_until: None,
        })
    }

    /// A new certificate, and what came with it.
    pub(super) fn take(&mut self, renewed: &Renewed) {
        if let Some(certificate) = renewed.certificates.first() {
            self.certificate.clone_from(certificate);
            self.renewal = Renewal::of(certificate);
        }
        self.learn(&renewed.trust);
    }

    /// Believes what can be believed.
    pub(super) fn learn(&mut self, trust: &Trust) {
        self.authorities
            .learn(&trust.successions, &trust.retirements);
        let certified = self.authorities.certified(&trust.receipt_keys);
        if !certified.is_empty() {
            self.receipt_keys = certified;
        }
        if !self.addresses_fixed {
            self.addresses = merged(&trust.addresses, &self.addresses);
        }
    }

    /// The client's side of TLS for every contact after enrolment.
    pub(super) fn tls(
        &self,
        shipping: &Shipping,
        alpn: &[u8],
    ) -> Result<rustls::ClientConfig, rustls::Error> {
        let certificate = CertificateDer::from(self.certificate.clone());
        let passed = shipping.enrolled_at.as_micros() / tallystick_common::time::SECOND_US;
        let trusted = self.authorities.trusted();
        tls::node(&trusted, certificate, &shipping.tls_seed, passed, alpn)
    }

    pub(super) fn prefers_tcp(&self, now: Instant) -> bool {
        self.tcp_until.is_some_and(|until| now < until)
    }

    /// A connection came about by TCP, since QUIC did not get through.
    pub(super) fn handle_tcp(&mut self, now: Instant, probe_after: Duration) {
        self.tcp_until = Some(now + probe_after);
    }

    /// QUIC gets through.
    pub(super) fn handle_quic(&mut self) {
        self.tcp_until = None;
    }
}

/// The addresses told, then those known before: a wrong word orphans nobody.
pub(crate) fn merged(told: &[String], before: &[String]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for address in told.iter().chain(before) {
        if all.len() < ADDRESSES_MAX && !all.contains(address) {
            all.push(address.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_told_come_first_and_the_known_ones_stay() {
        let list = |names: &[&str]| -> Vec<String> { names.iter().map(|&n| n.into()).collect() };
        assert_eq!(
            merged(&list(&["b", "a"]), &list(&["a", "c"])),
            list(&["b", "a", "c"])
        );
        assert_eq!(merged(&[], &list(&["a"])), list(&["a"]));
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(merged(&many, &list(&["a"])).len(), ADDRESSES_MAX);
    }
}
