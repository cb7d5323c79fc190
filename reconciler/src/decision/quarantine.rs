//! Letting quarantined segments count, or not.
//!
//! Whether one may count is admission's to say, as of now: what stood before it in its stream is immutable,
//! and is read again; what other streams and nodes counted meanwhile is looked up in the transaction. All of
//! the segments asked for count, or none.

use std::collections::BTreeMap;

use tallystick_common::decision::DecisionKind;
use tallystick_common::ids::{BootId, Seq};
use tallystick_common::segment::{Block, Header, Purpose};
use tallystick_common::time::Timestamp;

use super::hearing::{Hearing, PAGE, Sentence, known_stream};
use super::{Decided, DecisionError, Order};
use crate::audit::{self, Note};
use crate::catalog::CatalogError;
use crate::catalog::change::known_node;
use crate::ingest::admit::{self, Claim, StreamState, Surroundings};
use crate::ingest::rivals::rivals;
use crate::store::again::again;
use crate::store::decisions::{self, Revocation};
use crate::store::nodes::{self, NodeState};
use crate::store::streams::{self, Stream, StreamRow};
use crate::store::{Connection, Store, StoreError, owners};

/// Most segments of one decision.
const MOST: u64 = 10_000;

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// They count.
    Accept,
    /// They do not.
    Reject,
}

impl From<Judgement> for DecisionKind {
    fn from(judgement: Judgement) -> Self {
        match judgement {
            Judgement::Accept => Self::Accept,
            Judgement::Reject => Self::Reject,
        }
    }
}

/// Decides on the quarantined segments from `first` to `last`.
///
/// # Errors
/// When one of them is not there, counts without ever having been in doubt, or is in doubt still, in a way that is
/// not for a person to judge.
pub async fn decide(
    store: &Store,
    order: &Order<'_>,
    (first, last): (Seq, Seq),
    judgement: Judgement,
    now: Timestamp,
) -> Result<Decided, DecisionError> {
    check_range(first, last)?;
    let sentence = Sentence {
        kind: judgement.into(),
        first,
        last: Some(last),
    };
    match judgement {
        Judgement::Accept => {
            let state = standing(store, order, first).await?;
            again!(accept(store, order, sentence, last, state.clone(), now))
        }
        Judgement::Reject => again!(reject(store, order, sentence, last, now)),
    }
}

fn check_range(first: Seq, last: Seq) -> Result<(), CatalogError> {
    let why = match last.0.checked_sub(first.0) {
        None => "the last segment comes before the first".to_owned(),
        Some(more) if more >= MOST => format!("decide on at most {MOST} segments at once"),
        Some(_) => return Ok(()),
    };
    let value = last.to_string();
    Err(CatalogError::Invalid {
        what: "last segment",
        value,
        why,
    })
}

/// Where the stream stood before a segment. All before it is immutable, so this needs no transaction of the
/// decision's.
async fn standing(
    store: &Store,
    order: &Order<'_>,
    first: Seq,
) -> Result<StreamState, DecisionError> {
    let mut tx = store.read().await?;
    let node = known_node(&mut tx, order.node).await?;
    let stream = known_stream(&mut tx, &node, order.stream).await?;
    has(&stream, first)?;
    let mut state = StreamState::new(node.id, stream.stream);
    while state.next < first {
        let page = streams::segments_from(&mut tx, stream.row, state.next, PAGE).await?;
        if page.is_empty() {
            let missing = format!("segment {} is missing", state.next);
            return Err(StoreError::damaged("segments", missing).into());
        }
        for segment in page.into_iter().filter(|segment| segment.seq < first) {
            let (sealed, blocks) = segment.read()?;
            state.advance(sealed.header(), &blocks, sealed.hash());
        }
    }
    Ok(state)
}

fn has(stream: &Stream, seq: Seq) -> Result<(), DecisionError> {
    if seq < stream.next {
        return Ok(());
    }
    let last = stream.next.0.checked_sub(1).map(Seq);
    Err(DecisionError::NoSegment {
        stream: stream.stream,
        seq,
        last,
    })
}

async fn accept(
    store: &Store,
    order: &Order<'_>,
    sentence: Sentence,
    last: Seq,
    mut state: StreamState,
    now: Timestamp,
) -> Result<Decided, DecisionError> {
    let mut hearing = Hearing::open(store, order).await?;
    has(&hearing.stream, last)?;
    let revoked = decisions::revocations(&mut hearing.tx, hearing.node.row).await?;
    let mut session = Session::default();
    while state.next <= last {
        let row = hearing.stream.row;
        let page = streams::segments_from(&mut hearing.tx, row, state.next, PAGE).await?;
        if page.is_empty() {
            return Err(StoreError::Moved.into());
        }
        for segment in page.into_iter().filter(|segment| segment.seq <= last) {
            let counted = segment.counted;
            let (sealed, blocks) = segment.read()?;
            let header = sealed.header();
            if !counted {
                stands(&revoked, &hearing.stream, header.seq)?;
                session
                    .appeal(&mut hearing, &state, header, &blocks, now)
                    .await?;
                hearing.count(header, &blocks).await?;
            }
            state.advance(header, &blocks, sealed.hash());
        }
    }
    if session.proved.is_none() {
        let held = hearing.decided_before(sentence).await?;
        let first = sentence.first;
        return held
            .map(Decided::before)
            .ok_or(DecisionError::Counted { first, last });
    }
    session.settle(&mut hearing, order, now).await?;
    hearing.close(order, sentence, session.set_aside, now).await
}

/// Whether the key that signed a segment holds.
fn stands(revoked: &[Revocation], stream: &Stream, seq: Seq) -> Result<(), DecisionError> {
    let of = |held: &&Revocation| held.stream == stream.stream && held.from <= seq;
    match revoked.iter().find(of) {
        Some(held) => Err(DecisionError::Revoked { seq, at: held.at }),
        None => Ok(()),
    }
}

/// What accepting segments leads to besides their counting.
#[derive(Default)]
struct Session {
    /// Time that segments accepted account for, by boot.
    boots: BTreeMap<BootId, (Timestamp, Timestamp)>,
    /// Up to when they account for time.
    proved: Option<Timestamp>,
    /// The node's last words, if they are among them.
    last_words: Option<(Seq, Timestamp)>,
    /// What was set aside, in words.
    set_aside: Vec<String>,
}

impl Session {
    async fn appeal(
        &mut self,
        hearing: &mut Hearing,
        state: &StreamState,
        header: &Header,
        blocks: &[Block],
        now: Timestamp,
    ) -> Result<(), DecisionError> {
        let others = beside(hearing, header);
        let lives = rivals(&mut hearing.tx, others.into_iter(), header).await?;
        let claims = claims(&mut hearing.tx, header).await?;
        let around = Surroundings {
            known: None,
            claims: &claims,
            lives: &lives,
        };
        let seq = header.seq;
        let set_aside = admit::appeal(state, header, blocks, &around, now)
            .map_err(|doubt| DecisionError::Doubtful { seq, doubt })?;
        let words = set_aside
            .iter()
            .map(|doubt| format!("segment {seq}: {doubt}"));
        self.set_aside.extend(words);
        self.proved = self.proved.max(Some(header.covered_through));
        let span = (header.from, header.covered_through);
        let held = self.boots.entry(header.boot).or_insert(span);
        *held = (held.0.min(span.0), held.1.max(span.1));
        if header.purpose == Purpose::Final {
            self.last_words = Some((seq, header.covered_through));
        }
        Ok(())
    }

    /// Claims, proof, and the node's leave, as admission would have had them.
    async fn settle(
        &self,
        hearing: &mut Hearing,
        order: &Order<'_>,
        now: Timestamp,
    ) -> Result<(), DecisionError> {
        for (boot, span) in &self.boots {
            widen(hearing, *boot, *span).await?;
        }
        if let Some(through) = self.proved {
            decisions::prove(&mut hearing.tx, hearing.stream.row, through).await?;
        }
        if let Some((seq, at)) = self.last_words {
            retire(hearing, order, seq, at, now).await?;
        }
        Ok(())
    }
}

/// The node's other streams that account for time of a segment.
fn beside(
    hearing: &Hearing,
    header: &Header,
) -> Vec<(StreamRow, tallystick_common::ids::StreamId)> {
    let overlaps = |other: &&Stream| {
        other.row != hearing.stream.row
            && other.covered_from < header.covered_through
            && other.covered_through > header.from
    };
    let of = |other: &Stream| (other.row, other.stream);
    hearing.streams.iter().filter(overlaps).map(of).collect()
}

/// Which nodes claim a segment's kernel, and what each counted in it of the segment's time. Nobody changes that
/// before the transaction ends.
async fn claims(conn: &mut Connection, header: &Header) -> Result<Vec<Claim>, StoreError> {
    let boot = header.boot;
    owners::contest(conn, owners::NOBODY, boot).await?;
    streams::hold_claims(conn, boot).await?;
    let mut claims = streams::claims(conn, boot).await?;
    for claim in claims.iter_mut().filter(|claim| claim.node != header.node) {
        claim.counted = counted_of(conn, claim, header).await?;
    }
    Ok(claims)
}

/// The part of a segment's time that another node counted in its kernel: empty when it counted none.
async fn counted_of(
    conn: &mut Connection,
    claim: &Claim,
    header: &Header,
) -> Result<(Timestamp, Timestamp), StoreError> {
    let (from, to) = (header.from, header.covered_through);
    let Some(node) = nodes::by_id(conn, claim.node).await? else {
        return Ok((from, from));
    };
    for stream in streams::of_node(conn, node.row).await? {
        for segment in streams::segments_between(conn, stream.row, from, to).await? {
            let counted = segment.counted;
            let sealed = segment.sealed()?;
            let other = sealed.header();
            if counted && other.boot == header.boot {
                return Ok((other.from.max(from), other.covered_through.min(to)));
            }
        }
    }
    Ok((from, from))
}

/// Notes that the node counted time in its boot.
async fn widen(
    hearing: &mut Hearing,
    boot: BootId,
    (from, through): (Timestamp, Timestamp),
) -> Result<(), StoreError> {
    let claims = streams::claims(&mut hearing.tx, boot).await?;
    let mine = claims
        .into_iter()
        .find(|claim| claim.node == hearing.node.id);
    let mut mine =
        mine.ok_or_else(|| StoreError::damaged("boots", format!("{boot} has no claim")))?;
    let (held_from, held_through) = mine.counted;
    mine.counted = if held_from == held_through {
        (from, through)
    } else {
        (held_from.min(from), held_through.max(through))
    };
    streams::put_claims(&mut hearing.tx, &[(hearing.node.row, mine)]).await
}

/// A node whose last segment counts now takes leave by it, unless it spoke on elsewhere.
async fn retire(
    hearing: &mut Hearing,
    order: &Order<'_>,
    seq: Seq,
    at: Timestamp,
    now: Timestamp,
) -> Result<(), DecisionError> {
    let went_on = hearing
        .streams
        .iter()
        .any(|other| other.row != hearing.stream.row && other.covered_through > at);
    if went_on || hearing.node.state != NodeState::Active {
        return Ok(());
    }
    let state = NodeState::Retired { at, lost: None };
    nodes::set_state(&mut hearing.tx, hearing.node.id, &state, now).await?;
    let note = Note {
        at: now,
        actor: order.actor,
        action: "node.retire",
        subject: &hearing.node.id.to_string(),
        detail: serde_json::json!({
            "stream": order.stream, "seq": seq, "covered_through": at,
        }),
    };
    audit::append(&mut hearing.tx, &note).await?;
    Ok(())
}

async fn reject(
    store: &Store,
    order: &Order<'_>,
    sentence: Sentence,
    last: Seq,
    now: Timestamp,
) -> Result<Decided, DecisionError> {
    let mut hearing = Hearing::open(store, order).await?;
    has(&hearing.stream, last)?;
    if let Some(held) = hearing.decided_before(sentence).await? {
        return Ok(Decided::before(held));
    }
    let row = hearing.stream.row;
    if let Some(seq) = decisions::undoubted(&mut hearing.tx, row, sentence.first, last).await? {
        return Err(DecisionError::NotQuarantined { seq });
    }
    hearing.uncount(sentence.first, sentence.last, None).await?;
    hearing.close(order, sentence, Vec::new(), now).await
}
