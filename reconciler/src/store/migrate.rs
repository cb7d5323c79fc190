//! Brings a store's schema up to date.
//!
//! Owns the list of migrations, which is embedded in the program. A migration that was released is
//! never changed: a change is a new one. A store with a migration that this program does not know is
//! left alone.

use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqlitePool;
use sqlx::{Connection as _, SqlSafeStr as _};

use super::location::Server;
use super::{Location, StoreError};

/// Number, name and text of every migration, in order.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "ingest",
        include_str!("../../migrations/0001_ingest.sql"),
    ),
    (
        2,
        "billing",
        include_str!("../../migrations/0002_billing.sql"),
    ),
    (
        3,
        "settings",
        include_str!("../../migrations/0003_settings.sql"),
    ),
    (
        4,
        "replicas",
        include_str!("../../migrations/0004_replicas.sql"),
    ),
    (
        5,
        "decisions",
        include_str!("../../migrations/0005_decisions.sql"),
    ),
    (
        6,
        "accounting",
        include_str!("../../migrations/0006_accounting.sql"),
    ),
    (
        7,
        "corrections",
        include_str!("../../migrations/0007_corrections.sql"),
    ),
    (
        8,
        "documents",
        include_str!("../../migrations/0008_documents.sql"),
    ),
    (
        9,
        "restores",
        include_str!("../../migrations/0009_restores.sql"),
    ),
];

/// The newest schema that this program knows.
pub const SCHEMA_VERSION: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Attempts before a failure counts: another process may be migrating the same store.
const ATTEMPTS: u32 = 5;

/// Applies what is missing to a file.
///
/// # Errors
/// When the store is newer than this program, or a migration fails.
pub(super) async fn sqlite(pool: &SqlitePool, store: &Location) -> Result<(), StoreError> {
    let mut attempt = 1;
    loop {
        let mut connection = pool.acquire().await?;
        match run(&mut *connection, Engine::Sqlite, store).await {
            Err(StoreError::Migrate { .. }) if attempt < ATTEMPTS => attempt += 1,
            done => return done,
        }
    }
}

/// Applies what is missing to a database. Each attempt has a connection of its own, because a failed one
/// may still hold the lock of migrations.
///
/// # Errors
/// As [`sqlite`].
pub(super) async fn postgres(
    options: &PgConnectOptions,
    server: &Server,
) -> Result<(), StoreError> {
    let store = Location::Server(server.clone());
    let mut attempt = 1;
    loop {
        let mut connection = super::postgres::connect(options, server).await?;
        let done = run(&mut connection, Engine::Postgres, &store).await;
        connection.close().await?;
        match done {
            Err(StoreError::Migrate { .. }) if attempt < ATTEMPTS => attempt += 1,
            done => return done,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Engine {
    Sqlite,
    Postgres,
}

async fn run(
    connection: &mut impl Migrate,
    engine: Engine,
    store: &Location,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::Migrate {
        store: store.clone(),
        source,
    };
    let found = newest_applied(connection).await.map_err(failed)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::Newer {
            store: store.clone(),
            found,
            known: SCHEMA_VERSION,
        });
    }
    let migrations = MIGRATIONS.iter().map(|it| migration(it, engine)).collect();
    let migrator = Migrator::with_migrations(migrations);
    migrator
        .run_direct(None, connection, false)
        .await
        .map_err(failed)
}

fn migration(
    (version, name, text): &(i64, &'static str, &'static str),
    engine: Engine,
) -> Migration {
    let text = match engine {
        Engine::Sqlite => text.into_sql_str(),
        Engine::Postgres => sqlx::AssertSqlSafe(of_postgres(text)).into_sql_str(),
    };
    Migration::new(*version, (*name).into(), MigrationType::Simple, text, false)
}

/// The schema's text as PostgreSQL takes it: BLOB has another name there, text is compared by its bytes
/// whatever the database's language is, and a table is never its own index.
fn of_postgres(text: &str) -> String {
    let words = text.split_inclusive(|byte: char| !byte.is_ascii_alphanumeric() && byte != '_');
    let translated =
        words.map(
            |word| match word.trim_end_matches(|byte: char| !byte.is_ascii_alphanumeric()) {
                "BLOB" => word.replacen("BLOB", "BYTEA", 1),
                "TEXT" => word.replacen("TEXT", "TEXT COLLATE \"C\"", 1),
                _ => word.to_owned(),
            },
        );
    translated.collect::<String>().replace(" WITHOUT ROWID", "")
}

async fn newest_applied(connection: &mut impl Migrate) -> Result<i64, MigrateError> {
    connection
        .ensure_migrations_table("_sqlx_migrations")
        .await?;
    let applied = connection
        .list_applied_migrations("_sqlx_migrations")
        .await?;
    Ok(applied
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_one_text_for_both_engines() {
        let text = "a BLOB NOT NULL, BLOBS TEXT, context TEXT) WITHOUT ROWID;";
        let expected = "a BYTEA NOT NULL, BLOBS TEXT COLLATE \"C\", context TEXT COLLATE \"C\");";
        assert_eq!(of_postgres(text), expected);
    }
}
