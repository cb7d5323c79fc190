//! What the TLS listeners show and whom they believe, as it is at each handshake.
//!
//! A client certificate that has expired passes here: for renewal it is enough, as it still proves the
//! possession of its key. Everything else refuses it after the handshake (`ingest::listener`). Which key is
//! a node's is in the store; who issued a certificate says only that it was one of ours.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::succession::Earlier;
use super::{Authority, AuthorityError, last_second};

/// Of one state of the authority.
#[derive(Debug)]
pub(super) struct Handshakes {
    certified: Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Handshakes {
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
        ca: &CertificateDer<'static>,
        earlier: &[Earlier],
    ) -> Result<Self, AuthorityError> {
        let failed = |error: &dyn std::fmt::Display| AuthorityError::Tls(error.to_string());
        let provider = provider();
        let signing = provider
            .key_provider
            .load_private_key(key.clone_key())
            .map_err(|error| failed(&error))?;
        let mut roots = RootCertStore::empty();
        let earlier = earlier.iter().map(Earlier::certificate);
        for certificate in std::iter::once(ca).chain(earlier) {
            roots
                .add(certificate.clone())
                .map_err(|error| failed(&error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(chain, signing)),
            verifier,
        })
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Asks the authority anew at each handshake, so that renewals and rotations need no restart.
#[derive(Debug, Clone)]
pub(crate) struct AtEachHandshake(pub(super) Authority);

impl AtEachHandshake {
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0.held().handshakes.verifier)
    }
}

impl ResolvesServerCert for AtEachHandshake {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.held().handshakes.certified))
    }
}

impl ClientCertVerifier for AtEachHandshake {
    /// Enrolment has no certificate yet.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verifier = self.verifier();
        match verifier.verify_client_cert(end_entity, intermediates, now) {
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => {
                let last = last_second(end_entity)
                    .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
                let then = UnixTime::since_unix_epoch(Duration::from_secs(last));
                verifier.verify_client_cert(end_entity, intermediates, then)
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier().supported_verify_schemes()
    }
}
