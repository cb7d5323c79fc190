//! Authorities that the present one succeeded.
//!
//! ```text
//! authority/earlier/
//!   0001.crt        the earlier one's certificate
//!   0001.next       its word for the next (`Signed<AuthoritySuccession>`)
//!   0001.cross      the next one's key, certified by it
//!   0001.receipt    its word for the receipt key
//!   0001.retired    the later one's word that it is trusted no longer, once that was decided
//! ```
//!
//! Their keys are gone: nothing new can be signed by them.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use serde::Serialize;
use tallystick_common::authority::AuthorityRecord;
use tallystick_common::ids::Hash;
use tallystick_common::keys::{
    AuthorityRetirement, AuthoritySuccession, PublicKey, ReceiptKeyCertificate, Signed, Statement,
};
use tallystick_common::time::Timestamp;

use super::certificate::{self, Issuer, authority_key};
use super::files::{read, write_private};
use super::{AuthorityError, Held, files, fingerprint, receipt_certificate};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Earlier {
    certificate: CertificateDer<'static>,
    key: PublicKey,
    next: Signed<AuthoritySuccession>,
    cross: CertificateDer<'static>,
    receipt: Signed<ReceiptKeyCertificate>,
    retired: Option<Signed<AuthorityRetirement>>,
}

/// One of them, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EarlierAuthority {
    /// BLAKE3 of its certificate.
    pub fingerprint: Hash,
    /// When another took its place.
    pub succeeded_at: Option<Timestamp>,
    /// Whether nodes are told to trust it no longer.
    pub retired: bool,
}

impl Earlier {
    /// What the authority in `before` leaves behind for the one that takes its place.
    pub(super) fn of(
        before: &Held,
        next: &Issuer,
        serial: [u8; 16],
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let issuer = &before.issuer;
        let succession = AuthoritySuccession {
            certificate: next.certificate().to_vec(),
            from: now,
        };
        Ok(Self {
            certificate: issuer.certificate().clone(),
            key: issuer.public(),
            next: issuer.sign(&succession),
            cross: issuer.cross(&next.public(), serial, now)?,
            receipt: before.receipt_certificate.clone(),
            retired: None,
        })
    }

    /// The present authority lets it be trusted no longer; once is enough.
    pub(super) fn retire(&mut self, present: &Issuer, now: Timestamp) {
        let retirement = AuthorityRetirement {
            key: self.key,
            from: now,
        };
        self.retired
            .get_or_insert_with(|| present.sign(&retirement));
    }

    pub(super) fn fingerprint(&self) -> Hash {
        fingerprint(&self.certificate)
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn cross(&self) -> CertificateDer<'static> {
        self.cross.clone()
    }

    pub(super) fn succession(&self) -> Signed<AuthoritySuccession> {
        self.next.clone()
    }

    pub(super) fn retirement(&self) -> Option<Signed<AuthorityRetirement>> {
        self.retired.clone()
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.is_some()
    }

    pub(super) fn receipt_certificate(&self) -> Signed<ReceiptKeyCertificate> {
        self.receipt.clone()
    }

    /// All that it said, for evidence.
    pub(super) fn record(&self) -> AuthorityRecord {
        AuthorityRecord {
            certificate: self.certificate.to_vec(),
            receipt_key: self.receipt.clone(),
            succession: Some(self.next.clone()),
            retirement: self.retired.clone(),
        }
    }

    pub(super) fn view(&self) -> EarlierAuthority {
        EarlierAuthority {
            fingerprint: self.fingerprint(),
            succeeded_at: self.next.verify(&self.key).ok().map(|next| next.from),
            retired: self.is_retired(),
        }
    }

    fn read(folder: &Path, name: &str, receipt: &PublicKey) -> Result<Self, AuthorityError> {
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        let certificate = files::certificate(&file("crt"))?;
        let key = authority_key(&certificate).ok_or_else(|| {
            AuthorityError::Content(file("crt"), "the certificate of an Ed25519 key")
        })?;
        let next: Signed<AuthoritySuccession> = statement(&file("next"))?;
        let retired = match file("retired").exists() {
            true => Some(statement(&file("retired"))?),
            false => None,
        };
        if next.verify(&key).is_err() {
            let what = "the word of the authority beside it";
            return Err(AuthorityError::Content(file("next"), what));
        }
        Ok(Self {
            receipt: receipt_certificate(&file("receipt"), &key, receipt)?,
            cross: files::certificate(&file("cross"))?,
            certificate,
            key,
            next,
            retired,
        })
    }

    fn write(&self, folder: &Path, name: &str) -> Result<(), AuthorityError> {
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        write_private(&file("crt"), certificate::pem(&self.certificate).as_bytes())?;
        write_private(&file("next"), &self.next.to_bytes())?;
        write_private(&file("cross"), certificate::pem(&self.cross).as_bytes())?;
        write_private(&file("receipt"), &self.receipt.to_bytes())?;
        match &self.retired {
            Some(retired) => write_private(&file("retired"), &retired.to_bytes()),
            None => Ok(()),
        }
    }
}

/// Every earlier authority, the oldest first.
pub(super) fn read_all(
    directory: &Path,
    receipt: &PublicKey,
) -> Result<Vec<Earlier>, AuthorityError> {
    let folder = directory.join("earlier");
    let mut all = Vec::new();
    while folder.join(format!("{}.crt", name(all.len()))).exists() {
        all.push(Earlier::read(&folder, &name(all.len()), receipt)?);
    }
    Ok(all)
}

pub(super) fn write_all(directory: &Path, all: &[Earlier]) -> Result<(), AuthorityError> {
    let folder = directory.join("earlier");
    files::begin_folder(&folder)?;
    for (index, earlier) in all.iter().enumerate() {
        earlier.write(&folder, &name(index))?;
    }
    files::sync_folder(&folder)
}

fn name(index: usize) -> String {
    format!("{:04}", index + 1)
}

fn statement<T: Statement>(path: &Path) -> Result<Signed<T>, AuthorityError> {
    Signed::from_bytes(&read(path)?)
        .map_err(|_| AuthorityError::Content(path.to_owned(), "a signed statement"))
}
