//! Enrolment: a join token becomes a node.
//!
//! Owns what a request must prove and what is answered. One transaction uses the token up and writes
//! the node; a request repeated with the same keys, because its answer was lost, is answered again.

use tallystick_common::ids::{Hash, NodeId, Seq};
use tallystick_common::keys::{EnrolmentRecord, PublicKey, Signed};
use tallystick_common::time::Timestamp;
use tallystick_common::wire::{
    EnrollRequest, Enrolled, JoinToken, RefusalReason, Refused, Versions,
};

use crate::authority::{Authority, AuthorityError, request_key};
use crate::store::again::{Passing, again};
use crate::store::enrolment::{self, NewNode, Redeemed};
use crate::store::{Store, StoreError};

/// Longest node name in bytes.
const NAME_MAX_BYTES: usize = 253;

/// Why a host did not become a node.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// Its request is not good enough; it is told.
    #[error("{}", .0.detail)]
    Refused(Refused),
    /// The store failed.
    #[error("enrol: {0}")]
    Store(#[from] StoreError),
    /// No certificate could be issued.
    #[error("enrol: {0}")]
    Authority(#[from] AuthorityError),
}

impl Passing for EnrollError {
    fn is_passing(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_passing())
    }
}

impl EnrollError {
    /// What the host is told.
    #[must_use]
    pub fn to_refused(&self) -> Refused {
        match self {
            Self::Refused(refused) => refused.clone(),
            Self::Store(_) | Self::Authority(_) => Refused {
                seq: None,
                reason: RefusalReason::Busy,
                detail: "the reconciler could not enrol this node now; its log says why".to_owned(),
            },
        }
    }
}

/// What the request proved.
struct Proved {
    version: u16,
    tls_key: PublicKey,
}

/// Enrols the host that sent `request`. `node` is the id it will have if it is new.
///
/// # Errors
/// When the request proves too little, the token does not hold, or the store fails.
pub async fn enroll(
    authority: &Authority,
    store: &Store,
    request: &EnrollRequest,
    node: NodeId,
    addresses: &[String],
    now: Timestamp,
) -> Result<Enrolled, EnrollError> {
    let proved = check(request)?;
    let (node, record) = admit(authority, store, request, &proved, node, now).await?;
    let certificate = authority.issue_client(node, &proved.tls_key, now)?;
    Ok(Enrolled {
        version: proved.version,
        record,
        certificates: vec![certificate.to_vec()],
        ca: authority.ca_certificate().to_vec(),
        receipt_keys: vec![authority.trust(&[]).receipt_keys.swap_remove(0)],
        addresses: addresses.to_vec(),
    })
}

/// BLAKE3 of a TLS public key, as the store keeps it.
#[must_use]
pub fn tls_fingerprint(key: &PublicKey) -> Hash {
    Hash(*blake3::hash(&key.0).as_bytes())
}

fn check(request: &EnrollRequest) -> Result<Proved, EnrollError> {
    let version = request.versions.common(Versions::OURS).ok_or_else(|| {
        let ours = Versions::OURS;
        let detail = format!(
            "this reconciler speaks versions {} to {}",
            ours.oldest, ours.newest
        );
        refused(RefusalReason::Version, detail)
    })?;
    let name = &request.name;
    if name.is_empty() || name.len() > NAME_MAX_BYTES || name.chars().any(char::is_control) {
        let detail = "a node's name has 1 to 253 bytes and no control characters".to_owned();
        return Err(refused(RefusalReason::Message, detail));
    }
    let tls_key = request_key(&request.tls_request).ok_or_else(|| {
        let detail = "the TLS request is not a PKCS #10 request of an Ed25519 key".to_owned();
        refused(RefusalReason::Message, detail)
    })?;
    let possession = EnrollRequest::possession(&request.token_id, &request.tls_request);
    request
        .signing_key
        .verify(EnrollRequest::PROOF_DOMAIN, &possession, &request.proof)
        .map_err(|_| {
            let detail = "the proof of possession is not by the signing key".to_owned();
            refused(RefusalReason::Signature, detail)
        })?;
    Ok(Proved { version, tls_key })
}

async fn admit(
    authority: &Authority,
    store: &Store,
    request: &EnrollRequest,
    proved: &Proved,
    node: NodeId,
    now: Timestamp,
) -> Result<(NodeId, Signed<EnrolmentRecord>), EnrollError> {
    again!(admit_once(authority, store, request, proved, node, now))
}

async fn admit_once(
    authority: &Authority,
    store: &Store,
    request: &EnrollRequest,
    proved: &Proved,
    node: NodeId,
    now: Timestamp,
) -> Result<(NodeId, Signed<EnrolmentRecord>), EnrollError> {
    let fingerprint = tls_fingerprint(&proved.tls_key);
    let mut tx = store.write().await?;
    match enrolment::redeem_token(&mut tx, &JoinToken::secret_hash(&request.secret), now).await? {
        Redeemed::Now => {}
        Redeemed::UsedUp => {
            let known =
                enrolment::enrolled_with(&mut tx, &request.signing_key, &fingerprint).await?;
            return known.map_or_else(|| Err(token("was used before")), answered_again);
        }
        Redeemed::Expired => return Err(token("has expired")),
        Redeemed::Unknown => return Err(token("is not one of this reconciler's")),
    }
    let record = authority.sign_enrolment(&EnrolmentRecord {
        node,
        name: request.name.clone(),
        signing_key: request.signing_key,
        from: Seq::FIRST,
        at: now,
    });
    let new = NewNode {
        node,
        name: request.name.clone(),
        signing_key: request.signing_key,
        tls_fingerprint: fingerprint,
        record: record.to_bytes(),
        at: now,
    };
    enrolment::add_node(&mut tx, &new).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok((node, record))
}

fn answered_again(
    (node, record): (NodeId, Vec<u8>),
) -> Result<(NodeId, Signed<EnrolmentRecord>), EnrollError> {
    let record = Signed::from_bytes(&record)
        .map_err(|error| StoreError::damaged("node_records.record", error))?;
    Ok((node, record))
}

fn token(what: &str) -> EnrollError {
    let detail =
        format!("the join token {what}; make a new one with `tallystick-reconciler token create`");
    refused(RefusalReason::Token, detail)
}

fn refused(reason: RefusalReason, detail: String) -> EnrollError {
    EnrollError::Refused(Refused {
        seq: None,
        reason,
        detail,
    })
}
