//! The SQLite engine: one file (WAL, `synchronous=FULL`), one connection that writes, some that read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::{Location, StoreError, migrate};

/// Connections for readers; one more writes.
const READERS: u32 = 6;
/// How long a writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an opener waits before it asks for a new file again.
const LOCKED_PAUSE: Duration = Duration::from_millis(10);

/// Opens the file, makes it if it is not there, and brings its schema up to date: the writer and the readers.
pub(super) async fn open(path: &Path) -> Result<(SqlitePool, SqlitePool), StoreError> {
    private_file(path).map_err(|source| StoreError::File {
        path: path.to_owned(),
        source,
    })?;
    let options = options(path);
    let writer = connect_writer(&options).await?;
    migrate::sqlite(&writer, &Location::File(path.to_owned())).await?;
    let readers = pool_options()
        .max_connections(READERS)
        .min_connections(0)
        .connect_with(options.pragma("query_only", "ON"))
        .await?;
    Ok((writer, readers))
}

/// The file, and what SQLite keeps beside it. A log that is left of another file would be taken for this one's.
pub(super) fn files(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        name.into()
    })
}

/// Connects to a file that is closed for good: read only, and nothing is made beside it.
pub(super) async fn archived(path: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .immutable(true);
    Ok(pool_options()
        .max_connections(1)
        .connect_with(options)
        .await?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_private() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        private_file(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
