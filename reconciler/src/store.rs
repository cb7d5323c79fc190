//! The store: one SQLite file (WAL, `synchronous=FULL`), and every SQL text about what ingest keeps.
//!
//! ```text
//! DIR/reconciler.sqlite        the store; beside it SQLite's own -wal and -shm
//! ```
//!
//! Owns the connections, the schema (`migrations/`) and the named statements in the modules below.
//! Does not own any rule: what a segment is worth is decided in [`crate::ingest::admit`], what it adds
//! to in [`crate::rollup`]. What a committed transaction wrote survives a crash and a power cut.
//!
//! Several processes may use one file: the server and the command line do. Writers take turns
//! ([`Store::write`]), readers see one consistent state ([`Store::read`]) and never wait for writers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection as _, Sqlite, SqliteConnection, Transaction};
use tallystick_common::ids::StoreEpoch;
use tallystick_common::time::Timestamp;

pub mod auth;
pub mod billing;
mod bulk;
pub mod catalog;
pub(crate) mod column;
pub(crate) mod compressed;
pub mod enrolment;
pub mod inspect;
mod migrate;
pub mod nodes;
pub mod readings;
pub mod refusals;
pub mod rollups;
pub mod settings;
pub mod streams;
#[cfg(test)]
pub(crate) mod testing;

pub use migrate::SCHEMA_VERSION;

/// A transaction of the store: dropped without `commit`, it never happened.
pub type Tx = Transaction<'static, Sqlite>;

/// The connection that named statements run on.
pub type Connection = SqliteConnection;

/// Connections for readers; one more writes.
const READERS: u32 = 6;

/// How long a writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an opener waits before it asks for a new file again.
const LOCKED_PAUSE: Duration = Duration::from_millis(10);

/// Why the store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No store there.
    #[error("open store {path}: no such file; create it with `tallystick-reconciler init`")]
    Absent {
        /// The file looked for.
        path: PathBuf,
    },
    /// A store is there already.
    #[error("create store {path}: it exists already")]
    Exists {
        /// The file found.
        path: PathBuf,
    },
    /// Written by a newer version of this program.
    #[error(
        "open store {path}: its schema is version {found}, this program knows versions up to {known}; \
         use the newer program that wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Highest migration applied to it.
        found: i64,
        /// Highest migration of this program.
        known: i64,
    },
    /// The schema could not be brought up to date.
    #[error("bring the schema of store {path} up to date: {source}")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: sqlx::migrate::MigrateError,
    },
    /// The file or its folder could not be used.
    #[error("use store file {path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The system gave no random bytes.
    #[error("draw random bytes: {0}")]
    Random(String),
    /// A number that no column holds.
    #[error("write {what} to the store: {value} is too large")]
    TooLarge {
        /// What it counts.
        what: &'static str,
        /// How much it is.
        value: u128,
    },
    /// The database failed.
    #[error("query the store: {0}")]
    Sql(#[from] sqlx::Error),
    /// A row does not decode: the store was changed by something else, or is damaged.
    #[error("read {what} from the store: it is damaged: {why}")]
    Damaged {
        /// Table or column.
        what: &'static str,
        /// What was found.
        why: String,
    },
}

impl StoreError {
    /// A row that does not decode.
    pub fn damaged(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Damaged {
            what,
            why: why.to_string(),
        }
    }
}

/// The store. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    epoch: StoreEpoch,
}

impl Store {
    /// Name of the store's file in the data folder.
    pub const FILE_NAME: &'static str = "reconciler.sqlite";

    /// Creates the file and its schema, with `epoch` (16 random bytes) as the life of this store.
    ///
    /// # Errors
    /// When the file exists, or cannot be written.
    pub async fn create(
        path: &Path,
        epoch: StoreEpoch,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        if path.exists() {
            return Err(StoreError::Exists {
                path: path.to_owned(),
            });
        }
        Self::open_or_create(path, epoch, now).await
    }

    /// Opens the file and brings its schema up to date.
    ///
    /// # Errors
    /// When there is no store, or a newer program wrote it, or it cannot be read.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Absent {
                path: path.to_owned(),
            });
        }
        // An existing store keeps its epoch; this one is used only if a crash left the file empty.
        let epoch = drawn_epoch(path)?;
        Self::open_or_create(path, epoch, Timestamp::EPOCH).await
    }

    /// Opens the file, or creates it with `epoch`. Safe to be called by several processes at once:
    /// the first one's epoch holds.
    ///
    /// # Errors
    /// When a newer program wrote it, or it cannot be read or written.
    pub async fn open_or_create(
        path: &Path,
        epoch: StoreEpoch,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        private_file(path).map_err(|source| StoreError::File {
            path: path.to_owned(),
            source,
        })?;
        let options = options(path);
        let writer = connect_writer(&options).await?;
        migrate::run(&writer, path).await?;
        let epoch = settle_epoch(&writer, epoch, now).await?;
        let readers = pool_options()
            .max_connections(READERS)
            .min_connections(0)
            .connect_with(options.pragma("query_only", "ON"))
            .await?;
        Ok(Self {
            writer,
            readers,
            epoch,
        })
    }

    /// The life of this store, named in receipts.
    #[must_use]
    pub fn epoch(&self) -> StoreEpoch {
        self.epoch
    }

    /// Begins a transaction that may write. One at a time in all processes: keep it short, and never
    /// begin a second one while holding the first.
    ///
    /// # Errors
    /// When the database fails, or another process held it for half a minute.
    pub async fn write(&self) -> Result<Tx, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Begins a transaction that only reads: all its statements see one state of the store.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        Ok(self.readers.begin().await?)
    }

    /// Closes every connection, so that the file is whole without its log.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Connects the writer. SQLite does not wait for the lock while a new file is switched to WAL, so one
/// of two first openers is told that it is locked and asks again.
async fn connect_writer(options: &SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    let deadline = tokio::time::Instant::now() + BUSY_TIMEOUT;
    loop {
        let pool = pool_options().max_connections(1);
        match pool.connect_with(options.clone()).await {
            Err(error) if is_locked(&error) && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOCKED_PAUSE).await;
            }
            connected => return Ok(connected?),
        }
    }
}

/// A full disk makes SQLite take a transaction back by itself. sqlx then still counts it as open and
/// begins no other on that connection: such a connection is given up, and the store works again as
/// soon as the disk does.
fn pool_options() -> SqlitePoolOptions {
    SqlitePoolOptions::new().before_acquire(|connection, _| {
        let free = !connection.is_in_transaction();
        Box::pin(async move { Ok(free) })
    })
}

/// SQLITE_BUSY (5), whatever its extended code.
fn is_locked(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| code & 0xff == 5)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(256)
        .pragma("cache_size", "-16384")
        .pragma("journal_size_limit", "67108864")
}

/// The file belongs to the service alone: segments and invoices are in it.
fn private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;

    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

fn drawn_epoch(path: &Path) -> Result<StoreEpoch, StoreError> {
    let mut bytes = [0; StoreEpoch::LEN];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::File {
        path: path.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(StoreEpoch(bytes))
}

async fn settle_epoch(
    writer: &SqlitePool,
    epoch: StoreEpoch,
    now: Timestamp,
) -> Result<StoreEpoch, StoreError> {
    sqlx::query(
        "INSERT INTO meta (single, store_epoch, created_at) VALUES (1, $1, $2) \
         ON CONFLICT (single) DO NOTHING",
    )
    .bind(epoch.as_bytes().to_vec())
    .bind(now.as_i64())
    .execute(writer)
    .await?;
    let held: Vec<u8> = sqlx::query_scalar("SELECT store_epoch FROM meta WHERE single = 1")
        .fetch_one(writer)
        .await?;
    StoreEpoch::from_slice(&held)
        .ok_or_else(|| StoreError::damaged("meta.store_epoch", format!("{} bytes", held.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: StoreEpoch = StoreEpoch([7; 16]);

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[tokio::test]
    async fn a_store_keeps_its_epoch() {
        let folder = folder();
        let path = folder.path().join(Store::FILE_NAME);
        let absent = Store::open(&path)
            .await
            .expect_err("nothing there yet")
            .to_string();
        assert!(absent.contains("no such file"), "{absent}");
        let first = Store::create(&path, EPOCH, Timestamp::EPOCH).await.unwrap();
        assert_eq!(first.epoch(), EPOCH);
        assert!(Store::create(&path, EPOCH, Timestamp::EPOCH).await.is_err());
        assert_eq!(Store::open(&path).await.unwrap().epoch(), EPOCH);
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused_by_name() {
        let folder = folder();
        let path = folder.path().join(Store::FILE_NAME);
        let store = Store::create(&path, EPOCH, Timestamp::EPOCH).await.unwrap();
        let mut tx = store.write().await.unwrap();
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'from the future', TRUE, x'00', 0)",
        )
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
        store.close().await;
        let refused = Store::open(&path).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::Newer { found: 9999, .. }),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn two_openers_of_a_new_file_agree() {
        let folder = folder();
        let path = folder.path().join(Store::FILE_NAME);
        let (one, two) = tokio::join!(
            Store::open_or_create(&path, StoreEpoch([1; 16]), Timestamp::EPOCH),
            Store::open_or_create(&path, StoreEpoch([2; 16]), Timestamp::EPOCH),
        );
        assert_eq!(one.unwrap().epoch(), two.unwrap().epoch());
    }

    #[tokio::test]
    async fn a_reader_cannot_write() {
        let folder = folder();
        let path = folder.path().join(Store::FILE_NAME);
        let store = Store::create(&path, EPOCH, Timestamp::EPOCH).await.unwrap();
        let mut tx = store.read().await.unwrap();
        assert!(
            sqlx::query("DELETE FROM meta")
                .execute(&mut *tx)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_full_disk_is_survived() {
        const FILL: &str = "INSERT INTO filler VALUES (zeroblob(1000000))";
        let folder = folder();
        let path = folder.path().join(Store::FILE_NAME);
        let store = Store::create(&path, EPOCH, Timestamp::EPOCH).await.unwrap();
        let run = async |tx: &mut Tx, text| sqlx::query(text).execute(&mut **tx).await;
        let mut tx = store.write().await.unwrap();
        run(&mut tx, "CREATE TABLE filler (x)").await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.write().await.unwrap();
        // No page more than there are: as on a full disk, and for this connection only.
        run(&mut tx, "PRAGMA max_page_count = 1").await.unwrap();
        let full = run(&mut tx, FILL).await.unwrap_err();
        assert!(full.to_string().contains("full"), "{full}");
        drop(tx);
        let mut tx = store.write().await.unwrap();
        run(&mut tx, FILL).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[test]
    fn the_file_is_private() {
        use std::os::unix::fs::PermissionsExt;

        let folder = folder();
        let path = folder.path().join(Store::FILE_NAME);
        private_file(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
