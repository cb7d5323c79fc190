//! A store in a temporary folder, for tests of this crate.

use tallystick_common::ids::StoreEpoch;
use tallystick_common::time::Timestamp;

use super::Store;

/// A new store, which lives as long as the folder.
pub(crate) async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(Store::FILE_NAME);
    let store = Store::create(&path, StoreEpoch([7; 16]), Timestamp::EPOCH)
        .await
        .expect("a new store");
    (folder, store)
}
