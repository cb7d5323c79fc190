//! Databases of a PostgreSQL server of the tests' own (`tests/postgres/serve`), which all test processes
//! of this working copy share and which ends with the last of them.
//!
//! The reconciler's own tests include this file, too.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};

/// The folder that a server's socket is in, and the lock that keeps the server.
pub type Server = (PathBuf, File);
static SERVER: OnceLock<Server> = OnceLock::new();
/// Databases that this process made.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A name for the folder that is short enough for a socket's path, the same for all processes of a copy.
fn folder() -> PathBuf {
    let copy = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let name = copy.expect("a folder above the crate").as_os_str();
    let sum = name.as_encoded_bytes().iter();
    let sum = sum.fold(5381_u64, |sum, byte| {
        sum.wrapping_mul(33) ^ u64::from(*byte)
    });
    std::env::temp_dir().join(format!("tallystick-postgres-{sum:x}"))
}

/// Begins to serve from `folder`, unless that is done; with the mode of `tests/postgres/serve`.
pub fn serve(folder: PathBuf, mode: Option<&str>) -> Server {
    let users = File::create(folder.with_extension("users")).expect("a file for the lock");
    users.lock_shared().expect("a shared lock");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/postgres/serve");
    let done = Command::new(script).arg(&folder).args(mode).output();
    let done = done.expect("tests/postgres/serve can be run");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "no PostgreSQL server: {told}");
    (folder, users)
}

fn server() -> &'static Path {
    &SERVER.get_or_init(|| serve(folder(), None)).0
}

/// How to connect to a database of the server whose socket is in `folder`.
pub fn options(folder: &Path, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(folder)
        .username("tallystick")
        .database(database)
}

/// A connection to a database of the server.
pub async fn connect(database: &str) -> PgConnection {
    let connected = PgConnection::connect_with(&options(server(), database)).await;
    connected.expect("the server answers")
}

/// Carries out a statement of an administrator.
pub async fn run(connection: &mut PgConnection, statement: String) {
    let done = sqlx::query(AssertSqlSafe(statement))
        .execute(connection)
        .await;
    done.expect("an administrator's statement");
}

/// The URL of a database.
pub fn url(database: &str) -> String {
    let folder = server().display();
    format!("postgres:///{database}?host={folder}&user=tallystick")
}

/// A new database that is a copy of `template` (`template0`: empty): its name.
pub async fn database(template: &str) -> String {
    let mut server = connect("postgres").await;
    drop_those_of_the_dead(&mut server).await;
    let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let name = format!("test_{process}_{number}");
    run(
        &mut server,
        format!("CREATE DATABASE {name} TEMPLATE {template}"),
    )
    .await;
    name
}

/// A database of that name that others are copied from: filled once, by whoever comes first.
pub async fn template(name: &str, fill: impl AsyncFnOnce(String)) {
    let mut server = connect("postgres").await;
    // Ends with the connection.
    run(&mut server, "SELECT pg_advisory_lock(1)".to_owned()).await;
    let there = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1").bind(name);
    let there = there.fetch_optional(&mut server).await;
    if there.expect("the catalogue").is_none() {
        let raw = format!("{name}_in_the_making");
        run(&mut server, format!("DROP DATABASE IF EXISTS {raw}")).await;
        run(
            &mut server,
            format!("CREATE DATABASE {raw} TEMPLATE template0"),
        )
        .await;
        fill(url(&raw)).await;
        run(
            &mut server,
            format!("ALTER DATABASE {raw} RENAME TO {name}"),
        )
        .await;
    }
    server.close().await.expect("closed");
}

/// Databases whose test processes have ended; another process may drop the same one at the same time.
async fn drop_those_of_the_dead(server: &mut PgConnection) {
    let query = "SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'";
    let names: Vec<String> = sqlx::query_scalar(query)
        .fetch_all(&mut *server)
        .await
        .expect("names");
    for name in names {
        let process = name.split('_').nth(1).unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            let statement = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
            let _ = sqlx::query(statement).execute(&mut *server).await;
        }
    }
}
