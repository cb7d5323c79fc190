//! The transaction of a decision: nothing of the node moves while it lasts.
//!
//! It takes the node from whoever admits its segments, holds its rollups, changes verdicts with all that
//! follows from them, and ends with the decision's row, statement and audit entry. Dropped before that, it
//! never was.

use std::collections::BTreeSet;

use tallystick_common::decision::{Decision, DecisionKind};
use tallystick_common::ids::{Seq, StreamId};
use tallystick_common::keys::Signed;
use tallystick_common::segment::{Block, Header};
use tallystick_common::time::Timestamp;

use super::touched::Usage;
use super::{Decided, DecisionError, Order, action};
use crate::audit::{self, Note};
use crate::billing::leakage;
use crate::catalog::CatalogError;
use crate::catalog::change::known_node;
use crate::rollup::within::{catch_up_node, count_again, hold, hours_of};
use crate::store::decisions::{self, DecisionRow};
use crate::store::nodes::Node;
use crate::store::streams::{self, Stream};
use crate::store::{Connection, Store, StoreError, Tx, owners};

/// Segments read at once.
pub(super) const PAGE: u32 = 256;

/// A decision in the making.
pub(super) struct Hearing {
    pub(super) tx: Tx,
    pub(super) node: Node,
    pub(super) stream: Stream,
    /// Every stream of the node.
    pub(super) streams: Vec<Stream>,
    hours: BTreeSet<u64>,
    usage: Usage,
    changed: u64,
}

/// What is decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sentence {
    pub(super) kind: DecisionKind,
    pub(super) first: Seq,
    pub(super) last: Option<Seq>,
}

impl Hearing {
    /// Begins. What can be done before is done before.
    pub(super) async fn open(store: &Store, order: &Order<'_>) -> Result<Self, DecisionError> {
        order.check()?;
        let node = {
            let mut tx = store.read().await?;
            let node = known_node(&mut tx, order.node).await?;
            known_stream(&mut tx, &node, order.stream).await?;
            node
        };
        catch_up_node(store, node.row).await?;
        let mut tx = store.ingest().await?;
        owners::release(&mut tx, node.row).await?;
        let streams = hold(&mut tx, node.row).await?;
        let of = |held: &&Stream| held.stream == order.stream;
        let stream = streams.iter().find(of).cloned().ok_or(StoreError::Moved)?;
        Ok(Self {
            tx,
            node,
            stream,
            streams,
            hours: BTreeSet::new(),
            usage: Usage::default(),
            changed: 0,
        })
    }

    /// Lets a segment count.
    pub(super) async fn count(
        &mut self,
        header: &Header,
        blocks: &[Block],
    ) -> Result<(), StoreError> {
        let (node, stream) = (self.node.row, self.stream.row);
        decisions::count(&mut self.tx, stream, header.seq).await?;
        streams::insert_gaps(&mut self.tx, node, stream, &header.gaps).await?;
        self.change(header, blocks);
        Ok(())
    }

    /// Lets every segment from `first` to `last` that counts, count no longer, for a reason (a word, and words) if
    /// it is not the one that stands there.
    pub(super) async fn uncount(
        &mut self,
        first: Seq,
        last: Option<Seq>,
        doubt: Option<(&str, &str)>,
    ) -> Result<(), StoreError> {
        let (node, stream) = (self.node.row, self.stream.row);
        let mut next = first;
        loop {
            let page = streams::segments_from(&mut self.tx, stream, next, PAGE).await?;
            let Some(end) = page.last().map(|segment| segment.seq) else {
                return Ok(());
            };
            for segment in page {
                if !segment.counted || last.is_some_and(|last| segment.seq > last) {
                    continue;
                }
                let (sealed, blocks) = segment.read()?;
                let header = sealed.header();
                decisions::uncount(&mut self.tx, stream, header.seq, doubt).await?;
                decisions::forget_gaps(&mut self.tx, node, stream, &header.gaps).await?;
                self.change(header, &blocks);
            }
            next = end.next();
            if last.is_some_and(|last| next > last) {
                return Ok(());
            }
        }
    }

    fn change(&mut self, header: &Header, blocks: &[Block]) {
        self.hours
            .extend(hours_of(header.from, header.covered_through));
        self.usage.add(header, blocks);
        self.changed += 1;
    }

    /// Counts again what changed, writes the decision down, and ends.
    pub(super) async fn close(
        mut self,
        order: &Order<'_>,
        sentence: Sentence,
        set_aside: Vec<String>,
        now: Timestamp,
    ) -> Result<Decided, DecisionError> {
        let node = self.node.row;
        count_again(&mut self.tx, node, &self.streams, &self.hours).await?;
        if sentence.kind != DecisionKind::KeepAdmitted {
            let range = (sentence.first, sentence.last);
            leakage::decided(&mut self.tx, self.stream.row, range, now).await?;
        }
        let touched = self.usage.touched(&mut self.tx, &self.node).await?;
        let decision = self.write(order, sentence, now).await?;
        let invoices: Vec<&String> = touched.iter().filter_map(|t| t.invoice.as_ref()).collect();
        let note = Note {
            at: now,
            actor: order.actor,
            action: action(sentence.kind),
            subject: &self.node.id.to_string(),
            detail: serde_json::json!({
                "decision": decision.number, "kind": decision.kind, "stream": decision.stream,
                "first": decision.first, "last": decision.last, "reason": decision.reason,
                "segments": self.changed, "set_aside": set_aside, "invoices": invoices,
            }),
        };
        audit::append(&mut self.tx, &note).await?;
        self.tx.commit().await?;
        Ok(Decided {
            decision: Some(decision),
            before: false,
            changed: self.changed,
            set_aside,
            touched,
        })
    }

    /// What it would come to; nothing has happened.
    pub(super) async fn only_ask(mut self) -> Result<Decided, DecisionError> {
        Ok(Decided {
            decision: None,
            before: false,
            changed: self.changed,
            set_aside: Vec::new(),
            touched: self.usage.touched(&mut self.tx, &self.node).await?,
        })
    }

    async fn write(
        &mut self,
        order: &Order<'_>,
        sentence: Sentence,
        now: Timestamp,
    ) -> Result<DecisionRow, StoreError> {
        let Sentence { kind, first, last } = sentence;
        let decision = Decision {
            number: decisions::next_number(&mut self.tx).await?,
            kind,
            node: self.node.id,
            stream: self.stream.stream,
            first,
            last,
            reason: order.reason.trim().to_owned(),
            by: order.actor.to_owned(),
            at: now,
        };
        let signed = Signed::new(&decision, order.signer).to_bytes();
        let row = DecisionRow {
            number: decision.number,
            kind,
            node: decision.node,
            stream: decision.stream,
            first,
            last,
            reason: decision.reason,
            by: decision.by,
            at: now,
        };
        decisions::insert(&mut self.tx, self.stream.row, &row, &signed).await?;
        Ok(row)
    }

    /// The latest decision on the stream, if it was this very one.
    pub(super) async fn decided_before(
        &mut self,
        sentence: Sentence,
    ) -> Result<Option<DecisionRow>, StoreError> {
        let Sentence { kind, first, last } = sentence;
        let through = last.unwrap_or(Seq(u64::MAX));
        let all = decisions::of_stream(&mut self.tx, self.stream.row).await?;
        let latest = all
            .into_iter()
            .rev()
            .find(|held| held.concerns(first, through));
        Ok(latest.filter(|held| held.kind == kind && held.is_of(first, last)))
    }
}

/// A stream of a node.
pub(super) async fn known_stream(
    conn: &mut Connection,
    node: &Node,
    stream: StreamId,
) -> Result<Stream, DecisionError> {
    let found = streams::find(conn, node.row, stream).await?;
    Ok(found.ok_or_else(|| CatalogError::Unknown {
        what: "stream of this node",
        name: stream.to_string(),
        hint: "see `node show` and `quarantine list`",
    })?)
}
