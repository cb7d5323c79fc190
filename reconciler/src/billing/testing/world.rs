//! A store that was filled the real way: sealed, admitted, committed.

use tallystick_common::seal::VerifiedSegment;
use tallystick_common::time::Timestamp;

use super::{acme, at as instant};
use crate::billing::draft::{Which, draft};
use crate::billing::issue::{Issued, Order, issue};
use crate::billing::{BillingError, Draft};
use crate::ingest::admit::Verdict;
use crate::ingest::commit::Handle;
use crate::ingest::testing::{self, Agent, at, committing, send};
use crate::rollup;
use crate::store::Store;
use crate::store::sql;
use crate::store::testing::{Engine, Home, store};

/// Seconds from `at(0)`, noon of 22 November, to the first of December.
pub(crate) const TO_DECEMBER: u64 = 734_400;

/// A node whose `cgroup/*` are acme's, over the real way into the store.
#[derive(Debug)]
pub(crate) struct World {
    _folder: Home,
    pub(crate) store: Store,
    pub(crate) agent: Agent,
    commit: Handle,
}

impl World {
    /// The server's clock is far ahead of all that tests seal.
    pub(crate) async fn new(engine: Engine) -> Self {
        Self::at(engine, || at(100_000_000)).await
    }

    /// With a clock of its own.
    pub(crate) async fn at(engine: Engine, clock: fn() -> Timestamp) -> Self {
        let (folder, store) = store(engine).await;
        acme(&store, instant("2026-11-01T00:00:00Z")).await;
        let agent = Agent::new(1, 2).enrolled(&store).await;
        Self {
            _folder: folder,
            commit: committing(&store, clock),
            store,
            agent,
        }
    }

    /// Another committer goes on, which knows only what the store holds.
    pub(crate) fn restart(&mut self, clock: fn() -> Timestamp) {
        self.commit = committing(&self.store, clock);
    }

    /// An honest segment of that length.
    pub(crate) async fn next(&mut self, seconds: u64, quantity: u128) {
        let segment = self.agent.next(seconds, quantity);
        assert_eq!(send(&self.commit, segment).await, Verdict::Accepted);
    }

    pub(crate) async fn seal(&mut self, draft: &testing::Draft) -> Verdict {
        let segment = self.agent.seal(draft);
        send(&self.commit, segment).await
    }

    /// A segment sealed elsewhere.
    pub(crate) async fn hand_over(&self, segment: VerifiedSegment) -> Verdict {
        send(&self.commit, segment).await
    }

    pub(crate) async fn roll_up(&self) {
        rollup::catch_up(&self.store).await.unwrap();
    }

    /// What nothing of ours would do to the store.
    pub(crate) async fn sql(&self, statement: &'static str) {
        let mut tx = self.store.write().await.unwrap();
        let done = sql::query(statement).execute(&mut tx).await.unwrap();
        assert!(done.rows_affected() > 0, "{statement}");
        tx.commit().await.unwrap();
    }

    pub(crate) async fn draft(&self, account: &str, now: &str) -> Draft {
        let mut tx = self.store.read().await.unwrap();
        let now = instant(now);
        draft(&mut tx, account, Which::At(now), "Seller", now)
            .await
            .unwrap()
    }

    /// November, once it is over.
    pub(crate) async fn issue(&self) -> Result<Issued, BillingError> {
        let order = Order {
            account: "acme",
            which: Which::Month("2026-11".parse().unwrap()),
            accept_gaps: None,
            seller: "Seller",
            actor: "test",
        };
        issue(&self.store, &order, instant("2026-12-01T00:00:01Z")).await
    }
}
