//! Who this node is: its keys, and what its reconciler gave it for them.
//!
//! Owns the folder `identity/`. Keys are drawn and on the disk before they are first used, so that
//! an enrolment whose answer was lost is repeated with the same ones.
//!
//! ```text
//! identity/           0700
//!   keys.json         0600, the seeds of the signing key and of the TLS key; they never leave
//!   enrolment.json    0600, node id, certificates, the CA's record, addresses
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tallystick_common::ids::{Hash, NodeId};
use tallystick_common::keys::{
    EnrolmentRecord, KeyRing, PublicKey, ReceiptKeyCertificate, SecretKey, Signed, Statement,
};
use tallystick_common::receipt::Receipt;
use tallystick_common::verify::evidence;
use tallystick_common::wire::Trust;

use crate::durable;
use crate::ship::authorities::Authorities;
use crate::ship::enroll::{Enrolment, NodeKeys};
use crate::ship::{merged, tls};

/// Why the identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file.
    #[error(
        "cannot {action} {path}: {source}; check the owner and the permissions of the data folder"
    )]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in a file.
    #[error(
        "{path} is damaged ({what}): restore it from a backup, or enrol this host as a new node with an empty data folder"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There is an enrolment already.
    #[error(
        "this host is enrolled already, as node {node}: to make it a new node give it an empty data folder with --data"
    )]
    Enrolled {
        /// As which.
        node: NodeId,
    },
    /// No random bytes for keys.
    #[error("draw keys: {0}")]
    Keys(String),
}

/// An enrolled node.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Everything it was given.
    pub enrolment: Enrolment,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    format: u32,
    signing_seed: String,
    tls_seed: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentFile {
    format: u32,
    node: NodeId,
    name: String,
    addresses: Vec<String>,
    record: String,
    certificate: String,
    ca: String,
    #[serde(default)]
    successions: Vec<String>,
    #[serde(default)]
    retirements: Vec<String>,
    receipt_keys: Vec<String>,
}

const FORMAT: u32 = 1;

impl Identity {
    /// Reads the identity in `data`; `None` when the host is not enrolled.
    ///
    /// # Errors
    /// When a file is there and cannot be used.
    pub fn load(data: &Path) -> Result<Option<Self>, IdentityError> {
        let path = enrolment_path(data);
        let Some(file) = read_json::<EnrolmentFile>(&path)? else {
            return Ok(None);
        };
        let damaged = |what: &str| IdentityError::Damaged {
            path: path.clone(),
            what: what.to_owned(),
        };
        let keys = load_keys(data)?.ok_or_else(|| damaged("keys.json beside it is missing"))?;
        let signed_record: Signed<EnrolmentRecord> =
            signed(&file.record).ok_or_else(|| damaged("record"))?;
        let ca = unhex(&file.ca).ok_or_else(|| damaged("ca"))?;
        let ca_key = authority(&ca).ok_or_else(|| damaged("ca"))?;
        let record = signed_record
            .verify(&ca_key)
            .map_err(|error| damaged(&error.to_string()))?;
        let statements = |what| move |()| damaged(what);
        let receipt_keys = all_signed(&file.receipt_keys).map_err(statements("receipt_keys"))?;
        let successions = all_signed(&file.successions).map_err(statements("successions"))?;
        let retirements = all_signed(&file.retirements).map_err(statements("retirements"))?;
        if record.node != file.node || record.signing_key != keys_public(&keys) {
            return Err(damaged("the record is of another node or key"));
        }
        Ok(Some(Self {
            enrolment: Enrolment {
                keys,
                record,
                signed_record,
                certificate: unhex(&file.certificate).ok_or_else(|| damaged("certificate"))?,
                ca,
                successions,
                retirements,
                receipt_keys,
                addresses: file.addresses,
            },
        }))
    }

    /// The keys to enrol with: those drawn before, or new ones, which are stored first.
    ///
    /// # Errors
    /// [`IdentityError::Enrolled`] when there is nothing to enrol.
    pub fn keys_to_enroll(data: &Path) -> Result<NodeKeys, IdentityError> {
        if let Some(identity) = Self::load(data)? {
            return Err(IdentityError::Enrolled {
                node: identity.node(),
            });
        }
        if let Some(keys) = load_keys(data)? {
            return Ok(keys);
        }
        let keys = NodeKeys::draw().map_err(|error| IdentityError::Keys(error.to_string()))?;
        let file = KeysFile {
            format: FORMAT,
            signing_seed: HEXLOWER.encode(&keys.signing_seed),
            tls_seed: HEXLOWER.encode(&keys.tls_seed),
        };
        write_json(&keys_path(data), &file)?;
        Ok(keys)
    }

    /// Stores an enrolment; the host is a node when this returns.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn store(data: &Path, enrolment: Enrolment) -> Result<Self, IdentityError> {
        let file = EnrolmentFile {
            format: FORMAT,
            node: enrolment.record.node,
            name: enrolment.record.name.clone(),
            addresses: enrolment.addresses.clone(),
            record: HEXLOWER.encode(&enrolment.signed_record.to_bytes()),
            certificate: HEXLOWER.encode(&enrolment.certificate),
            ca: HEXLOWER.encode(&enrolment.ca),
            successions: hex_of(&enrolment.successions),
            retirements: hex_of(&enrolment.retirements),
            receipt_keys: hex_of(&enrolment.receipt_keys),
        };
        write_json(&enrolment_path(data), &file)?;
        Ok(Self { enrolment })
    }

    /// Stores the keys that sign receipts, where they are not the ones known.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn learn_receipt_keys(
        &mut self,
        data: &Path,
        keys: Vec<Signed<ReceiptKeyCertificate>>,
    ) -> Result<(), IdentityError> {
        if keys == self.enrolment.receipt_keys {
            return Ok(());
        }
        let enrolment = Enrolment {
            receipt_keys: keys,
            ..self.enrolment.clone()
        };
        *self = Self::store(data, enrolment)?;
        Ok(())
    }

    /// Stores whom to trust and where to connect, as far as it can be believed and is new.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn learn_trust(&mut self, data: &Path, trust: &Trust) -> Result<(), IdentityError> {
        let mut enrolment = self.enrolment.clone();
        if let Some(mut authorities) = self.authorities() {
            if authorities.learn(&trust.successions, &trust.retirements) {
                enrolment.successions.clone_from(&trust.successions);
                enrolment.retirements.clone_from(&trust.retirements);
            }
            let certified = authorities.certified(&trust.receipt_keys);
            if !certified.is_empty() {
                enrolment.receipt_keys = certified;
            }
        }
        enrolment.addresses = merged(&trust.addresses, &enrolment.addresses);
        let same = enrolment.successions == self.enrolment.successions
            && enrolment.retirements == self.enrolment.retirements
            && enrolment.receipt_keys == self.enrolment.receipt_keys
            && enrolment.addresses == self.enrolment.addresses;
        if !same {
            *self = Self::store(data, enrolment)?;
        }
        Ok(())
    }

    /// Stores a new certificate.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn renew(&mut self, data: &Path, certificate: &[u8]) -> Result<(), IdentityError> {
        let enrolment = Enrolment {
            certificate: certificate.to_vec(),
            ..self.enrolment.clone()
        };
        *self = Self::store(data, enrolment)?;
        Ok(())
    }

    fn authorities(&self) -> Option<Authorities> {
        let mut authorities = Authorities::new(self.enrolment.ca.clone()).ok()?;
        authorities.learn(&self.enrolment.successions, &self.enrolment.retirements);
        Some(authorities)
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.enrolment.record.node
    }

    /// The key that signs its segments.
    #[must_use]
    pub fn signing_key(&self) -> SecretKey {
        SecretKey::from_seed(&self.enrolment.keys.signing_seed)
    }

    /// What a stored receipt says, if one of the reconciler's keys signed it.
    #[must_use]
    pub fn read_receipt(&self, bytes: &[u8]) -> Option<Receipt> {
        let authorities = self.authorities()?.all_keys();
        let receipt = Signed::<Receipt>::from_bytes(bytes).ok()?;
        let certified = self
            .enrolment
            .receipt_keys
            .iter()
            .filter_map(|key| authorities.iter().find_map(|by| key.verify(by).ok()));
        certified
            .map(|certificate| certificate.key)
            .find_map(|key| receipt.verify(&key).ok())
    }

    /// What it can bear out of evidence: the authority it enrolled with, and its own key.
    #[must_use]
    pub fn trust(&self) -> [evidence::Trust; 2] {
        let authority = blake3::hash(&self.enrolment.ca);
        [
            evidence::Trust::Key(Hash(*authority.as_bytes())),
            evidence::Trust::Key(Hash(self.enrolment.record.signing_key.0)),
        ]
    }

    /// What its segments verify with.
    #[must_use]
    pub fn key_ring(&self) -> KeyRing {
        KeyRing::new(self.node(), self.enrolment.record.signing_key)
    }
}

fn keys_public(keys: &NodeKeys) -> PublicKey {
    SecretKey::from_seed(&keys.signing_seed).public()
}

fn keys_path(data: &Path) -> PathBuf {
    data.join("identity").join("keys.json")
}

fn enrolment_path(data: &Path) -> PathBuf {
    data.join("identity").join("enrolment.json")
}

fn load_keys(data: &Path) -> Result<Option<NodeKeys>, IdentityError> {
    let path = keys_path(data);
    let Some(file) = read_json::<KeysFile>(&path)? else {
        return Ok(None);
    };
    let seed = |text: &str| unhex(text).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    match (seed(&file.signing_seed), seed(&file.tls_seed)) {
        (Some(signing_seed), Some(tls_seed)) => Ok(Some(NodeKeys {
            signing_seed,
            tls_seed,
        })),
        _ => Err(IdentityError::Damaged {
            path,
            what: "a seed is not 64 hexadecimal digits".into(),
        }),
    }
}

fn authority(ca: &[u8]) -> Option<PublicKey> {
    tls::authority_key(&CertificateDer::from(ca))
        .ok()
        .map(PublicKey)
}

fn signed<T: Statement>(hex: &str) -> Option<Signed<T>> {
    Signed::from_bytes(&unhex(hex)?).ok()
}

fn all_signed<T: Statement>(texts: &[String]) -> Result<Vec<Signed<T>>, ()> {
    texts.iter().map(|text| signed(text).ok_or(())).collect()
}

fn hex_of<T: Statement>(statements: &[Signed<T>]) -> Vec<String> {
    let hex = |statement: &Signed<T>| HEXLOWER.encode(&statement.to_bytes());
    statements.iter().map(hex).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    HEXLOWER.decode(text.as_bytes()).ok()
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, IdentityError> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| IdentityError::Damaged {
                    path: path.to_owned(),
                    what: error.to_string(),
                })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::Io {
        action: "write",
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent() {
        durable::create_private_dir(dir).map_err(failed)?;
    }
    let json = serde_json::to_vec_pretty(value).expect("texts and numbers can be written as JSON");
    durable::replace_file(path, &json).map_err(failed)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{CertificateParams, KeyPair};
    use tallystick_common::ids::{Hash, Seq, StoreEpoch, StreamId};
    use tallystick_common::time::Timestamp;

    use super::*;

    /// An authority, and a node enrolled by it.
    pub(crate) fn enrolment(keys: NodeKeys, addresses: &[&str]) -> (SecretKey, Enrolment) {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let ca = CertificateParams::default().self_signed(&pair).unwrap();
        // The last 32 bytes of the private key's PKCS #8 v1 part are its seed.
        let pkcs8 = pair.serialize_der();
        let seed = pkcs8
            .windows(4)
            .position(|window| window == [0x04, 0x22, 0x04, 0x20])
            .unwrap()
            + 4;
        let ca_key = SecretKey::from_seed(pkcs8[seed..seed + 32].try_into().unwrap());
        let record = EnrolmentRecord {
            node: NodeId([5; 16]),
            name: "here".to_owned(),
            signing_key: keys_public(&keys),
            from: Seq::FIRST,
            at: Timestamp::from_seconds(1_700_000_000).unwrap(),
        };
        let receipt_key = ReceiptKeyCertificate {
            key: SecretKey::from_seed(&[9; 32]).public(),
            from: Timestamp::EPOCH,
        };
        let enrolment = Enrolment {
            keys,
            signed_record: Signed::new(&record, &ca_key),
            record,
            certificate: ca.der().to_vec(),
            ca: ca.der().to_vec(),
            successions: Vec::new(),
            retirements: Vec::new(),
            receipt_keys: vec![Signed::new(&receipt_key, &ca_key)],
            addresses: addresses
                .iter()
                .map(|address| (*address).to_owned())
                .collect(),
        };
        (ca_key, enrolment)
    }

    #[test]
    fn an_enrolment_is_read_back_as_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Identity::load(folder.path()).unwrap().is_none());
        let keys = Identity::keys_to_enroll(folder.path()).unwrap();
        let again = Identity::keys_to_enroll(folder.path()).unwrap();
        assert_eq!(
            keys.signing_seed, again.signing_seed,
            "a lost answer is asked for with the same keys"
        );
        let mode = fs::metadata(keys_path(folder.path()))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let (_, enrolment) = enrolment(keys, &["reconciler:8621"]);
        Identity::store(folder.path(), enrolment.clone()).unwrap();
        let loaded = Identity::load(folder.path()).unwrap().unwrap().enrolment;
        assert_eq!(loaded.record, enrolment.record);
        assert_eq!(loaded.keys.tls_seed, enrolment.keys.tls_seed);
        assert_eq!(
            (loaded.certificate, loaded.ca),
            (enrolment.certificate, enrolment.ca)
        );
        assert_eq!(loaded.addresses, enrolment.addresses);
        assert!(matches!(
            Identity::keys_to_enroll(folder.path()),
            Err(IdentityError::Enrolled { .. })
        ));
    }

    #[test]
    fn a_record_that_the_authority_did_not_sign_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Identity::keys_to_enroll(folder.path()).unwrap();
        let (_, mut given) = enrolment(keys.clone(), &[]);
        given.ca = enrolment(keys, &[]).1.ca;
        Identity::store(folder.path(), given).unwrap();
        assert!(matches!(
            Identity::load(folder.path()),
            Err(IdentityError::Damaged { .. })
        ));
    }

    #[test]
    fn a_stored_receipt_is_read_only_if_a_certified_key_signed_it() {
        let folder = tempfile::tempdir().unwrap();
        let (_, enrolment) = enrolment(Identity::keys_to_enroll(folder.path()).unwrap(), &[]);
        let identity = Identity { enrolment };
        let receipt = Receipt {
            node: identity.node(),
            stream: StreamId([1; 16]),
            seq: Seq(3),
            hash: Hash([2; 32]),
            epoch: StoreEpoch([3; 16]),
            at: Timestamp::EPOCH,
            since: Seq(0),
            quarantined: Vec::new(),
        };
        let signed_by = |seed| Signed::new(&receipt, &SecretKey::from_seed(&[seed; 32])).to_bytes();
        assert_eq!(identity.read_receipt(&signed_by(9)), Some(receipt.clone()));
        assert_eq!(identity.read_receipt(&signed_by(8)), None);
    }
}
