//! The ceiling: the same compressed bytes put durably into a table of SQLite, with nothing checked.

use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tallystick_reconciler::store::Store;

/// As group commit at its largest.
pub const GROUP: usize = 2048;

/// A segment's place and its bytes as a store compressed them.
pub type Stored = (i64, i64, Vec<u8>);

/// What the store in `folder` holds of segments, in the order of their arrival as far as it is known.
///
/// # Errors
/// When it cannot be read.
pub async fn stored(folder: &Path) -> anyhow::Result<Vec<Stored>> {
    let mut connection = connect(&folder.join(Store::FILE_NAME)).await?;
    let query = "SELECT stream, seq, bytes FROM segments ORDER BY received_at, seq, stream";
    Ok(sqlx::query_as(query).fetch_all(&mut connection).await?)
}

/// Inserts `rows` into a new table, `group` of them in a transaction: how long each transaction took.
///
/// # Errors
/// When the database fails.
pub async fn insert(folder: &Path, rows: &[Stored], group: usize) -> anyhow::Result<Vec<Duration>> {
    let path = folder.join("bare.sqlite");
    if path.exists() {
        std::fs::remove_file(&path)?;
    }
    let mut connection = connect(&path).await?;
    let table = "CREATE TABLE bare (stream BIGINT NOT NULL, seq BIGINT NOT NULL, bytes BLOB NOT NULL, \
                 PRIMARY KEY (stream, seq))";
    sqlx::query(table).execute(&mut connection).await?;
    let mut times = Vec::new();
    for rows in rows.chunks(group) {
        let began = Instant::now();
        let mut tx = connection.begin().await?;
        for (stream, seq, bytes) in rows {
            sqlx::query("INSERT INTO bare (stream, seq, bytes) VALUES ($1, $2, $3)")
                .bind(stream)
                .bind(seq)
                .bind(bytes.as_slice())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        times.push(began.elapsed());
    }
    connection.close().await?;
    Ok(times)
}

async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await
}
