//! Keys and signed statements.
//!
//! Owns Ed25519 keys, the domain strings that keep one kind of signed statement from passing for
//! another, and the ring of a node's keys by chain position. Does not draw keys (randomness is
//! passed in) and does not know certificates of TLS.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use bincode::{Decode, Encode};
use data_encoding::HEXLOWER;
use ed25519_dalek::Signer as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{self, CodecError};
use crate::ids::{Hash, IdError, NodeId, Seq, StreamId};
use crate::time::Timestamp;

/// An Ed25519 public key. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct PublicKey(pub [u8; 32]);

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Signature(pub [u8; 64]);

/// An Ed25519 secret key. Wiped from memory when dropped; never printed.
pub struct SecretKey(ed25519_dalek::SigningKey);

/// A signature that does not stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The signature is not by that key over those bytes.
    #[error("the signature is not by key {0}")]
    Wrong(PublicKey),
    /// The bytes signed are not what they should be.
    #[error("the signed bytes cannot be read: {0}")]
    Content(#[from] CodecError),
}

impl SecretKey {
    /// From 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The 32 bytes it was made of, for storing it in a file that only its owner reads.
    #[must_use]
    pub fn to_seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` under `domain`.
    #[must_use]
    pub fn sign(&self, domain: &str, message: &[u8]) -> Signature {
        Signature(self.0.sign(&scoped(domain, message)).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

impl PublicKey {
    /// Checks a signature under `domain`, strictly: small-order keys and non-canonical encodings are
    /// refused, so every verifier agrees.
    ///
    /// # Errors
    /// [`SignatureError::Wrong`] when it does not stand.
    pub fn verify(
        &self,
        domain: &str,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), SignatureError> {
        self.verify_bare(&scoped(domain, message), signature)
    }

    /// Checks a signature over bytes that bear no domain, as X.509 has them; as strictly.
    pub(crate) fn verify_bare(
        &self,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), SignatureError> {
        ed25519_dalek::VerifyingKey::from_bytes(&self.0)
            .and_then(|key| {
                let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
                key.verify_strict(message, &signature)
            })
            .map_err(|_| SignatureError::Wrong(*self))
    }
}

/// What is really signed: the domain, a zero byte, the message.
fn scoped(domain: &str, message: &[u8]) -> Vec<u8> {
    [domain.as_bytes(), &[0], message].concat()
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", HEXLOWER.encode(&self.0))
    }
}

impl FromStr for PublicKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        // A key is spelled as a hash is; only the name in the error differs.
        text.parse::<Hash>()
            .map(|bytes| Self(bytes.0))
            .map_err(|_| IdError::NotHex {
                text: text.to_owned(),
                expected: "a public key",
                hex_digits: 64,
            })
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A kind of statement that somebody signs.
pub trait Statement: Encode + Decode<()> {
    /// Keeps signatures of this kind apart from all others.
    const DOMAIN: &'static str;
}

/// A statement as its signer wrote it. The content can be had only by checking the signature, which
/// is over the bytes as received.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Signed<T> {
    bytes: Vec<u8>,
    signature: Signature,
    kind: PhantomData<T>,
}

impl<T: Statement> Signed<T> {
    /// Signs `statement`.
    #[must_use]
    pub fn new(statement: &T, key: &SecretKey) -> Self {
        let bytes = codec::encode(statement);
        let signature = key.sign(T::DOMAIN, &bytes);
        Self {
            bytes,
            signature,
            kind: PhantomData,
        }
    }

    /// The statement, if `key` signed it.
    ///
    /// # Errors
    /// When the signature does not stand or the bytes are not canonical.
    pub fn verify(&self, key: &PublicKey) -> Result<T, SignatureError> {
        key.verify(T::DOMAIN, &self.bytes, &self.signature)?;
        Ok(codec::decode(&self.bytes)?)
    }

    /// Bytes of statement and signature, as files and the wire carry them.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Back from [`Self::to_bytes`]. Nothing is verified yet.
    ///
    /// # Errors
    /// When the bytes are not canonical.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes)
    }
}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Signed<{}>({} bytes)",
            std::any::type_name::<T>(),
            self.bytes.len()
        )
    }
}

/// The CA's word that a node is enrolled and signs with a key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EnrolmentRecord {
    /// The node.
    pub node: NodeId,
    /// Its name when it was enrolled; a note for people.
    pub name: String,
    /// The key that signs its segments.
    pub signing_key: PublicKey,
    /// The first sequence number it signs in any stream of the node.
    pub from: Seq,
    /// When it was enrolled, by the reconciler's clock.
    pub at: Timestamp,
}

impl Statement for EnrolmentRecord {
    const DOMAIN: &'static str = "tallystick/1 enrolment record";
}

/// The CA's word that a key signs receipts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptKeyCertificate {
    /// The key that signs receipts.
    pub key: PublicKey,
    /// Since when.
    pub from: Timestamp,
}

impl Statement for ReceiptKeyCertificate {
    const DOMAIN: &'static str = "tallystick/1 receipt key";
}

/// An authority's word that another takes its place. From then on both are trusted, until the older one
/// is retired.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AuthoritySuccession {
    /// The next authority's certificate (DER); its key is Ed25519.
    pub certificate: Vec<u8>,
    /// Since when.
    pub from: Timestamp,
}

impl Statement for AuthoritySuccession {
    const DOMAIN: &'static str = "tallystick/1 authority succession";
}

/// An authority's word that an earlier one is trusted no longer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AuthorityRetirement {
    /// The earlier one's key.
    pub key: PublicKey,
    /// Since when.
    pub from: Timestamp,
}

impl Statement for AuthorityRetirement {
    const DOMAIN: &'static str = "tallystick/1 authority retirement";
}

/// The keys that sign one node's segments, each from a position of a stream on.
#[derive(Debug, Clone)]
pub struct KeyRing {
    node: NodeId,
    enrolled: PublicKey,
    rotations: Vec<(StreamId, Seq, PublicKey)>,
}

impl KeyRing {
    /// The ring of a node that signs with the key it enrolled with.
    #[must_use]
    pub fn new(node: NodeId, enrolled: PublicKey) -> Self {
        Self {
            node,
            enrolled,
            rotations: Vec::new(),
        }
    }

    /// Adds that segments of `stream` from `seq` on are signed by `key`, as a rotation segment at
    /// `seq − 1` said.
    pub fn rotate(&mut self, stream: StreamId, seq: Seq, key: PublicKey) {
        self.rotations.push((stream, seq, key));
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// From which numbers on other keys than the enrolled one sign a stream, in order.
    #[must_use]
    pub fn rotations(&self, stream: StreamId) -> Vec<Seq> {
        let of = self.rotations.iter().filter(|(of, _, _)| *of == stream);
        let mut from: Vec<Seq> = of.map(|(_, from, _)| *from).collect();
        from.sort_unstable();
        from
    }

    /// The key that must have signed the segment at that position.
    #[must_use]
    pub fn key_at(&self, stream: StreamId, seq: Seq) -> PublicKey {
        self.rotations
            .iter()
            .filter(|(of, from, _)| *of == stream && *from <= seq)
            .max_by_key(|(_, from, _)| *from)
            .map_or(self.enrolled, |(_, _, key)| *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EnrolmentRecord {
        EnrolmentRecord {
            node: NodeId([1; 16]),
            name: "edge-1".to_owned(),
            signing_key: SecretKey::from_seed(&[2; 32]).public(),
            from: Seq::FIRST,
            at: Timestamp::EPOCH,
        }
    }

    #[test]
    fn a_statement_is_read_only_under_its_signers_key() {
        let key = SecretKey::from_seed(&[7; 32]);
        let signed = Signed::new(&record(), &key);
        let carried = Signed::<EnrolmentRecord>::from_bytes(&signed.to_bytes()).unwrap();
        assert_eq!(carried.verify(&key.public()), Ok(record()));
        let other = SecretKey::from_seed(&[8; 32]).public();
        assert_eq!(carried.verify(&other), Err(SignatureError::Wrong(other)));
    }

    #[test]
    fn a_signature_of_one_kind_does_not_pass_for_another() {
        let key = SecretKey::from_seed(&[7; 32]);
        let bytes = Signed::new(&record(), &key).to_bytes();
        let other = Signed::<ReceiptKeyCertificate>::from_bytes(&bytes).unwrap();
        assert!(other.verify(&key.public()).is_err());
    }

    #[test]
    fn keys_are_judged_at_their_chain_position() {
        let (old, new) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let mut ring = KeyRing::new(NodeId::ZERO, old);
        ring.rotate(StreamId::ZERO, Seq(5), new);
        assert_eq!(ring.key_at(StreamId::ZERO, Seq(4)), old);
        assert_eq!(ring.key_at(StreamId::ZERO, Seq(5)), new);
        assert_eq!(ring.key_at(StreamId([9; 16]), Seq(5)), old);
    }
}
