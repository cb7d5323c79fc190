//! First contact: a join token becomes an identity.
//!
//! The node draws both of its keys itself; they never leave it. The token names the reconciler's
//! certificate authority by fingerprint, so the first connection is authenticated already. Storing
//! what comes back belongs to the caller.

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::pki_types::CertificateDer;
use rustls::sign::Signer;
use tallystick_common::ids::Hash;
use tallystick_common::keys::{
    AuthorityRetirement, AuthoritySuccession, EnrolmentRecord, PublicKey, ReceiptKeyCertificate,
    SecretKey, SignatureError, Signed,
};
use tallystick_common::wire::{
    ALPN_ENROLL, EnrollRequest, Enrolled, FrameError, JoinToken, Message, Refused, Versions,
};

use super::connection::{self, ConnectError};
use super::tls;

/// Both keys of a node, as their seeds.
#[derive(Clone)]
pub struct NodeKeys {
    /// The key that signs segments.
    pub signing_seed: [u8; 32],
    /// The key of the TLS certificate.
    pub tls_seed: [u8; 32],
}

impl NodeKeys {
    /// Draws two keys.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn draw() -> Result<Self, EnrollError> {
        let mut keys = Self {
            signing_seed: [0; 32],
            tls_seed: [0; 32],
        };
        getrandom::fill(&mut keys.signing_seed).map_err(EnrollError::Random)?;
        getrandom::fill(&mut keys.tls_seed).map_err(EnrollError::Random)?;
        Ok(keys)
    }
}

impl std::fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKeys")
    }
}

/// Everything a node has to store to be one.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// Its keys.
    pub keys: NodeKeys,
    /// The CA's record of it, checked.
    pub record: EnrolmentRecord,
    /// The same as signed, for evidence.
    pub signed_record: Signed<EnrolmentRecord>,
    /// Its TLS certificate (DER).
    pub certificate: Vec<u8>,
    /// The CA's certificate (DER).
    pub ca: Vec<u8>,
    /// Each authority's word for the next, as told since.
    pub successions: Vec<Signed<AuthoritySuccession>>,
    /// Which of them are trusted no longer.
    pub retirements: Vec<Signed<AuthorityRetirement>>,
    /// The keys that sign receipts, certified by the CA; each checked.
    pub receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
    /// `host:port` of the reconciler, in the order in which to try.
    pub addresses: Vec<String>,
}

/// Why enrolment failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// No random bytes.
    #[error("draw keys: {0}")]
    Random(getrandom::Error),
    /// The request for a certificate could not be made.
    #[error("make a certificate request: {0}")]
    Request(#[from] rcgen::Error),
    /// None of the token's addresses could be reached, or the last of them was not the reconciler.
    #[error("enrol at {address}: {error}")]
    Connect {
        /// Which.
        address: String,
        /// What happened.
        error: ConnectError,
    },
    /// The token names no address.
    #[error("enrol: the join token names no address; make a new one with --address")]
    NoAddress,
    /// The reconciler said no.
    #[error("the reconciler refused to enrol this node: {}", .0.detail)]
    Refused(Refused),
    /// It answered with something else.
    #[error("the reconciler's answer is not one: {0}")]
    Answer(String),
    /// It answered with a record or a certificate that does not fit.
    #[error("the reconciler's answer does not hold: {0}")]
    Untrue(&'static str),
    /// It answered with something its CA did not sign.
    #[error("the reconciler's answer does not hold: {0}")]
    Signature(#[from] SignatureError),
}

/// Enrols this host under `name`. Call again with the same `keys` when the answer was lost: a token
/// used up with the same keys is answered again.
///
/// # Errors
/// When no address answers as the token's reconciler, or it refuses.
pub async fn enroll(
    token: &JoinToken,
    name: &str,
    keys: NodeKeys,
) -> Result<Enrolment, EnrollError> {
    let request = request(token, name, &keys)?;
    let mut last = EnrollError::NoAddress;
    for address in &token.addresses {
        match ask(token, address, &request).await {
            Ok(answer) => return check(token, keys, answer),
            Err(refused @ EnrollError::Refused(_)) => return Err(refused),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn request(token: &JoinToken, name: &str, keys: &NodeKeys) -> Result<EnrollRequest, EnrollError> {
    let signing = SecretKey::from_seed(&keys.signing_seed);
    let tls_request = certificate_request(&keys.tls_seed)?;
    let possession = EnrollRequest::possession(&token.id, &tls_request);
    Ok(EnrollRequest {
        versions: Versions::OURS,
        token_id: token.id,
        secret: token.secret,
        name: name.to_owned(),
        signing_key: signing.public(),
        proof: signing.sign(EnrollRequest::PROOF_DOMAIN, &possession),
        tls_request,
    })
}

/// The TLS key, as a certificate request is made with it.
struct TlsKey {
    signer: Box<dyn Signer>,
    public: PublicKey,
}

impl TlsKey {
    fn of(seed: &[u8; 32]) -> Result<Self, rcgen::Error> {
        let signer = tls::signer(seed).ok_or(rcgen::Error::CouldNotParseKeyPair)?;
        let public = SecretKey::from_seed(seed).public();
        Ok(Self { signer, public })
    }
}

impl PublicKeyData for TlsKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl SigningKey for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signed = self.signer.sign(message);
        signed.map_err(|_| rcgen::Error::RingUnspecified)
    }
}

fn certificate_request(seed: &[u8; 32]) -> Result<Vec<u8>, rcgen::Error> {
    let key = TlsKey::of(seed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}

async fn ask(
    token: &JoinToken,
    address: &str,
    request: &EnrollRequest,
) -> Result<Enrolled, EnrollError> {
    let ca = token.ca;
    let pinned = move |der: &[u8]| blake3::hash(der).as_bytes() == ca.as_bytes();
    let exchange = async {
        let tls = tls::pinned(pinned, ALPN_ENROLL).map_err(ConnectError::Tls)?;
        let mut link = connection::connect(address, tls).await?;
        link.send(&Message::Enroll(request.clone())).await?;
        let answer = link.receive().await?;
        link.close().await;
        Ok(answer)
    };
    let answer = tokio::time::timeout(connection::ANSWER_WITHIN, exchange)
        .await
        .unwrap_or(Err(ConnectError::Slow))
        .map_err(|error| EnrollError::Connect {
            address: address.to_owned(),
            error,
        })?;
    match answer {
        Message::Enrolled(enrolled) => Ok(enrolled),
        Message::Refused(refused) => Err(EnrollError::Refused(refused)),
        other => Err(EnrollError::Answer(format!("a {:?} message", other.kind()))),
    }
}

/// Believes nothing of the answer that the pinned CA did not sign.
fn check(token: &JoinToken, keys: NodeKeys, answer: Enrolled) -> Result<Enrolment, EnrollError> {
    if Hash(*blake3::hash(&answer.ca).as_bytes()) != token.ca {
        return Err(EnrollError::Untrue(
            "the CA's certificate is not the one the token names",
        ));
    }
    let ca_key = tls::authority_key(&CertificateDer::from(answer.ca.as_slice()))
        .map_err(|_| EnrollError::Untrue("the CA's certificate cannot be read"))?;
    let record = answer.record.verify(&PublicKey(ca_key))?;
    if record.signing_key != SecretKey::from_seed(&keys.signing_seed).public() {
        return Err(EnrollError::Untrue("the record names another signing key"));
    }
    for key in &answer.receipt_keys {
        key.verify(&PublicKey(ca_key))?;
    }
    let certificate = answer
        .certificates
        .into_iter()
        .next()
        .ok_or(EnrollError::Untrue("there is no certificate in it"))?;
    let addresses = if answer.addresses.is_empty() {
        token.addresses.clone()
    } else {
        answer.addresses
    };
    Ok(Enrolment {
        keys,
        record,
        signed_record: answer.record,
        certificate,
        ca: answer.ca,
        successions: Vec::new(),
        retirements: Vec::new(),
        receipt_keys: answer.receipt_keys,
        addresses,
    })
}

impl From<FrameError> for EnrollError {
    fn from(error: FrameError) -> Self {
        Self::Answer(error.to_string())
    }
}
