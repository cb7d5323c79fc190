//! Brings a store's schema up to date.
//!
//! Owns the list of migrations, which is embedded in the program. A migration that was released is
//! never changed: a change is a new one. A store with a migration that this program does not know is
//! left alone.

use std::path::Path;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqlitePool;

use super::StoreError;

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
];

/// The newest schema that this program knows.
pub const SCHEMA_VERSION: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// Attempts before a failure counts: another process may be migrating the same file.
const ATTEMPTS: u32 = 5;

/// Applies what is missing.
///
/// # Errors
/// When the store is newer than this program, or a migration fails.
pub(super) async fn run(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    let migrator = Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect());
    let mut attempt = 1;
    loop {
        refuse_newer(pool, path).await?;
        match migrator.run(pool).await {
            Ok(()) => return Ok(()),
            Err(_) if attempt < ATTEMPTS => attempt += 1,
            Err(source) => {
                return Err(StoreError::Migrate {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

fn migration((version, name, text): &(i64, &'static str, &'static str)) -> Migration {
    Migration::new(
        *version,
        (*name).into(),
        MigrationType::Simple,
        text.into_sql_str(),
        false,
    )
}

async fn refuse_newer(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    match newest_applied(pool).await {
        Ok(found) if found > SCHEMA_VERSION => Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        }),
        Ok(_) => Ok(()),
        Err(source) => Err(StoreError::Migrate {
            path: path.to_owned(),
            source,
        }),
    }
}

async fn newest_applied(pool: &SqlitePool) -> Result<i64, MigrateError> {
    let mut connection = pool.acquire().await?;
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
