//! The store: one SQLite file, or a PostgreSQL database, and every SQL text about what ingest keeps.
//!
//! ```text
//! DIR/reconciler.sqlite        the store; beside it SQLite's own -wal and -shm
//! postgres://…/DATABASE        or there, in the schema that the role's search path begins with
//! ```
//!
//! Owns the connections, the schema (`migrations/`) and the named statements in the modules below.
//! Does not own any rule: what a segment is worth is decided in [`crate::ingest::admit`], what it adds
//! to in [`crate::rollup`]. What a committed transaction wrote survives a crash and a power cut.
//!
//! Schema and statements are one text for both engines ([`sql`]); statements of many rows differ in how
//! the rows are given (`bulk`). Several processes may use one store: servers and the command line do.
//! Writers take turns ([`Store::write`]), readers see one consistent state ([`Store::read`]) and never
//! wait for writers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::postgres::Postgres;
use sqlx::sqlite::{Sqlite, SqlitePool};
use tallystick_common::ids::StoreEpoch;
use tallystick_common::time::Timestamp;

use crate::bans::{Bans, BansError, Entry};

pub mod again;
pub mod auth;
pub mod billing;
mod bulk;
pub mod catalog;
pub mod closings;
pub(crate) mod column;
pub(crate) mod compressed;
pub mod corrections;
pub mod coverage;
pub mod decisions;
pub mod enrolment;
pub mod imbalances;
pub mod inspect;
pub mod leakage;
mod location;
mod migrate;
pub mod moving;
pub mod nodes;
pub mod owners;
mod postgres;
pub mod readings;
pub mod refusals;
pub mod restoring;
pub mod rollups;
pub mod settings;
pub mod sql;
mod sqlite;
pub mod streams;
#[cfg(test)]
pub(crate) mod testing;
pub mod turns;

pub use location::{BadLocation, Location, Server};
pub use migrate::SCHEMA_VERSION;
use owners::Replica;

/// A transaction of the store: dropped without `commit`, it never happened.
#[derive(Debug)]
pub struct Tx(Connection);

/// The connection that named statements run on: always in a transaction.
#[derive(Debug)]
pub enum Connection {
    /// To the file.
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    /// To the server.
    Postgres(sqlx::Transaction<'static, Postgres>),
}

/// Why the store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No store there.
    #[error("open store {store}: there is none; create it with `tallystick-reconciler init`")]
    Absent {
        /// Where it was looked for.
        store: Location,
    },
    /// A store is there already.
    #[error("create store {store}: it exists already")]
    Exists {
        /// The one found.
        store: Location,
    },
    /// Written by a newer version of this program.
    #[error(
        "open store {store}: its schema is version {found}, this program knows versions up to {known}; \
         use the newer program that wrote it"
    )]
    Newer {
        /// The store.
        store: Location,
        /// Highest migration applied to it.
        found: i64,
        /// Highest migration of this program.
        known: i64,
    },
    /// The schema could not be brought up to date.
    #[error("bring the schema of store {store} up to date: {source}")]
    Migrate {
        /// The store.
        store: Location,
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
    /// The server does not let us in, or is not there.
    #[error(
        "connect to store {store}: {source}; see that the server runs and lets this user in, or correct `store` in \
         reconciler.toml (or --store)"
    )]
    Connect {
        /// The store.
        store: Location,
        /// What failed.
        source: sqlx::Error,
    },
    /// Another process moved what was remembered here.
    #[error("another process moved on what this one remembered; it is read again")]
    Moved,
    /// Who is shut out could not be written down.
    #[error(transparent)]
    Bans(#[from] BansError),
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
    pools: Pools,
    epoch: StoreEpoch,
    bans: Option<Bans>,
    /// The number of the next replica; numbers begin at a random one.
    replicas: Arc<AtomicI64>,
}

#[derive(Debug, Clone)]
enum Pools {
    Sqlite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(postgres::Pools),
}

/// Writers take turns as they do on SQLite, and the turn is theirs before they see anything: LOCK TABLE
/// comes before the first statement fixes what a transaction sees.
const WRITE: &str =
    "BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE meta IN SHARE ROW EXCLUSIVE MODE";
/// Ingest does not take turns with others: what it writes is guarded by who owns a node, by compare-and-set
/// and by [`take_turn`], each statement seeing what was committed before it.
const INGEST: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
const READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

impl Store {
    /// Name of the store's file in the data folder.
    pub const FILE_NAME: &'static str = "reconciler.sqlite";

    /// Creates the store and its schema, with `epoch` (16 random bytes) as its life.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub async fn create(
        at: impl Into<Location>,
        epoch: StoreEpoch,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let store = at.into();
        if Self::is_at(&store).await? {
            return Err(StoreError::Exists { store });
        }
        Self::open_or_create(store, epoch, now).await
    }

    /// Opens the store and brings its schema up to date.
    ///
    /// # Errors
    /// When there is no store, or a newer program wrote it, or it cannot be read.
    pub async fn open(at: impl Into<Location>) -> Result<Self, StoreError> {
        let store = at.into();
        if !Self::is_at(&store).await? {
            return Err(StoreError::Absent { store });
        }
        // An existing store keeps its epoch; this one is used only if a crash left it empty.
        Self::open_or_create(store, StoreEpoch(random()?), Timestamp::EPOCH).await
    }

    /// Whether there is a store, finished or not.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn is_at(location: &Location) -> Result<bool, StoreError> {
        match location {
            Location::File(path) => Ok(path.exists()),
            Location::Server(server) => postgres::has_store(server).await,
        }
    }

    /// Whether a store has begun its life there: what was cut off while it was made or arrived has not.
    ///
    /// # Errors
    /// When a server does not answer.
    pub async fn lives_at(location: &Location) -> Result<bool, StoreError> {
        match location {
            Location::File(path) => Ok(sqlite::files(path).iter().any(|file| file.exists())),
            Location::Server(server) => postgres::has_life(server).await,
        }
    }

    /// Opens the store, or creates it with `epoch`. Safe to be called by several processes at once:
    /// the first one's epoch holds.
    ///
    /// # Errors
    /// When a newer program wrote it, or it cannot be read or written.
    pub async fn open_or_create(
        at: impl Into<Location>,
        epoch: StoreEpoch,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let mut store = Self::connect(&at.into(), epoch).await?;
        store.epoch = settle_epoch(&store, epoch, now).await?;
        Ok(store)
    }

    /// A store whose life has not begun, or may not have: a copy is to arrive there.
    ///
    /// # Errors
    /// As [`Self::open_or_create`].
    pub(crate) async fn unsettled(at: &Location) -> Result<Self, StoreError> {
        Self::connect(at, StoreEpoch([0; StoreEpoch::LEN])).await
    }

    /// A file that nobody writes to, read as it is: neither it nor what is beside it changes.
    ///
    /// # Errors
    /// When it is no store, or cannot be read.
    pub async fn archived(path: &Path) -> Result<Self, StoreError> {
        let readers = sqlite::archived(path).await?;
        let writer = readers.clone();
        let mut store = Self::of(Pools::Sqlite { writer, readers }, StoreEpoch([0; 16]))?;
        let mut tx = store.read().await?;
        store.epoch = held_epoch(&mut tx).await?.ok_or_else(|| {
            StoreError::damaged("meta.store_epoch", "there is none: it was never finished")
        })?;
        Ok(store)
    }

    async fn connect(at: &Location, epoch: StoreEpoch) -> Result<Self, StoreError> {
        let pools = match at {
            Location::File(path) => {
                let (writer, readers) = sqlite::open(path).await?;
                Pools::Sqlite { writer, readers }
            }
            Location::Server(server) => Pools::Postgres(postgres::open(server).await?),
        };
        Self::of(pools, epoch)
    }

    fn of(pools: Pools, epoch: StoreEpoch) -> Result<Self, StoreError> {
        let first = i64::from_be_bytes(random()?) >> 2 & i64::MAX;
        let replicas = Arc::new(AtomicI64::new(first));
        Ok(Self {
            pools,
            epoch,
            bans: None,
            replicas,
        })
    }

    /// The life of this store, named in receipts.
    #[must_use]
    pub fn epoch(&self) -> StoreEpoch {
        self.epoch
    }

    /// Whoever is shut out from now on is written down in the data folder, too.
    #[must_use]
    pub fn with_bans(mut self, data: &Path) -> Self {
        self.bans = Bans::of(data);
        self
    }

    /// As [`Self::with_bans`], in a file that tells of everything from now on.
    ///
    /// # Errors
    /// When there is none yet, and it cannot be made.
    pub fn begin_bans(self, data: &Path, now: Timestamp) -> Result<Self, BansError> {
        let store = self.with_bans(data);
        if let Some(bans) = &store.bans {
            bans.begin(now)?;
        }
        Ok(store)
    }

    /// Writes down, before the transaction of the change commits, who is shut out.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn note_ban(&self, entry: &Entry) -> Result<(), BansError> {
        match &self.bans {
            Some(bans) => bans.append(std::slice::from_ref(entry)),
            None => Ok(()),
        }
    }

    /// Begins a transaction that may write. One at a time in all processes: keep it short, and never
    /// begin a second one while holding the first.
    ///
    /// # Errors
    /// When the database fails, or another process held it for half a minute.
    pub async fn write(&self) -> Result<Tx, StoreError> {
        Ok(Tx(match &self.pools {
            Pools::Sqlite { writer, .. } => {
                Connection::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?)
            }
            Pools::Postgres(pools) => Connection::Postgres(pools.writers.begin_with(WRITE).await?),
        }))
    }

    /// Begins a transaction of ingest or rollups. On a file it takes its turn like all writers; on a server it
    /// runs beside others and must guard what it writes itself.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn ingest(&self) -> Result<Tx, StoreError> {
        match &self.pools {
            Pools::Sqlite { .. } => self.write().await,
            Pools::Postgres(pools) => {
                let tx = pools.ingest.begin_with(INGEST).await?;
                Ok(Tx(Connection::Postgres(tx)))
            }
        }
    }

    /// A number for somebody new who admits segments here.
    #[must_use]
    pub fn new_replica(&self) -> Replica {
        Replica(self.replicas.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether other machines may work on it, too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.pools, Pools::Postgres(_))
    }

    /// Begins a transaction that only reads: all its statements see one state of the store.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        Ok(Tx(match &self.pools {
            Pools::Sqlite { readers, .. } => Connection::Sqlite(readers.begin().await?),
            Pools::Postgres(pools) => Connection::Postgres(pools.readers.begin_with(READ).await?),
        }))
    }

    /// Closes every connection, so that a file is whole without its log.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Pools::Postgres(pools) => pools.close().await,
        }
    }

    /// Warns, for whoever serves, of a server that does not keep what it says it keeps.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn warn_of_weakness(&self) -> Result<(), StoreError> {
        match &self.pools {
            Pools::Sqlite { .. } => Ok(()),
            Pools::Postgres(pools) => postgres::warn_of_fsync(&pools.readers).await,
        }
    }
}

/// Waits until no other transaction draws numbers or appends to a chain, and keeps others from it until
/// this one ends. On a file every writer has its turn already.
pub(crate) async fn take_turn(conn: &mut Connection) -> Result<(), StoreError> {
    /// Any number will do; this is `tally` in ASCII.
    const TURN: i64 = 0x0074_616c_6c79;
    if let Connection::Postgres(_) = conn {
        let query = sql::query("SELECT pg_advisory_xact_lock($1)").bind(TURN);
        query.execute(conn).await?;
    }
    Ok(())
}

impl Tx {
    /// Makes what was written last.
    ///
    /// # Errors
    /// When the database fails: then it is not known whether it did, as with any lost answer.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        match self.0 {
            Connection::Sqlite(tx) => tx.commit().await,
            Connection::Postgres(tx) => tx.commit().await,
        }
    }
}

impl std::ops::Deref for Tx {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl std::ops::DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Random(error.to_string()))?;
    Ok(bytes)
}

async fn settle_epoch(
    store: &Store,
    epoch: StoreEpoch,
    now: Timestamp,
) -> Result<StoreEpoch, StoreError> {
    let mut tx = store.write().await?;
    if let Some(held) = held_epoch(&mut tx).await? {
        return Ok(held);
    }
    sql::query("INSERT INTO meta (single, store_epoch, created_at) VALUES (1, $1, $2)")
        .bind(epoch.as_bytes().to_vec())
        .bind(now.as_i64())
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(epoch)
}

async fn held_epoch(conn: &mut Connection) -> Result<Option<StoreEpoch>, StoreError> {
    const HELD: &str = "SELECT store_epoch FROM meta WHERE single = 1";
    let held: Option<Vec<u8>> = sql::query_scalar(HELD).fetch_optional(conn).await?;
    let Some(held) = held else { return Ok(None) };
    let epoch = StoreEpoch::from_slice(&held);
    epoch
        .map(Some)
        .ok_or_else(|| StoreError::damaged("meta.store_epoch", format!("{} bytes", held.len())))
}

#[cfg(test)]
mod tests {
    use super::testing::{ENGINES, Engine, Home, store};
    use super::*;

    const EPOCH: StoreEpoch = StoreEpoch([7; 16]);

    async fn run(tx: &mut Tx, text: &'static str) -> Result<sql::Done, sqlx::Error> {
        sql::query(text).execute(tx).await
    }

    #[tokio::test]
    async fn a_store_keeps_its_epoch() {
        for engine in ENGINES {
            let home = Home::empty(engine).await;
            let at = &home.location;
            let absent = Store::open(at).await.expect_err("nothing there yet");
            assert!(absent.to_string().contains("there is none"), "{absent}");
            let first = Store::create(at, EPOCH, Timestamp::EPOCH).await.unwrap();
            assert_eq!(first.epoch(), EPOCH);
            assert!(Store::create(at, EPOCH, Timestamp::EPOCH).await.is_err());
            assert_eq!(Store::open(at).await.unwrap().epoch(), EPOCH);
        }
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused_by_name() {
        for engine in ENGINES {
            let (home, store) = store(engine).await;
            let mut tx = store.write().await.unwrap();
            sql::query(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'from the future', TRUE, $1, 0)",
            )
            .bind(vec![0_u8])
            .execute(&mut tx)
            .await
            .unwrap();
            tx.commit().await.unwrap();
            store.close().await;
            let refused = Store::open(&home.location).await.unwrap_err();
            assert!(
                matches!(refused, StoreError::Newer { found: 9999, .. }),
                "{refused}"
            );
        }
    }

    #[tokio::test]
    async fn two_openers_of_a_new_store_agree() {
        for engine in ENGINES {
            let home = Home::empty(engine).await;
            let (one, two) = tokio::join!(
                Store::open_or_create(&home.location, StoreEpoch([1; 16]), Timestamp::EPOCH),
                Store::open_or_create(&home.location, StoreEpoch([2; 16]), Timestamp::EPOCH),
            );
            assert_eq!(one.unwrap().epoch(), two.unwrap().epoch());
        }
    }

    #[tokio::test]
    async fn a_reader_cannot_write() {
        for engine in ENGINES {
            let (_home, store) = store(engine).await;
            let mut tx = store.read().await.unwrap();
            assert!(run(&mut tx, "DELETE FROM meta").await.is_err());
        }
    }

    #[tokio::test]
    async fn writers_take_turns_and_see_what_the_one_before_wrote() {
        for engine in ENGINES {
            let (home, store) = store(engine).await;
            let elsewhere = Store::open(&home.location).await.unwrap();
            let count = |store: Store| async move {
                for _ in 0..20 {
                    let mut tx = store.write().await.unwrap();
                    let states: i64 = sql::query_scalar("SELECT node_states FROM meta")
                        .fetch_one(&mut tx)
                        .await
                        .unwrap();
                    sql::query("UPDATE meta SET node_states = $1")
                        .bind(states + 1)
                        .execute(&mut tx)
                        .await
                        .unwrap();
                    tx.commit().await.unwrap();
                }
            };
            let (one, two) = (count(store.clone()), count(elsewhere));
            tokio::join!(tokio::spawn(one), tokio::spawn(two))
                .0
                .unwrap();
            let mut tx = store.read().await.unwrap();
            let states: i64 = sql::query_scalar("SELECT node_states FROM meta")
                .fetch_one(&mut tx)
                .await
                .unwrap();
            assert_eq!(states, 40);
        }
    }

    #[tokio::test]
    async fn a_reader_sees_one_state() {
        for engine in ENGINES {
            let (_home, store) = store(engine).await;
            let mut reader = store.read().await.unwrap();
            let states = "SELECT node_states FROM meta";
            let before: i64 = sql::query_scalar(states)
                .fetch_one(&mut reader)
                .await
                .unwrap();
            let mut tx = store.write().await.unwrap();
            run(&mut tx, "UPDATE meta SET node_states = 7")
                .await
                .unwrap();
            tx.commit().await.unwrap();
            let after: i64 = sql::query_scalar(states)
                .fetch_one(&mut reader)
                .await
                .unwrap();
            assert_eq!(before, after);
        }
    }

    #[tokio::test]
    async fn text_is_sorted_by_its_bytes_and_nul_fails_nothing() {
        for engine in ENGINES {
            let (_home, store) = store(engine).await;
            let mut tx = store.write().await.unwrap();
            for name in ["b", "B", "\u{e4}", "a\0"] {
                sql::query("INSERT INTO login_codes (hash, name, expires_at) VALUES ($1, $1, 0)")
                    .bind(name)
                    .execute(&mut tx)
                    .await
                    .unwrap();
            }
            let names: Vec<String> =
                sql::query_scalar("SELECT name FROM login_codes ORDER BY name")
                    .fetch_all(&mut tx)
                    .await
                    .unwrap();
            let firsts: String = names
                .iter()
                .filter_map(|name| name.chars().next())
                .collect();
            assert_eq!(firsts, "Bab\u{e4}");
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_survived() {
        const FILL: &str = "INSERT INTO filler VALUES (zeroblob(1000000))";
        let (_home, store) = store(Engine::Sqlite).await;
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
}
