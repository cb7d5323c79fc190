//! What people decide of segments that are held: what is in doubt, forks, lost keys.

use tallystick_common::ids::Seq;
use tallystick_common::keys::SecretKey;
use tallystick_reconciler::decision::{
    Decided, DecisionError, Judgement, Keep, Order, decide, resolve, revoke,
};

use super::finding::{Found, violated};
use super::model::decision::Key;
use super::office::unexpected;
use super::reconciler::clock;
use super::world::World;

/// Asked of one who decides.
struct Asked {
    node: String,
    key: Key,
    signer: SecretKey,
}

impl Asked {
    fn of(key: Key) -> Self {
        Self {
            node: key.0.to_string(),
            key,
            signer: SecretKey::from_seed(&[0xcb; 32]),
        }
    }

    fn order(&self) -> Order<'_> {
        Order {
            node: &self.node,
            stream: self.key.1,
            reason: "simulated",
            actor: "test",
            signer: &self.signer,
        }
    }
}

impl World {
    pub(super) async fn judge(&mut self, pick: u16, more: u8, accept: bool) -> Found<()> {
        let Some((key, first)) = self.segment_to_judge(pick) else {
            return Ok(());
        };
        let last = self.ledger.streams[&key].segments.len() - 1;
        let last = last.min(first + usize::from(more));
        let judgement = if accept {
            Judgement::Accept
        } else {
            Judgement::Reject
        };
        let (asked, range) = (Asked::of(key), (Seq(first as u64), Seq(last as u64)));
        let store = &self.reconciler.store;
        let done = decide(store, &asked.order(), range, judgement, clock()).await;
        let may = if accept {
            self.ledger.accept(key, first, last)
        } else {
            self.ledger.reject(key, first, last)
        };
        let changed = match &done {
            Ok(done) => !done.before,
            Err(error) => is_refusal(error)
                .then_some(false)
                .ok_or_else(|| unexpected(error))?,
        };
        // Whoever is told that it was decided before is told so of nothing that changes.
        let agrees = changed == may || (!accept && done.is_ok());
        if !agrees {
            let said = format!(
                "{judgement:?} of {range:?} of {}: {done:?}, by the ledger {may}",
                key.1
            );
            return violated("I7", said);
        }
        self.saw(match (accept, may) {
            (true, true) => "accepted",
            (true, false) => "not accepted",
            (false, true) => "rejected",
            (false, false) => "not rejected",
        });
        Ok(())
    }

    /// One of those that are or were in doubt, or for an odd number of all.
    fn segment_to_judge(&self, pick: u16) -> Option<(Key, usize)> {
        let any = pick % 2 == 1;
        let streams = self.ledger.streams.iter();
        let segments = streams.flat_map(|(key, stream)| {
            let numbered = stream.segments.iter().enumerate();
            let wanted = numbered.filter(move |(_, kept)| any || kept.doubted);
            wanted.map(|(place, _)| (*key, place))
        });
        let segments: Vec<(Key, usize)> = segments.collect();
        let place = usize::from(pick / 2).checked_rem(segments.len())?;
        segments.get(place).copied()
    }

    pub(super) async fn resolve(&mut self, pick: u8, keep_other: bool) -> Found<()> {
        let streams = self.ledger.streams.iter();
        let frozen: Vec<Key> = streams
            .filter(|(_, stream)| stream.frozen)
            .map(|(key, _)| *key)
            .collect();
        let Some(place) = usize::from(pick).checked_rem(frozen.len()) else {
            return Ok(());
        };
        let (asked, keep) = (
            Asked::of(frozen[place]),
            if keep_other {
                Keep::Other
            } else {
                Keep::Admitted
            },
        );
        let done = resolve(&self.reconciler.store, &asked.order(), keep, clock()).await;
        decided_now(&done.map_err(unexpected)?)?;
        self.ledger.resolve(frozen[place], keep_other);
        self.saw(if keep_other {
            "kept the other branch"
        } else {
            "kept what was admitted"
        });
        Ok(())
    }

    pub(super) async fn revoke(&mut self, pick: u8, seq: u8) -> Found<()> {
        let streams: Vec<Key> = self.ledger.streams.keys().copied().collect();
        let Some(place) = usize::from(pick).checked_rem(streams.len()) else {
            return Ok(());
        };
        let key = streams[place];
        let held = self.ledger.streams[&key].segments.len() as u64;
        if held == 0 {
            return Ok(());
        }
        let from = held.saturating_sub(u64::from(seq));
        let asked = Asked::of(key);
        let store = &self.reconciler.store;
        for only_ask in [true, false] {
            let done = revoke(store, &asked.order(), Seq(from), only_ask, clock()).await;
            done.map_err(unexpected)?;
        }
        self.ledger.revoke(key, from);
        self.saw("revoked");
        Ok(())
    }
}

fn decided_now(done: &Decided) -> Found<()> {
    if done.before {
        return violated("I12", "an open question was decided before");
    }
    Ok(())
}

/// Whether it is refused for what it is about.
fn is_refusal(error: &DecisionError) -> bool {
    matches!(
        error,
        DecisionError::Counted { .. }
            | DecisionError::NotQuarantined { .. }
            | DecisionError::Doubtful { .. }
            | DecisionError::Revoked { .. }
    )
}
