//! Whom the agent believes to be its reconciler, and how it shows who it is itself.
//!
//! Owns the TLS client configurations: one that trusts the certificate authority named by a join
//! token's fingerprint (first contact, no client certificate), one that trusts the authority
//! stored at enrolment and shows the node's certificate. The public web's authorities are never
//! trusted.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::Signer;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};

mod provider;

use provider::provider;

/// RFC 8410: a PKCS #8 version 1 document of an Ed25519 key, up to the seed.
const PKCS8_ED25519_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// RFC 8410: the SubjectPublicKeyInfo of an Ed25519 key without its outer SEQUENCE, up to the key.
const SPKI_ED25519_PREFIX: [u8; 10] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The Ed25519 TLS key made of `seed`, as rustls takes it.
#[must_use]
pub fn private_key(seed: &[u8; 32]) -> PrivateKeyDer<'static> {
    let der = [PKCS8_ED25519_PREFIX.as_slice(), seed].concat();
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der))
}

/// What signs with that key, for a certificate request.
#[must_use]
pub fn signer(seed: &[u8; 32]) -> Option<Box<dyn Signer>> {
    let key = provider().key_provider.load_private_key(private_key(seed));
    key.ok()?.choose_scheme(&[SignatureScheme::ED25519])
}

/// The Ed25519 key of a certificate authority's certificate, which also signs enrolment records
/// and the certificates of receipt keys.
///
/// # Errors
/// When the bytes are no certificate or its key is of another kind.
pub fn authority_key(certificate: &CertificateDer<'_>) -> Result<[u8; 32], TlsError> {
    let roots = only(certificate)?;
    roots
        .roots
        .first()
        .and_then(|anchor| {
            anchor
                .subject_public_key_info
                .strip_prefix(&SPKI_ED25519_PREFIX)
        })
        .and_then(|key| key.try_into().ok())
        .ok_or(TlsError::InvalidCertificate(CertificateError::BadEncoding))
}

/// For the first contact: believes the server whose certificate was issued by an authority with
/// this fingerprint, which the server has to show in its chain.
///
/// # Errors
/// When TLS cannot be configured.
pub fn pinned(
    fingerprint: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
    alpn: &[u8],
) -> Result<ClientConfig, TlsError> {
    let verifier = Pinned {
        fingerprint: Box::new(fingerprint),
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// For every later contact: believes what `authority` issued and shows the node's own certificate.
/// `not_before` is an instant that has certainly passed (the enrolment), in seconds since 1970:
/// a node whose clock stands in the past can still connect and learn the time.
///
/// # Errors
/// When a certificate or the key cannot be used.
pub fn enrolled(
    authority: &CertificateDer<'static>,
    certificate: CertificateDer<'static>,
    seed: &[u8; 32],
    not_before: u64,
    alpn: &[u8],
) -> Result<ClientConfig, TlsError> {
    node(
        std::slice::from_ref(authority),
        certificate,
        seed,
        not_before,
        alpn,
    )
}

/// As [`enrolled`], believing what any of the authorities issued.
///
/// # Errors
/// As [`enrolled`].
pub fn node(
    authorities: &[CertificateDer<'static>],
    certificate: CertificateDer<'static>,
    seed: &[u8; 32],
    not_before: u64,
    alpn: &[u8],
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| TlsError::General(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NotBefore { inner, not_before }))
        .with_client_auth_cert(vec![certificate], private_key(seed))?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

fn only(authority: &CertificateDer<'_>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned())?;
    Ok(roots)
}

/// Whether a certificate (DER) is the one with the fingerprint.
type Fingerprint = dyn Fn(&[u8]) -> bool + Send + Sync;

/// Believes one authority, known by its fingerprint alone.
struct Pinned {
    fingerprint: Box<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pinned")
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let authority = intermediates
            .iter()
            .find(|shown| (self.fingerprint)(shown))
            .ok_or(TlsError::InvalidCertificate(
                CertificateError::UnknownIssuer,
            ))?;
        WebPkiServerVerifier::builder_with_provider(
            Arc::new(only(authority)?),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| TlsError::General(error.to_string()))?
        .verify_server_cert(end_entity, &[], server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The ordinary rules, but never at an instant before enrolment.
#[derive(Debug)]
struct NotBefore {
    inner: Arc<WebPkiServerVerifier>,
    not_before: u64,
}

impl ServerCertVerifier for NotBefore {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let at = now.as_secs().max(self.not_before);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp, at)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
