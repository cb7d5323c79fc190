//! Who the reconciler is, and whom it lets in.
//!
//! Owns the keys that everything else is trusted by: the certificate authority, the server's TLS
//! certificate, the key that signs receipts. Does not know nodes: which node holds which key, which
//! join token is used up, is in the store.
//!
//! ```text
//! DATA/authority/    0700, made and changed as a whole or not at all
//!   ca.key           Ed25519, PKCS #8; signs certificates, enrolment records, receipt keys
//!   ca.crt           self-signed; its fingerprint is in every join token
//!   server.key       TLS key of the listener; stays
//!   server.crt       issued by the CA, renewed at half life
//!   receipt.key      signs receipts; stays
//!   receipt.cert     the CA's word that it does (`Signed<ReceiptKeyCertificate>`)
//!   earlier/         authorities that the present one succeeded, see `succession`
//! ```
//!
//! A rotation makes a new CA. The one before says so (`AuthoritySuccession`) and certifies the new one's
//! key, then its own key is destroyed: who trusts it alone believes the new one by that certificate. It is
//! trusted until it is retired.

mod certificate;
pub(crate) mod files;
pub mod join;
mod succession;
pub(crate) mod tls;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tallystick_common::authority::AuthorityRecord;
use tallystick_common::ids::{Hash, NodeId};
use tallystick_common::keys::{
    EnrolmentRecord, PublicKey, ReceiptKeyCertificate, SecretKey, Signed, Statement,
};
use tallystick_common::time::Timestamp;
use tallystick_common::wire::Trust;

use self::certificate::Issuer;
pub(crate) use self::certificate::last_second;
pub use self::certificate::{CertificateError, Lives, TlsIdentity, node_of, request_key};
use self::files::{read, write_private};
use self::succession::Earlier;
pub use self::succession::EarlierAuthority;
use self::tls::Handshakes;

/// Why the authority could not be made, opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already; another would orphan every enrolled node.
    #[error("create authority in {0}: there is one already, and enrolled nodes trust it")]
    Exists(PathBuf),
    /// There is none.
    #[error("open authority in {0}: there is none: run init first")]
    Missing(PathBuf),
    /// A file could not be read or written.
    #[error("{action} {path}: {error}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file can be read by others than its owner.
    #[error("open {0}: others can read it: remove their permissions (chmod 600)")]
    Exposed(PathBuf),
    /// A file does not hold what it should.
    #[error("read {0}: it does not hold {1}: restore it from a backup")]
    Content(PathBuf, &'static str),
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS takes none of it.
    #[error("set up TLS: {0}")]
    Tls(String),
    /// There is nothing to retire.
    #[error("retire {0}: no earlier authority has this fingerprint; `authority show` lists them")]
    NotEarlier(String),
    /// The system gave no random bytes.
    #[error("draw random bytes: {0}")]
    Random(getrandom::Error),
}

/// The keys of one reconciler, in memory. Clones are the same authority.
#[derive(Debug, Clone)]
pub struct Authority {
    data: PathBuf,
    lives: Lives,
    receipt: Arc<SecretKey>,
    held: Arc<RwLock<Arc<Held>>>,
}

/// What changes while serving.
#[derive(Debug)]
struct Held {
    issuer: Issuer,
    server: TlsIdentity,
    receipt_certificate: Signed<ReceiptKeyCertificate>,
    earlier: Vec<Earlier>,
    handshakes: Handshakes,
}

impl Authority {
    /// Makes a new authority under `data`.
    ///
    /// # Errors
    /// When there is one already or the files cannot be written.
    pub fn create(data: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        Self::create_with(data, Lives::default(), now)
    }

    /// As [`Self::create`], with certificates that live as long as said.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_with(data: &Path, lives: Lives, now: Timestamp) -> Result<Self, AuthorityError> {
        let directory = folder(data);
        if directory.exists() {
            return Err(AuthorityError::Exists(directory));
        }
        let issuer = Issuer::create(random()?, now)?;
        let server = issuer.server(random()?, lives.server_seconds, now)?;
        let receipt = SecretKey::from_seed(&random()?);
        let certificate = issuer.sign(&ReceiptKeyCertificate {
            key: receipt.public(),
            from: now,
        });
        let held = Held::new(issuer, server, certificate, Vec::new())?;
        let half_made = data.join("authority.new");
        held.write(&half_made, &receipt)?;
        files::finish_folder(&half_made, &directory)?;
        Ok(Self::of(data, lives, receipt, held))
    }

    /// Opens the authority under `data`, renewing the server's certificate at half life.
    ///
    /// # Errors
    /// When there is none, or its files are damaged or readable by others.
    pub fn open(data: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        Self::open_with(data, Lives::default(), now)
    }

    /// As [`Self::open`], with certificates that live as long as said.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(data: &Path, lives: Lives, now: Timestamp) -> Result<Self, AuthorityError> {
        let directory = folder(data);
        if !directory.is_dir() {
            return Err(AuthorityError::Missing(directory));
        }
        let receipt = SecretKey::from_seed(&files::seed(&directory.join("receipt.key"))?);
        let held = Held::open(&directory, lives, &receipt.public(), now)?;
        Ok(Self::of(data, lives, receipt, held))
    }

    /// Opens the authority under `data`, or makes it.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::create`].
    pub fn open_or_create(data: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        match Self::open(data, now) {
            Err(AuthorityError::Missing(_)) => Self::create(data, now),
            other => other,
        }
    }

    fn of(data: &Path, lives: Lives, receipt: SecretKey, held: Held) -> Self {
        Self {
            data: data.to_owned(),
            lives,
            receipt: Arc::new(receipt),
            held: Arc::new(RwLock::new(Arc::new(held))),
        }
    }

    /// Takes up what another process changed in the folder, and renews the server's certificate at half
    /// life: connections from now on see it. True when something is new.
    ///
    /// # Errors
    /// When the files are damaged; what is held stays as it is then.
    pub fn refresh(&self, now: Timestamp) -> Result<bool, AuthorityError> {
        let opened = Held::open(&folder(&self.data), self.lives, &self.receipt.public(), now)?;
        let changed = !opened.is_same(&self.held());
        if changed {
            self.hold(opened);
        }
        Ok(changed)
    }

    /// Puts a new certificate authority in the place of the present one, whose key is destroyed. Nodes
    /// learn of it when they connect; until [`Self::retire`] they trust both.
    ///
    /// # Errors
    /// When the files cannot be written; then nothing has changed.
    pub fn rotate(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let before = self.held();
        let issuer = Issuer::create(random()?, now)?;
        let mut earlier = before.earlier.clone();
        earlier.push(Earlier::of(&before, &issuer, random()?, now)?);
        let server = issuer.server(before.server.seed, self.lives.server_seconds, now)?;
        let certificate = issuer.sign(&ReceiptKeyCertificate {
            key: self.receipt.public(),
            from: now,
        });
        self.replace(Held::new(issuer, server, certificate, earlier)?)
    }

    /// Lets nodes trust an earlier authority no longer, by its fingerprint.
    ///
    /// # Errors
    /// When there is none with that fingerprint, or the files cannot be written.
    pub fn retire(&self, fingerprint: &Hash, now: Timestamp) -> Result<(), AuthorityError> {
        let before = self.held();
        let mut earlier = before.earlier.clone();
        let which = earlier
            .iter_mut()
            .find(|earlier| earlier.fingerprint() == *fingerprint)
            .ok_or_else(|| AuthorityError::NotEarlier(fingerprint.to_string()))?;
        which.retire(&before.issuer, now);
        let issuer = Issuer::from_parts(
            before.issuer.key().to_seed(),
            before.issuer.certificate().clone(),
        );
        let (server, certificate) = (before.server.clone(), before.receipt_certificate.clone());
        self.replace(Held::new(issuer, server, certificate, earlier)?)
    }

    fn replace(&self, held: Held) -> Result<(), AuthorityError> {
        let half_made = self.data.join("authority.new");
        held.write(&half_made, &self.receipt)?;
        files::exchange_folder(&half_made, &folder(&self.data))?;
        self.hold(held);
        Ok(())
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca_certificate(&self) -> CertificateDer<'static> {
        self.held().issuer.certificate().clone()
    }

    /// The CA's public key, which checks enrolment records and receipt keys.
    #[must_use]
    pub fn ca_key(&self) -> PublicKey {
        self.held().issuer.public()
    }

    /// BLAKE3 of the CA certificate's DER bytes: what a join token pins.
    #[must_use]
    pub fn ca_fingerprint(&self) -> Hash {
        fingerprint(self.held().issuer.certificate())
    }

    /// The authorities that this one succeeded, the oldest first.
    #[must_use]
    pub fn earlier(&self) -> Vec<EarlierAuthority> {
        self.held().earlier.iter().map(Earlier::view).collect()
    }

    /// The TLS chain of the server and its key: its certificate, the CA's (so that a pinning client can
    /// check it), and what leads there from earlier authorities.
    #[must_use]
    pub fn server(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let held = self.held();
        (held.chain(), held.server.private_key())
    }

    /// Where the TLS listeners find certificates and whom to believe, as they are at each handshake.
    pub(crate) fn handshakes(&self) -> tls::AtEachHandshake {
        tls::AtEachHandshake(self.clone())
    }

    /// The key that signs receipts.
    #[must_use]
    pub fn receipt_key(&self) -> &SecretKey {
        &self.receipt
    }

    /// The CA's word for [`Self::receipt_key`], and that of earlier ones which are not retired, for nodes
    /// that know no other yet.
    #[must_use]
    pub fn receipt_certificates(&self) -> Vec<Signed<ReceiptKeyCertificate>> {
        let held = self.held();
        let earlier = held.earlier.iter().filter(|earlier| !earlier.is_retired());
        let mut certificates = vec![held.receipt_certificate.clone()];
        certificates.extend(earlier.map(Earlier::receipt_certificate));
        certificates
    }

    /// What nodes are told of it: successions, retirements, receipt keys. Addresses are the caller's.
    #[must_use]
    pub fn trust(&self, addresses: &[String]) -> Trust {
        let held = self.held();
        Trust {
            successions: held.earlier.iter().map(Earlier::succession).collect(),
            retirements: held
                .earlier
                .iter()
                .filter_map(Earlier::retirement)
                .collect(),
            receipt_keys: self.receipt_certificates(),
            addresses: addresses.to_vec(),
        }
    }

    /// Every authority there was, the oldest first, with its word for the next and for the receipt key.
    #[must_use]
    pub fn records(&self) -> Vec<AuthorityRecord> {
        let held = self.held();
        let present = AuthorityRecord {
            certificate: held.issuer.certificate().to_vec(),
            receipt_key: held.receipt_certificate.clone(),
            succession: None,
            retirement: None,
        };
        let earlier = held.earlier.iter().map(Earlier::record);
        earlier.chain([present]).collect()
    }

    /// The present CA's word for [`Self::receipt_key`].
    #[must_use]
    pub fn receipt_certificate(&self) -> Signed<ReceiptKeyCertificate> {
        self.held().receipt_certificate.clone()
    }

    /// The CA's word that a node is enrolled.
    #[must_use]
    pub fn sign_enrolment(&self, record: &EnrolmentRecord) -> Signed<EnrolmentRecord> {
        self.held().issuer.sign(record)
    }

    /// A client certificate for `node`'s TLS key: common name = the node id.
    ///
    /// # Errors
    /// When the key is not one that certificates are issued for.
    pub fn issue_client(
        &self,
        node: NodeId,
        tls_key: &PublicKey,
        now: Timestamp,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let life = self.lives.node_seconds;
        Ok(self
            .held()
            .issuer
            .client(node, tls_key, random()?, life, now)?)
    }

    fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn hold(&self, held: Held) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
    }
}

impl Held {
    fn new(
        issuer: Issuer,
        server: TlsIdentity,
        receipt_certificate: Signed<ReceiptKeyCertificate>,
        earlier: Vec<Earlier>,
    ) -> Result<Self, AuthorityError> {
        let handshakes = Handshakes::new(
            chain(&issuer, &server, &earlier),
            &server.private_key(),
            issuer.certificate(),
            &earlier,
        )?;
        Ok(Self {
            issuer,
            server,
            receipt_certificate,
            earlier,
            handshakes,
        })
    }

    fn open(
        directory: &Path,
        lives: Lives,
        receipt: &PublicKey,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let issuer = Issuer::from_parts(
            files::seed(&directory.join("ca.key"))?,
            files::certificate(&directory.join("ca.crt"))?,
        );
        let certificate =
            receipt_certificate(&directory.join("receipt.cert"), &issuer.public(), receipt)?;
        let server = open_server(directory, &issuer, lives, now)?;
        let earlier = succession::read_all(directory, receipt)?;
        Self::new(issuer, server, certificate, earlier)
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        chain(&self.issuer, &self.server, &self.earlier)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.chain() == other.chain()
            && self.earlier == other.earlier
            && self.receipt_certificate == other.receipt_certificate
    }

    /// Writes everything into a folder beside the place.
    fn write(&self, half_made: &Path, receipt: &SecretKey) -> Result<(), AuthorityError> {
        files::begin_folder(half_made)?;
        write_private(&half_made.join("ca.key"), self.issuer.key_pem().as_bytes())?;
        write_private(
            &half_made.join("ca.crt"),
            certificate::pem(self.issuer.certificate()).as_bytes(),
        )?;
        write_server(half_made, &self.server)?;
        let receipt = certificate::key_pem(&receipt.to_seed());
        write_private(&half_made.join("receipt.key"), receipt.as_bytes())?;
        write_private(
            &half_made.join("receipt.cert"),
            &self.receipt_certificate.to_bytes(),
        )?;
        succession::write_all(half_made, &self.earlier)
    }
}

impl Issuer {
    fn sign<T: Statement>(&self, statement: &T) -> Signed<T> {
        Signed::new(statement, self.key())
    }
}

fn folder(data: &Path) -> PathBuf {
    data.join("authority")
}

fn fingerprint(certificate: &CertificateDer<'_>) -> Hash {
    Hash(*blake3::hash(certificate).as_bytes())
}

fn chain(
    issuer: &Issuer,
    server: &TlsIdentity,
    earlier: &[Earlier],
) -> Vec<CertificateDer<'static>> {
    let own = [server.certificate.clone(), issuer.certificate().clone()];
    let crossed = earlier.iter().rev().map(Earlier::cross);
    own.into_iter().chain(crossed).collect()
}

/// A certificate of the receipt key, by the authority whose key is `ca`.
fn receipt_certificate(
    path: &Path,
    ca: &PublicKey,
    key: &PublicKey,
) -> Result<Signed<ReceiptKeyCertificate>, AuthorityError> {
    let certificate = Signed::from_bytes(&read(path)?)
        .map_err(|_| AuthorityError::Content(path.to_owned(), "a receipt key's certificate"))?;
    match certificate.verify(ca) {
        Ok(ReceiptKeyCertificate { key: certified, .. }) if certified == *key => Ok(certificate),
        _ => Err(AuthorityError::Content(
            path.to_owned(),
            "the certificate of the receipt key beside it",
        )),
    }
}

fn open_server(
    directory: &Path,
    issuer: &Issuer,
    lives: Lives,
    now: Timestamp,
) -> Result<TlsIdentity, AuthorityError> {
    let server = TlsIdentity {
        seed: files::seed(&directory.join("server.key"))?,
        certificate: files::certificate(&directory.join("server.crt"))?,
    };
    if !certificate::is_half_spent(&server.certificate, now)? {
        return Ok(server);
    }
    let renewed = issuer.server(server.seed, lives.server_seconds, now)?;
    files::replace(
        &directory.join("server.crt"),
        certificate::pem(&renewed.certificate).as_bytes(),
    )?;
    Ok(renewed)
}

fn write_server(directory: &Path, server: &TlsIdentity) -> Result<(), AuthorityError> {
    write_private(
        &directory.join("server.key"),
        certificate::key_pem(&server.seed).as_bytes(),
    )?;
    write_private(
        &directory.join("server.crt"),
        certificate::pem(&server.certificate).as_bytes(),
    )
}

fn random<const N: usize>() -> Result<[u8; N], AuthorityError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(AuthorityError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_seconds(1_800_000_000).unwrap()
    }

    #[test]
    fn what_is_made_is_opened_again_and_never_made_over() {
        let data = tempfile::tempdir().unwrap();
        let made = Authority::create(data.path(), now()).unwrap();
        let opened = Authority::open(data.path(), now()).unwrap();
        assert_eq!(made.ca_fingerprint(), opened.ca_fingerprint());
        assert_eq!(made.receipt_key().public(), opened.receipt_key().public());
        assert_eq!(made.server().0, opened.server().0);
        let again = Authority::create(data.path(), now());
        assert!(matches!(again, Err(AuthorityError::Exists(_))), "{again:?}");
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let data = tempfile::tempdir().unwrap();
        Authority::create(data.path(), now()).unwrap();
        let directory = data.path().join("authority");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&directory.join("ca.key")), 0o600);
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(directory.join("ca.key"), open).unwrap();
        let exposed = Authority::open(data.path(), now());
        assert!(
            matches!(exposed, Err(AuthorityError::Exposed(_))),
            "{exposed:?}"
        );
    }

    #[test]
    fn the_server_certificate_is_renewed_at_half_life() {
        let data = tempfile::tempdir().unwrap();
        let made = Authority::create(data.path(), now()).unwrap();
        let later =
            Timestamp::from_seconds(1_800_000_000 + Lives::default().server_seconds * 2 / 3)
                .unwrap();
        let renewed = Authority::open(data.path(), later).unwrap();
        assert_ne!(made.server().0[0], renewed.server().0[0]);
        assert_eq!(made.server().0[1], renewed.server().0[1], "the CA stays");
        let reopened = Authority::open(data.path(), later).unwrap();
        assert_eq!(
            renewed.server().0,
            reopened.server().0,
            "the renewed one is on disk"
        );
    }

    #[test]
    fn a_receipt_key_that_the_ca_did_not_certify_is_noticed() {
        let data = tempfile::tempdir().unwrap();
        Authority::create(data.path(), now()).unwrap();
        let path = data.path().join("authority/receipt.key");
        std::fs::write(path, certificate::key_pem(&[9; 32])).unwrap();
        let opened = Authority::open(data.path(), now());
        assert!(
            matches!(opened, Err(AuthorityError::Content(..))),
            "{opened:?}"
        );
    }

    #[test]
    fn a_client_certificate_names_its_node() {
        let data = tempfile::tempdir().unwrap();
        let authority = Authority::create(data.path(), now()).unwrap();
        let tls_key = SecretKey::from_seed(&[3; 32]).public();
        let node = NodeId([0xab; 16]);
        let certificate = authority.issue_client(node, &tls_key, now()).unwrap();
        assert_eq!(node_of(&certificate), Some((node, tls_key)));
        assert_eq!(node_of(&authority.ca_certificate()), None);
    }

    #[test]
    fn a_rotation_is_believed_by_who_knew_the_authority_before_and_survives_on_disk() {
        let data = tempfile::tempdir().unwrap();
        let authority = Authority::create(data.path(), now()).unwrap();
        let serving = Authority::open(data.path(), now()).unwrap();
        let before = authority.ca_key();
        let fingerprint = authority.ca_fingerprint();
        authority.rotate(now()).unwrap();
        assert_ne!(authority.ca_key(), before);
        let trust = authority.trust(&[]);
        let succession = trust.successions[0].verify(&before).unwrap();
        assert_eq!(succession.certificate, authority.ca_certificate().to_vec());
        let certified = |key: &PublicKey| {
            let mut keys = trust.receipt_keys.iter();
            keys.any(|certificate| certificate.verify(key).is_ok())
        };
        assert!(certified(&before) && certified(&authority.ca_key()));
        assert_eq!(
            authority.server().0.len(),
            3,
            "server, CA, what leads to it"
        );

        assert!(
            serving.refresh(now()).unwrap(),
            "a running server takes it up"
        );
        assert!(!serving.refresh(now()).unwrap());
        assert_eq!(serving.server().0, authority.server().0);
        let opened = Authority::open(data.path(), now()).unwrap();
        assert_eq!(opened.trust(&[]), trust);

        opened.retire(&fingerprint, now()).unwrap();
        let trust = opened.trust(&[]);
        let retired = trust.retirements[0].verify(&opened.ca_key()).unwrap();
        assert_eq!((retired.key, trust.receipt_keys.len()), (before, 1));
        let unknown = opened.retire(&opened.ca_fingerprint(), now());
        assert!(
            matches!(unknown, Err(AuthorityError::NotEarlier(_))),
            "{unknown:?}"
        );
    }
}
