//! The certificates of authorities, as far as a verifier needs them: the key, and that nothing in them
//! was changed.
//!
//! Owns how one certificate is read and how authorities follow one another. Does not know TLS.

use bincode::{Decode, Encode};

use crate::ids::Hash;
use crate::keys::{
    AuthorityRetirement, AuthoritySuccession, PublicKey, ReceiptKeyCertificate, Signature,
    SignatureError, Signed,
};

/// `AlgorithmIdentifier` of Ed25519 (RFC 8410).
const ED25519: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
/// What stands before the 32 bytes of the key in `SubjectPublicKeyInfo`.
const KEY_INFO: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// A certificate that is not an authority's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate.
    #[error("it is not a certificate in DER")]
    Form,
    /// Not of one Ed25519 key.
    #[error("it is not the certificate of one Ed25519 key")]
    Key,
    /// Not signed by itself.
    #[error("it is not signed by its own key")]
    Signature,
}

/// An authority's own certificate, which its own key signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityCertificate {
    /// The authority's key.
    pub key: PublicKey,
    /// BLAKE3 of the DER: what join tokens pin.
    pub fingerprint: Hash,
}

/// One authority and what it said of others.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AuthorityRecord {
    /// Its own certificate (DER).
    pub certificate: Vec<u8>,
    /// Its word for the receipt key.
    pub receipt_key: Signed<ReceiptKeyCertificate>,
    /// Its word for the one that took its place; none for the present one.
    pub succession: Option<Signed<AuthoritySuccession>>,
    /// A later one's word that it is trusted no longer.
    pub retirement: Option<Signed<AuthorityRetirement>>,
}

/// Authorities that do not follow one another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionError {
    /// There is none.
    #[error("there is no authority")]
    None,
    /// A certificate.
    #[error("certificate {index}: {error}")]
    Certificate {
        /// Which one, from 1.
        index: usize,
        /// What is wrong.
        error: CertificateError,
    },
    /// A statement.
    #[error("{what} of authority {index}: {error}")]
    Statement {
        /// Whose, from 1.
        index: usize,
        /// Which statement.
        what: &'static str,
        /// What is wrong.
        error: SignatureError,
    },
    /// A statement that is missing, or about another.
    #[error("{what} of authority {index} is missing or about another")]
    Other {
        /// Whose, from 1.
        index: usize,
        /// Which statement.
        what: &'static str,
    },
}

impl AuthorityCertificate {
    /// Reads a self-signed certificate.
    ///
    /// # Errors
    /// When it is not one of an Ed25519 key, or a bit of it was changed.
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let (body, rest) = element(der, SEQUENCE)?;
        let (_, after) = element(body, SEQUENCE)?;
        let signed = &body[..body.len() - after.len()];
        let signature = after.strip_prefix(&ED25519).ok_or(CertificateError::Key)?;
        let (bits, end) = element(signature, BIT_STRING)?;
        let signature: [u8; 64] = match bits {
            [0, bits @ ..] => bits.try_into().map_err(|_| CertificateError::Form)?,
            _ => return Err(CertificateError::Form),
        };
        if !rest.is_empty() || !end.is_empty() {
            return Err(CertificateError::Form);
        }
        let key = only_key(signed).ok_or(CertificateError::Key)?;
        key.verify_bare(signed, &Signature(signature))
            .map_err(|_| CertificateError::Signature)?;
        Ok(Self {
            key,
            fingerprint: Hash(*blake3::hash(der).as_bytes()),
        })
    }
}

/// The content of the element that stands first, and what follows it. Lengths of up to two bytes, in
/// their one spelling: no certificate of an authority is longer.
fn element(bytes: &[u8], tag: u8) -> Result<(&[u8], &[u8]), CertificateError> {
    let (length, content) = match bytes {
        [found, ..] if *found != tag => return Err(CertificateError::Form),
        [_, length @ (..=0x7f), content @ ..] => (usize::from(*length), content),
        [_, 0x81, length @ (0x80..), content @ ..] => (usize::from(*length), content),
        [_, 0x82, high @ (1..), low, content @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), content)
        }
        _ => return Err(CertificateError::Form),
    };
    content
        .split_at_checked(length)
        .ok_or(CertificateError::Form)
}

/// The key whose description stands in there exactly once.
fn only_key(signed: &[u8]) -> Option<PublicKey> {
    let mut found = signed
        .windows(KEY_INFO.len() + 32)
        .filter(|window| window.starts_with(&KEY_INFO));
    let key = found.next()?.last_chunk::<32>()?;
    found.next().is_none().then_some(PublicKey(*key))
}

/// Reads authorities that followed one another, the oldest first, each with its word for the next and
/// for one receipt key. The certificates, in the same order, and that key.
///
/// # Errors
/// Names the first that does not fit.
pub fn read_succession(
    records: &[AuthorityRecord],
) -> Result<(Vec<AuthorityCertificate>, PublicKey), SuccessionError> {
    let mut read = Vec::with_capacity(records.len());
    for (index, record) in (1..).zip(records) {
        let certificate = AuthorityCertificate::read(&record.certificate)
            .map_err(|error| SuccessionError::Certificate { index, error })?;
        read.push(certificate);
    }
    for (place, record) in records.iter().enumerate() {
        check_succession(place, record, records.get(place + 1), &read)?;
        check_retirement(place, record, &read)?;
    }
    let mut receipt_key = None;
    for (place, record) in records.iter().enumerate() {
        let said = said(place, "the receipt key", || {
            record.receipt_key.verify(&read[place].key)
        })?;
        if *receipt_key.get_or_insert(said.key) != said.key {
            return Err(other(place, "the receipt key"));
        }
    }
    Ok((read, receipt_key.ok_or(SuccessionError::None)?))
}

fn check_succession(
    place: usize,
    record: &AuthorityRecord,
    next: Option<&AuthorityRecord>,
    read: &[AuthorityCertificate],
) -> Result<(), SuccessionError> {
    match (&record.succession, next) {
        (None, None) => Ok(()),
        (Some(word), Some(next)) => {
            let word = said(place, "the succession", || word.verify(&read[place].key))?;
            if word.certificate == next.certificate {
                Ok(())
            } else {
                Err(other(place, "the succession"))
            }
        }
        _ => Err(other(place, "the succession")),
    }
}

fn check_retirement(
    place: usize,
    record: &AuthorityRecord,
    read: &[AuthorityCertificate],
) -> Result<(), SuccessionError> {
    let Some(word) = &record.retirement else {
        return Ok(());
    };
    let later = read.get(place + 1..).unwrap_or_default();
    let believed = later.iter().find_map(|by| word.verify(&by.key).ok());
    match believed {
        Some(word) if word.key == read[place].key => Ok(()),
        _ => Err(other(place, "the retirement")),
    }
}

fn said<T>(
    place: usize,
    what: &'static str,
    verify: impl FnOnce() -> Result<T, SignatureError>,
) -> Result<T, SuccessionError> {
    let index = place + 1;
    verify().map_err(|error| SuccessionError::Statement { index, what, error })
}

fn other(place: usize, what: &'static str) -> SuccessionError {
    let index = place + 1;
    SuccessionError::Other { index, what }
}
