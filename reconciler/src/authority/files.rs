//! Files that only their owner reads, written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::AuthorityError;
use super::certificate::seed_of;

/// An empty folder for its owner alone, in place of what an interrupted attempt left there.
pub(crate) fn begin_folder(path: &Path) -> Result<(), AuthorityError> {
    if path.exists() {
        fs::remove_dir_all(path).map_err(failed("remove", path))?;
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create", path))
}

/// Moves a finished folder into place, durably.
pub(crate) fn finish_folder(half_made: &Path, place: &Path) -> Result<(), AuthorityError> {
    sync_folder(half_made)?;
    fs::rename(half_made, place).map_err(failed("rename to", place))?;
    place.parent().map_or(Ok(()), sync_folder)
}

/// Puts a finished folder in the place of the one there, at one stroke; that one is removed.
pub(super) fn exchange_folder(half_made: &Path, place: &Path) -> Result<(), AuthorityError> {
    sync_folder(half_made)?;
    let exchanged = renameat_with(CWD, half_made, CWD, place, RenameFlags::EXCHANGE);
    exchanged.map_err(|errno| failed("exchange", place)(errno.into()))?;
    place.parent().map_or(Ok(()), sync_folder)?;
    fs::remove_dir_all(half_made).map_err(failed("remove", half_made))
}

/// A new file, mode 0600, on disk when this returns.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), AuthorityError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed("write", path))
}

/// Puts a new content in the place of the old one.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), AuthorityError> {
    let beside = path.with_extension("new");
    write_private(&beside, content)?;
    fs::rename(&beside, path).map_err(failed("rename to", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    fs::read(path).map_err(failed("read", path))
}

/// Reads a file, unless others could have.
pub(super) fn read_private(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    let mode = fs::metadata(path)
        .map_err(failed("read", path))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(AuthorityError::Exposed(path.to_owned()));
    }
    read(path)
}

/// The seed of an Ed25519 key in a PKCS #8 file.
pub(super) fn seed(path: &Path) -> Result<[u8; 32], AuthorityError> {
    PrivatePkcs8KeyDer::from_pem_slice(&read_private(path)?)
        .ok()
        .and_then(|key| seed_of(&key))
        .ok_or_else(|| AuthorityError::Content(path.to_owned(), "an Ed25519 key (PKCS #8, PEM)"))
}

/// A certificate in a PEM file.
pub(super) fn certificate(path: &Path) -> Result<CertificateDer<'static>, AuthorityError> {
    CertificateDer::from_pem_slice(&read(path)?)
        .map_err(|_| AuthorityError::Content(path.to_owned(), "a certificate (PEM)"))
}

pub(crate) fn sync_folder(path: &Path) -> Result<(), AuthorityError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |error| AuthorityError::File {
        action,
        path,
        error,
    }
}
