//! Databases of a PostgreSQL that syncs what it commits, beside the benchmark's program and on its disk.

use std::path::Path;
use std::sync::OnceLock;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::postgres::{self, Server, options};

static SERVER: OnceLock<Server> = OnceLock::new();

fn server() -> &'static Path {
    let begin = || {
        let own = std::env::current_exe().expect("a running benchmark has an executable");
        // Without a dot: its lock is beside it, under another extension.
        let name = own.file_stem().unwrap_or_default().to_string_lossy();
        let folder = own.with_file_name(format!("{name}-postgres"));
        postgres::serve(folder, Some("durable"))
    };
    &SERVER.get_or_init(begin).0
}

/// A new, empty database: its URL, and how to connect to it.
///
/// # Errors
/// When the server does not answer.
///
/// # Panics
/// When there is no server to be had.
pub async fn database(name: &str) -> Result<(String, PgConnectOptions), sqlx::Error> {
    let folder = server();
    let mut connection = options(folder, "postgres").connect().await?;
    for statement in ["DROP DATABASE IF EXISTS", "CREATE DATABASE"] {
        postgres::run(&mut connection, format!("{statement} {name}")).await;
    }
    connection.close().await?;
    let url = format!(
        "postgres:///{name}?host={}&user=tallystick",
        folder.display()
    );
    Ok((url, options(folder, name)))
}
