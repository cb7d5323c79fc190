//! Who the reconciler is, and whom it lets in.
//!
//! Owns the keys that everything else is trusted by: the certificate authority, the server's TLS
//! certificate, the key that signs receipts. Does not know nodes: which node holds which key, which
//! join token is used up, is in the store.
//!
//! ```text
//! DATA/authority/    0700, made whole or not at all
//!   ca.key           Ed25519, PKCS #8; signs certificates, enrolment records, receipt keys
//!   ca.crt           self-signed; its fingerprint is in every join token
//!   server.key       TLS key of the QUIC listener
//!   server.crt       issued by the CA, renewed at half life when the authority is opened
//!   receipt.key      signs receipts
//!   receipt.cert     the CA's word that it does (`Signed<ReceiptKeyCertificate>`)
//! ```

mod certificate;
mod files;
pub mod join;

use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tallystick_common::ids::{Hash, NodeId};
use tallystick_common::keys::{
    EnrolmentRecord, PublicKey, ReceiptKeyCertificate, SecretKey, Signed, Statement,
};
use tallystick_common::time::Timestamp;

pub use self::certificate::{
    CLIENT_LIFE_SECONDS, CertificateError, TlsIdentity, node_of, request_key,
};
use self::certificate::{Issuer, SERVER_LIFE_SECONDS};
use self::files::{read, write_private};

/// Why the authority could not be made or opened.
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
    /// The system gave no random bytes.
    #[error("draw random bytes: {0}")]
    Random(getrandom::Error),
}

/// The keys of one reconciler, in memory.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer,
    server: TlsIdentity,
    receipt: SecretKey,
    receipt_certificate: Signed<ReceiptKeyCertificate>,
}

impl Authority {
    /// Makes a new authority under `data`.
    ///
    /// # Errors
    /// When there is one already or the files cannot be written.
    pub fn create(data: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let directory = data.join("authority");
        if directory.exists() {
            return Err(AuthorityError::Exists(directory));
        }
        let issuer = Issuer::create(random()?, now)?;
        let server = issuer.server(random()?, now)?;
        let receipt = SecretKey::from_seed(&random()?);
        let receipt_certificate = issuer.sign(&ReceiptKeyCertificate {
            key: receipt.public(),
            from: now,
        });
        let made = Self {
            issuer,
            server,
            receipt,
            receipt_certificate,
        };
        made.write(data, &directory)?;
        Ok(made)
    }

    /// Opens the authority under `data`, renewing the server's certificate at half life.
    ///
    /// # Errors
    /// When there is none, or its files are damaged or readable by others.
    pub fn open(data: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let directory = data.join("authority");
        if !directory.is_dir() {
            return Err(AuthorityError::Missing(directory));
        }
        let issuer = Issuer::from_parts(
            files::seed(&directory.join("ca.key"))?,
            files::certificate(&directory.join("ca.crt"))?,
        );
        let (receipt, receipt_certificate) = open_receipt(&directory, issuer.public())?;
        let server = open_server(&directory, &issuer, now)?;
        Ok(Self {
            issuer,
            server,
            receipt,
            receipt_certificate,
        })
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

    /// The CA's certificate.
    #[must_use]
    pub fn ca_certificate(&self) -> &CertificateDer<'static> {
        self.issuer.certificate()
    }

    /// The CA's public key, which checks enrolment records and receipt keys.
    #[must_use]
    pub fn ca_key(&self) -> PublicKey {
        self.issuer.public()
    }

    /// BLAKE3 of the CA certificate's DER bytes: what a join token pins.
    #[must_use]
    pub fn ca_fingerprint(&self) -> Hash {
        Hash(*blake3::hash(self.ca_certificate()).as_bytes())
    }

    /// The TLS chain (server, then CA, so that a pinning client can check it) and key of the server.
    #[must_use]
    pub fn server(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = vec![
            self.server.certificate.clone(),
            self.ca_certificate().clone(),
        ];
        (chain, self.server.private_key())
    }

    /// The key that signs receipts.
    #[must_use]
    pub fn receipt_key(&self) -> &SecretKey {
        &self.receipt
    }

    /// The CA's word for [`Self::receipt_key`].
    #[must_use]
    pub fn receipt_certificate(&self) -> &Signed<ReceiptKeyCertificate> {
        &self.receipt_certificate
    }

    /// The CA's word that a node is enrolled.
    #[must_use]
    pub fn sign_enrolment(&self, record: &EnrolmentRecord) -> Signed<EnrolmentRecord> {
        self.issuer.sign(record)
    }

    /// A client certificate for `node`'s TLS key: 90 days, common name = the node id.
    ///
    /// # Errors
    /// When the key is not one that certificates are issued for.
    pub fn issue_client(
        &self,
        node: NodeId,
        tls_key: &PublicKey,
        now: Timestamp,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        Ok(self.issuer.client(node, tls_key, random()?, now)?)
    }

    /// Writes everything into a folder beside, then moves it into place.
    fn write(&self, data: &Path, directory: &Path) -> Result<(), AuthorityError> {
        let half_made = data.join("authority.new");
        files::begin_folder(&half_made)?;
        write_private(&half_made.join("ca.key"), self.issuer.key_pem().as_bytes())?;
        write_private(
            &half_made.join("ca.crt"),
            certificate::pem(self.ca_certificate()).as_bytes(),
        )?;
        write_server(&half_made, &self.server)?;
        let receipt = certificate::key_pem(&self.receipt.to_seed());
        write_private(&half_made.join("receipt.key"), receipt.as_bytes())?;
        write_private(
            &half_made.join("receipt.cert"),
            &self.receipt_certificate.to_bytes(),
        )?;
        files::finish_folder(&half_made, directory)
    }
}

impl Issuer {
    fn sign<T: Statement>(&self, statement: &T) -> Signed<T> {
        Signed::new(statement, self.key())
    }
}

fn open_receipt(
    directory: &Path,
    ca: PublicKey,
) -> Result<(SecretKey, Signed<ReceiptKeyCertificate>), AuthorityError> {
    let key = SecretKey::from_seed(&files::seed(&directory.join("receipt.key"))?);
    let path = directory.join("receipt.cert");
    let certificate = Signed::from_bytes(&read(&path)?)
        .map_err(|_| AuthorityError::Content(path.clone(), "a receipt key's certificate"))?;
    match certificate.verify(&ca) {
        Ok(ReceiptKeyCertificate { key: certified, .. }) if certified == key.public() => {
            Ok((key, certificate))
        }
        _ => Err(AuthorityError::Content(
            path,
            "the certificate of the receipt key beside it",
        )),
    }
}

fn open_server(
    directory: &Path,
    issuer: &Issuer,
    now: Timestamp,
) -> Result<TlsIdentity, AuthorityError> {
    let server = TlsIdentity {
        seed: files::seed(&directory.join("server.key"))?,
        certificate: files::certificate(&directory.join("server.crt"))?,
    };
    let left = certificate::seconds_left(&server.certificate, now)?;
    if left > SERVER_LIFE_SECONDS / 2 {
        return Ok(server);
    }
    let renewed = issuer.server(server.seed, now)?;
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
        let later = Timestamp::from_seconds(1_800_000_000 + SERVER_LIFE_SECONDS * 2 / 3).unwrap();
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
        assert_eq!(node_of(authority.ca_certificate()), None);
    }
}
