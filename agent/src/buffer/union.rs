//! What journal and sled hold together, where one of them is damaged.
//!
//! Owns the longest chain that can be made of both. Pure: what each holds is passed in.

use tallystick_common::ids::{Hash, Seq};
use tallystick_common::segment::StreamPosition;

use super::Head;
use super::record::{Mark, StateTrack};
use super::scan::{Facts, Scan};

/// What journal and sled hold together of the stream in force.
pub(super) struct Union {
    pub(super) mark: Mark,
    /// The head before the first segment of the chain.
    pub(super) base: Head,
    /// The segments without a receipt, each following the one before.
    pub(super) chain: Vec<Facts>,
    /// The first segment that was sealed and is in neither.
    pub(super) lost_from: Option<Seq>,
    /// Whether the journal alone has all of the chain and knows the head.
    pub(super) journal_is_whole: bool,
    /// Whether the journal is of the stream in force at all.
    journal_in_force: bool,
}

impl Union {
    /// `None` when neither has anything to say.
    pub(super) fn of(
        scan: &Scan,
        store: Option<&Mark>,
        store_facts: impl Fn(Seq) -> Option<Facts>,
    ) -> Option<Self> {
        let generation = [scan.mark.as_ref(), store]
            .into_iter()
            .flatten()
            .map(|mark| mark.life.generation)
            .max()?;
        let in_force = |mark: &&Mark| mark.life.generation == generation;
        let journal = scan.mark.as_ref().filter(in_force);
        let store = store.filter(in_force);
        let mark = merged(journal, store)?;
        let (first, before_first) = mark.first_unreceipted();
        let mut hash = before_first;
        let mut chain = Vec::new();
        let mut journal_is_whole = journal.is_some_and(|known| known.head == mark.head);
        for seq in (first.0..mark.head.next.0).map(Seq) {
            let follows = |facts: &Facts| facts.previous == hash;
            let journaled = journal
                .and_then(|_| scan.segments.get(seq))
                .copied()
                .filter(follows);
            journal_is_whole &= journaled.is_some();
            let stored = || store.and_then(|_| store_facts(seq)).filter(follows);
            let Some(facts) = journaled.or_else(stored) else {
                break;
            };
            hash = facts.hash;
            chain.push(facts);
        }
        let reached = first.0 + chain.len() as u64;
        let lost_from = (reached < mark.head.next.0).then_some(Seq(reached));
        let base = match chain.is_empty() {
            true => mark.head,
            false => Head {
                next: first,
                hash: before_first,
                ..Head::BEGINNING
            },
        };
        let journal_in_force = journal.is_some();
        Some(Self {
            mark,
            base,
            chain,
            lost_from,
            journal_is_whole,
            journal_in_force,
        })
    }

    /// The open registers at the head, by whichever of the two has them.
    pub(super) fn state(
        &self,
        journal: &StateTrack,
        store: impl FnOnce() -> Option<StateTrack>,
    ) -> Option<StateTrack> {
        let next = self.mark.head.next;
        let knows = |track: &StateTrack| next == Seq::FIRST || track.at(next).is_some();
        let journal = self.journal_in_force.then(|| journal.clone());
        journal.filter(knows).or_else(|| store().filter(knows))
    }

    /// The last segment that is known for certain: where a new stream says the old one ended.
    pub(super) fn last_position(&self) -> Option<StreamPosition> {
        let stream = self.mark.life.stream;
        let position = |seq, hash: Hash| StreamPosition { stream, seq, hash };
        match (self.chain.last(), &self.mark.receipt) {
            (Some(last), _) => Some(position(last.seq, last.hash)),
            (None, Some(receipt)) => Some(position(receipt.through, receipt.hash)),
            (None, None) => None,
        }
    }
}

/// The furthest of two marks of one stream, on each of its ways.
fn merged(journal: Option<&Mark>, store: Option<&Mark>) -> Option<Mark> {
    let (Some(journal), Some(store)) = (journal, store) else {
        return journal.or(store).cloned();
    };
    let mut mark = journal.clone();
    if store.head.next > mark.head.next {
        mark.head = store.head;
    }
    if let Some(receipt) = &store.receipt {
        super::raise(&mut mark.receipt, receipt.clone(), |receipt| {
            receipt.through
        });
    }
    if let Some(offered) = store.offered {
        super::raise(&mut mark.offered, offered, |through| *through);
    }
    Some(mark)
}
