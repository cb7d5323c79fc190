//! What every world begins with: a store of two nodes and two accounts, made once.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tallystick_common::ids::{Hash, NodeId, StoreEpoch};
use tallystick_common::time::Timestamp;
use tallystick_reconciler::catalog::change::{self, NewAccount};
use tallystick_reconciler::store::Store;
use tallystick_reconciler::store::enrolment::{self, NewNode};

use super::model::ledger::{Ledger, Standing};
use super::world::key;

/// The nodes.
pub const NODES: [NodeId; 2] = [NodeId([1; 16]), NodeId([2; 16])];
/// The accounts.
pub const ACCOUNTS: [&str; 2] = ["acme", "bolt"];
/// Beginning of November, of December, and of January.
pub const MONTHS: [&str; 3] = [
    "2026-11-01T00:00:00Z",
    "2026-12-01T00:00:00Z",
    "2027-01-01T00:00:00Z",
];
/// 2026-11-30T22:45:00Z: most sequences pass into December.
pub const BEGIN: u64 = 1_796_078_700_000_000;

const PLAN: &str = r#"
name = "starter"
title = "Starter"
currency = "EUR"
[[prices]]
id = "cpu"
title = "CPU time"
meter = "cpu.time"
per = "cpu-hour"
scope = "account"
model = "per_unit"
price = "36"
"#;

/// An instant from text.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn at(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

/// Where worlds are made, and the store that all begin with. Gone with it.
#[derive(Debug)]
pub struct Ground {
    root: tempfile::TempDir,
    store: PathBuf,
    next: AtomicU64,
}

impl Ground {
    /// In memory where the system has a folder for that.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn new() -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let root = match tempfile::tempdir_in(memory) {
            Ok(root) => root,
            Err(_) => tempfile::tempdir()?,
        };
        let path = root.path().join("ground.sqlite");
        let store = Store::create(path.as_path(), StoreEpoch([7; 16]), at(MONTHS[0])).await?;
        fill(&store).await?;
        store.close().await;
        Ok(Self {
            root,
            store: path,
            next: AtomicU64::new(0),
        })
    }

    /// The file of the store.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// A folder for one world.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self) -> anyhow::Result<PathBuf> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.root.path().join(format!("world-{number}"));
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }
}

async fn fill(store: &Store) -> anyhow::Result<()> {
    let begin = at(MONTHS[0]);
    change::apply_plan(store, "simulation", PLAN, "test", begin).await?;
    for account in ACCOUNTS {
        let new = NewAccount {
            id: account,
            name: account,
            currency: "EUR",
            time_zone: "UTC",
            anchor_day: 1,
        };
        change::create_account(store, &new, "test", begin).await?;
        change::subscribe(store, account, "starter", begin, "test", begin).await?;
    }
    let mut tx = store.write().await?;
    for node in NODES {
        let new = NewNode {
            node,
            name: format!("node-{}", node.0[0]),
            signing_key: key(node).public(),
            tls_fingerprint: Hash([node.0[0]; 32]),
            record: Vec::new(),
            at: begin,
        };
        enrolment::add_node(&mut tx, &new).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The same, as the ledger has it.
#[must_use]
pub fn ledger() -> Ledger {
    Ledger {
        nodes: NODES.map(|node| (node, Standing::Active)).into(),
        ..Ledger::default()
    }
}
