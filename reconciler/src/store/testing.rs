//! A store for tests of this crate, on each engine.
//!
//! A test that opens a store runs its body for every one of [`ENGINES`]. PostgreSQL is a server of the
//! tests' own; where it is not installed, those tests fail and say what to install.

use std::path::Path;

use tallystick_common::ids::StoreEpoch;
use tallystick_common::time::Timestamp;

use super::{Location, SCHEMA_VERSION, Store};

#[expect(unreachable_pub, reason = "shared with the crate of end-to-end tests")]
#[path = "../../../tests/src/postgres.rs"]
mod postgres;

/// What a store can be kept by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// All of them.
pub(crate) const ENGINES: [Engine; 2] = [Engine::Sqlite, Engine::Postgres];

/// One of them, for tests of many cases: a database for each case takes its time.
pub(crate) fn engine() -> impl proptest::strategy::Strategy<Value = Engine> {
    use proptest::prelude::*;
    prop_oneof![3 => Just(Engine::Sqlite), 1 => Just(Engine::Postgres)]
}

/// Where a test's store is, and the folder of what is a file of it.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) location: Location,
    folder: tempfile::TempDir,
}

impl Home {
    /// A folder for what else a test keeps.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A place where no store is yet.
    pub(crate) async fn empty(engine: Engine) -> Self {
        Self::of(engine, "template0").await
    }

    async fn of(engine: Engine, template: &str) -> Self {
        // Shown when the test fails.
        eprintln!("on {engine:?}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = match engine {
            Engine::Sqlite => Store::FILE_NAME.to_owned(),
            Engine::Postgres => postgres::url(&postgres::database(template).await),
        };
        Self {
            location: Location::parse(&text, folder.path()).expect("a location"),
            folder,
        }
    }
}

/// A new store, which lives as long as its home.
pub(crate) async fn store(engine: Engine) -> (Home, Store) {
    let template = format!("schema_{SCHEMA_VERSION}");
    if engine == Engine::Postgres {
        postgres::template(&template, migrate).await;
    }
    let home = Home::of(engine, &template).await;
    let epoch = StoreEpoch([7; 16]);
    let store = Store::open_or_create(&home.location, epoch, Timestamp::EPOCH).await;
    (home, store.expect("a new store"))
}

async fn migrate(url: String) {
    let Ok(Location::Server(server)) = Location::parse(&url, "/".as_ref()) else {
        panic!("{url} is a server")
    };
    let pools = super::postgres::open(&server).await.expect("a schema");
    pools.close().await;
}
