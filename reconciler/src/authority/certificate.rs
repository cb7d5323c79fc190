//! X.509 certificates: issuing them and reading the node from one.
//!
//! All keys are Ed25519, kept as their 32-byte seed. Certificates are issued from public keys:
//! nodes make their keys themselves.

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use tallystick_common::ids::NodeId;
use tallystick_common::keys::{PublicKey, SecretKey};
use tallystick_common::time::{SECOND_US, Timestamp};
use tallystick_common::wire::SERVER_NAME;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const DAY_SECONDS: u64 = 86_400;
/// Life of the CA's certificate: as long as any node that trusts it.
const CA_LIFE_SECONDS: u64 = 50 * 365 * DAY_SECONDS;
/// Certificates begin so much in the past, and at most a tenth of their life: clocks of nodes are never
/// quite right.
const BACKDATED_SECONDS: u64 = DAY_SECONDS;

/// How long certificates hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// A node's, in seconds; it renews from half of it on.
    pub node_seconds: u64,
    /// The server's, in seconds; it is renewed at half of it, while serving too.
    pub server_seconds: u64,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            node_seconds: 90 * DAY_SECONDS,
            server_seconds: 10 * 365 * DAY_SECONDS,
        }
    }
}

/// RFC 8410: a PKCS #8 version 1 document of an Ed25519 key, up to the seed.
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// RFC 8410: the SubjectPublicKeyInfo of an Ed25519 key, up to the key.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A certificate that could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The key cannot be used, or the encoder refused.
    #[error("issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// The bytes are no certificate.
    #[error("read a certificate: the bytes are not X.509")]
    Read,
}

/// A TLS key and the certificate for it.
#[derive(Clone)]
pub struct TlsIdentity {
    /// The key's seed.
    pub(super) seed: [u8; 32],
    /// The certificate.
    pub(super) certificate: CertificateDer<'static>,
}

impl TlsIdentity {
    /// The key, as rustls takes it.
    #[must_use]
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(pkcs8(&self.seed))
    }
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsIdentity")
    }
}

/// The certificate authority: its key and its certificate.
#[derive(Debug)]
pub(super) struct Issuer {
    key: SecretKey,
    certificate: CertificateDer<'static>,
}

impl Issuer {
    /// A new one.
    pub(super) fn create(seed: [u8; 32], now: Timestamp) -> Result<Self, CertificateError> {
        let mut params =
            authority_params(&SecretKey::from_seed(&seed).public(), serial_of(&seed), now);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key_pair(&seed)?)?.der().clone();
        Ok(Self {
            key: SecretKey::from_seed(&seed),
            certificate,
        })
    }

    pub(super) fn from_parts(seed: [u8; 32], certificate: CertificateDer<'static>) -> Self {
        Self {
            key: SecretKey::from_seed(&seed),
            certificate,
        }
    }

    /// A certificate for the next authority's key, so that who trusts this one alone can believe it.
    pub(super) fn cross(
        &self,
        next: &PublicKey,
        serial: [u8; 16],
        now: Timestamp,
    ) -> Result<CertificateDer<'static>, CertificateError> {
        let mut params = authority_params(next, serial, now);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.issue(&params, next)
    }

    /// A certificate for the server's key.
    pub(super) fn server(
        &self,
        seed: [u8; 32],
        life_seconds: u64,
        now: Timestamp,
    ) -> Result<TlsIdentity, CertificateError> {
        let mut serial = serial_of(&seed);
        // A renewed certificate of one key needs a serial number of its own.
        serial[8..].copy_from_slice(&now.as_micros().to_be_bytes());
        let mut params = params("tallystick reconciler", serial, life_seconds, now);
        params.subject_alt_names =
            CertificateParams::new([SERVER_NAME.to_owned()])?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = self.issue(&params, &SecretKey::from_seed(&seed).public())?;
        Ok(TlsIdentity { seed, certificate })
    }

    /// A certificate for a node's key.
    pub(super) fn client(
        &self,
        node: NodeId,
        key: &PublicKey,
        serial: [u8; 16],
        life_seconds: u64,
        now: Timestamp,
    ) -> Result<CertificateDer<'static>, CertificateError> {
        let mut params = params(&node.to_string(), serial, life_seconds, now);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params, key)
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn key(&self) -> &SecretKey {
        &self.key
    }

    pub(super) fn public(&self) -> PublicKey {
        self.key.public()
    }

    pub(super) fn key_pem(&self) -> String {
        key_pem(&self.key.to_seed())
    }

    fn issue(
        &self,
        params: &CertificateParams,
        key: &PublicKey,
    ) -> Result<CertificateDer<'static>, CertificateError> {
        let signing = key_pair(&self.key.to_seed())?;
        let issuer = rcgen::Issuer::from_ca_cert_der(&self.certificate, signing)?;
        let key = SubjectPublicKeyInfo::from_der(&[SPKI_PREFIX.as_slice(), &key.0].concat())?;
        Ok(params.signed_by(&key, &issuer)?.der().clone())
    }
}

/// The node a client certificate was issued to, and the TLS key in it. Says nothing about who issued
/// it: TLS checked that.
#[must_use]
pub fn node_of(certificate: &CertificateDer<'_>) -> Option<(NodeId, PublicKey)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let key = parsed
        .public_key()
        .raw
        .strip_prefix(&SPKI_PREFIX)?
        .try_into()
        .ok()?;
    let mut names = parsed.subject().iter_common_name();
    let node = names.next()?.as_str().ok()?.parse().ok()?;
    names.next().is_none().then_some((node, PublicKey(key)))
}

/// The Ed25519 key of an authority's certificate.
pub(super) fn authority_key(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let key = parsed.public_key().raw.strip_prefix(&SPKI_PREFIX)?;
    key.try_into().ok().map(PublicKey)
}

/// The Ed25519 key of a PKCS #10 request whose own signature stands. Nothing else that is asked for
/// in it is granted.
#[must_use]
pub fn request_key(request: &[u8]) -> Option<PublicKey> {
    let request = CertificateSigningRequestDer::from(request);
    let parsed = CertificateSigningRequestParams::from_der(&request).ok()?;
    let is_ed25519 = *parsed.public_key.algorithm() == rcgen::PKCS_ED25519;
    let key = parsed.public_key.der_bytes().try_into().ok()?;
    is_ed25519.then_some(PublicKey(key))
}

/// The last second in which the certificate holds, since 1970.
pub(crate) fn last_second(certificate: &CertificateDer<'_>) -> Result<u64, CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::Read)?;
    Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
}

/// Whether half of the certificate's life has passed.
pub(super) fn is_half_spent(
    certificate: &CertificateDer<'_>,
    now: Timestamp,
) -> Result<bool, CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::Read)?;
    let second = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let validity = parsed.validity();
    let (begin, end) = (second(validity.not_before), second(validity.not_after));
    Ok(now.as_micros() / SECOND_US >= begin + end.saturating_sub(begin) / 2)
}

/// A certificate as a PEM file holds it.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    armour("CERTIFICATE", certificate)
}

/// A key as a PEM file holds it.
pub(super) fn key_pem(seed: &[u8; 32]) -> String {
    armour("PRIVATE KEY", pkcs8(seed).secret_pkcs8_der())
}

/// The seed of an Ed25519 key, of a document as [`key_pem`] writes it (version 1, seed alone).
pub(super) fn seed_of(key: &PrivatePkcs8KeyDer<'_>) -> Option<[u8; 32]> {
    key.secret_pkcs8_der()
        .strip_prefix(&PKCS8_PREFIX)?
        .try_into()
        .ok()
}

fn pkcs8(seed: &[u8; 32]) -> PrivatePkcs8KeyDer<'static> {
    PrivatePkcs8KeyDer::from([PKCS8_PREFIX.as_slice(), seed].concat())
}

fn key_pair(seed: &[u8; 32]) -> Result<KeyPair, CertificateError> {
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(
        &pkcs8(seed),
        &rcgen::PKCS_ED25519,
    )?)
}

fn armour(label: &str, der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// A serial number that differs between keys and tells nothing about them.
fn serial_of(seed: &[u8; 32]) -> [u8; 16] {
    let digest = blake3::derive_key("tallystick/1 certificate serial", seed);
    let mut serial = [0; 16];
    serial.copy_from_slice(&digest[..16]);
    serial
}

/// Each authority has a name of its own, by which the certificates that it issued are told apart.
fn authority_params(key: &PublicKey, serial: [u8; 16], now: Timestamp) -> CertificateParams {
    let short: String = key.to_string().chars().take(8).collect();
    let name = format!("tallystick authority {short}");
    let mut params = params(&name, serial, CA_LIFE_SECONDS, now);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(
    name: &str,
    mut serial: [u8; 16],
    life_seconds: u64,
    now: Timestamp,
) -> CertificateParams {
    // RFC 5280 4.1.2.2: positive, and not zero.
    serial[0] = (serial[0] & 0x7f) | 1;
    let now = now.as_micros() / SECOND_US;
    let at = |seconds| date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds);
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = at(now.saturating_sub(BACKDATED_SECONDS.min(life_seconds / 10)));
    params.not_after = at(now.saturating_add(life_seconds));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}
