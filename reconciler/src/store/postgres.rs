//! The PostgreSQL engine: connections to one database, which any number of processes share.
//!
//! Sessions ask for what the store promises, whatever the server's or the role's defaults are: a commit
//! that is told is on disk, and nobody who fell silent in a transaction holds up the others for long.

use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

use super::location::Server;
use super::{Location, StoreError, migrate};

/// Connections for each of writers and readers.
const CONNECTIONS: u32 = 8;
/// How long a caller waits for a connection: as long as for a lock.
const PATIENCE: Duration = Duration::from_secs(30);
/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 256;

/// What sessions ask of the server. Whoever falls silent in a transaction loses it before others, who wait for
/// its locks, give up.
const SETTINGS: [(&str, &str); 6] = [
    ("lock_timeout", "30s"),
    ("idle_in_transaction_session_timeout", "15s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("client_min_messages", "warning"),
];

/// Commits wait for the disk, and for standbys where the server says so.
const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', false) \
                       WHERE current_setting('synchronous_commit') = 'off'";

/// Connections to one database. Those who wait for their turn do not take them from ingest.
#[derive(Debug, Clone)]
pub(super) struct Pools {
    pub(super) writers: PgPool,
    pub(super) ingest: PgPool,
    pub(super) readers: PgPool,
}

impl Pools {
    pub(super) async fn close(&self) {
        for pool in [&self.readers, &self.ingest, &self.writers] {
            pool.close().await;
        }
    }
}

/// Whether the database has a store.
pub(super) async fn has_store(server: &Server) -> Result<bool, StoreError> {
    let mut connection = connect(&options(server)?, server).await?;
    let there = sqlx::query_scalar("SELECT to_regclass('meta') IS NOT NULL")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(there)
}

/// Whether the database has a store that began its life.
pub(super) async fn has_life(server: &Server) -> Result<bool, StoreError> {
    if !has_store(server).await? {
        return Ok(false);
    }
    let mut connection = connect(&options(server)?, server).await?;
    let lives: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM meta")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(lives > 0)
}

/// Connects and brings the schema up to date.
pub(super) async fn open(server: &Server) -> Result<Pools, StoreError> {
    let options = options(server)?;
    migrate::postgres(&options, server).await?;
    let pool = || pool_options().connect_lazy_with(options.clone());
    Ok(Pools {
        writers: pool(),
        ingest: pool(),
        readers: pool(),
    })
}

/// One connection, beside all pools.
pub(super) async fn connect(
    options: &PgConnectOptions,
    server: &Server,
) -> Result<PgConnection, StoreError> {
    let connected = PgConnection::connect_with(options).await;
    connected.map_err(|source| StoreError::Connect {
        store: Location::Server(server.clone()),
        source,
    })
}

fn options(server: &Server) -> Result<PgConnectOptions, StoreError> {
    Ok(server
        .options()?
        .application_name("tallystick-reconciler")
        .statement_cache_capacity(STATEMENTS)
        .options(SETTINGS))
}

fn pool_options() -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(PATIENCE)
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::query(DURABLE).execute(connection).await?;
                Ok(())
            })
        })
}

/// Warns of a server that does not keep what it says it keeps.
pub(super) async fn warn_of_fsync(pool: &PgPool) -> Result<(), StoreError> {
    let fsync: String = sqlx::query_scalar("SELECT current_setting('fsync')")
        .fetch_one(pool)
        .await?;
    if fsync != "on" {
        tracing::warn!(
            fsync,
            "this PostgreSQL server does not wait for the disk: what is receipted can be lost in a power cut"
        );
    }
    Ok(())
}
