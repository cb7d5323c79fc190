//! Both sides and all that can happen to them, in one thread on simulated time, against a ledger that
//! knows the truth.
//!
//! ```text
//! op ─▶ world ─┬─ machine ─▶ agent ─▶ link ─▶ reconciler      the product's parts
//!              └─ model (meter, ledger, tariff) ◀─ audit      plain arithmetic, ids only
//! ```
//!
//! The agents are the product's accrual, sealing and conversation, in memory or as the real station with
//! its journal and store on disk; the reconciler is its real commit, store, rollups and billing. There are
//! no sockets. A crash leaves what the files held at that moment. Every verdict, stored segment, figure and
//! bill is held against the model, and after the last operation everything sealed has to arrive.

use std::panic::AssertUnwindSafe;

use tallystick_common::failpoint;

mod agent;
mod audit;
mod correction;
mod finding;
mod ground;
mod hearing;
mod link;
mod machine;
pub mod model;
mod office;
pub mod op;
mod reconciler;
mod shrink;
mod spoil;
mod world;

pub use finding::Finding;
pub use ground::Ground;
use op::{Op, Sequence};
pub use shrink::shrink;
pub use world::Seen;
use world::World;

/// What a simulation of many sequences has to see, or it has not been where it should.
pub const EVENTS: [&str; 35] = [
    "counted",
    "counted, the last one",
    "quarantined, spoiled",
    "quarantined, measured elsewhere",
    "duplicate",
    "ahead",
    "fork",
    "refused",
    "stream over, rolled back",
    "stream over, another hash",
    "stream over, refused",
    "receipt",
    "agent died with a seal",
    "agent died with a receipt",
    "agent restored",
    "reconciler died in a commit",
    "reconciler died in rollups",
    "reconciler died issuing",
    "replica changed",
    "store restored",
    "issued by proof",
    "issued with gaps",
    "an invoice over something",
    "assigned",
    "reassigned",
    "corrected",
    "credited",
    "reconciler died correcting",
    "held",
    "accepted",
    "not accepted",
    "rejected",
    "kept what was admitted",
    "kept the other branch",
    "revoked",
];

/// How a simulation looks at the product.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watch {
    /// Tell nothing of verdicts, only what they lead to.
    pub totals_only: bool,
    /// Go without the check of an invariant.
    pub without: Option<&'static str>,
}

/// A thread in which worlds are made, one after another.
#[derive(Debug)]
pub struct Stage {
    runtime: tokio::runtime::Runtime,
    ground: Ground,
}

impl Stage {
    /// A new one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let ground = runtime.block_on(Ground::new())?;
        Ok(Self { runtime, ground })
    }

    /// Plays a sequence: what there was to see in it.
    ///
    /// # Errors
    /// What was found first.
    pub fn play(&self, sequence: &Sequence, watch: Watch) -> Result<Seen, Finding> {
        failpoint::remove(watch.without);
        let played = std::panic::catch_unwind(AssertUnwindSafe(|| {
            self.runtime.block_on(play(&self.ground, sequence, watch))
        }));
        failpoint::listen(None);
        failpoint::remove(None);
        played.unwrap_or_else(|_| {
            let detail = "something panicked".to_owned();
            Err(Finding {
                invariant: "it works",
                detail,
            })
        })
    }
}

async fn play(ground: &Ground, sequence: &Sequence, watch: Watch) -> Result<Seen, Finding> {
    let mut world = World::begin(ground, sequence.on_disk, !watch.totals_only).await?;
    let found = all(&mut world, sequence).await;
    let seen = world.end().await;
    found.map(|()| seen)
}

async fn all(world: &mut World, sequence: &Sequence) -> Result<(), Finding> {
    for op in &sequence.ops {
        world.apply(*op).await?;
    }
    world.settle().await?;
    for account in [0, 1] {
        let (accept_gaps, crash) = (false, false);
        let issue = Op::Issue {
            account,
            accept_gaps,
            crash,
        };
        world.apply(issue).await?;
        world.apply(Op::Correct { account, crash }).await?;
    }
    world.audit(true).await
}
