//! Why a period is known otherwise than when it was last spoken of: positions and decisions of then beside
//! those of now.
//!
//! Only what may have changed the account's amounts: streams of its nodes, rules effective in the period. Rules
//! of others are counted, not named, because the customer reads this.

use std::collections::{BTreeMap, BTreeSet};

use tallystick_common::correction::Reason;
use tallystick_common::ids::{NodeId, Seq};
use tallystick_common::period::Period;

use super::super::document::{CutPosition, InvoiceDocument};
use super::super::draft::Draft;
use crate::catalog::Account;
use crate::store::streams::{Stream, StreamRow};
use crate::store::{self, Connection, StoreError};

/// Every reason, by node and stream; assignments last.
pub(super) async fn reasons(
    conn: &mut Connection,
    account: &Account,
    base: &InvoiceDocument,
    now: &Draft,
) -> Result<Vec<Reason>, StoreError> {
    let names: BTreeMap<NodeId, String> = store::nodes::all(conn)
        .await?
        .into_iter()
        .map(|node| (node.id, node.name))
        .collect();
    let streams = store::streams::all(conn).await?;
    let mut cuts: Vec<&CutPosition> = now.cut.iter().collect();
    cuts.sort_by_key(|cut| (cut.node, cut.stream));
    let mut reasons = Vec::new();
    for cut in cuts {
        let stream = streams.iter().find(|held| is_at(held, cut));
        let Some(stream) = stream else { continue };
        let then = base.cut.iter().find(|then| is_at(stream, then));
        let compared = Compared {
            stream: stream.row,
            name: names.get(&cut.node).cloned().unwrap_or_default(),
            then,
            now: cut,
            period: base.statement.period,
        };
        reasons.extend(compared.late(conn).await?);
        reasons.extend(compared.decided(conn).await?);
    }
    reasons.extend(reassigned(conn, account, base).await?);
    Ok(reasons)
}

fn is_at(stream: &Stream, cut: &CutPosition) -> bool {
    (stream.node, stream.stream) == (cut.node, cut.stream)
}

/// One stream then and now.
struct Compared<'a> {
    stream: StreamRow,
    name: String,
    then: Option<&'a CutPosition>,
    now: &'a CutPosition,
    period: Period,
}

impl Compared<'_> {
    async fn late(&self, conn: &mut Connection) -> Result<Option<Reason>, StoreError> {
        let from = self.then.map_or(Seq::FIRST, |then| then.seq.next());
        let beyond = store::corrections::beyond(conn, self.stream, from, self.period).await?;
        Ok(beyond.map(|(first, last, segments)| Reason::Late {
            node: self.now.node,
            node_name: self.name.clone(),
            stream: self.now.stream,
            first,
            last,
            segments,
        }))
    }

    /// Segments of then that are counted now and were not, and the other way round.
    async fn decided(&self, conn: &mut Connection) -> Result<Vec<Reason>, StoreError> {
        let Some(then) = self.then else {
            return Ok(Vec::new());
        };
        let held_then: BTreeSet<Seq> = then.quarantined.iter().copied().collect();
        let held_now = self.now.quarantined.iter().copied();
        let held_now: BTreeSet<Seq> = held_now.filter(|seq| *seq <= then.seq).collect();
        let accepted: Vec<Seq> = held_then.difference(&held_now).copied().collect();
        let withdrawn: Vec<Seq> = held_now.difference(&held_then).copied().collect();
        let accepted = self.in_period(conn, accepted).await?;
        let withdrawn = self.in_period(conn, withdrawn).await?;
        let (node, stream) = (self.now.node, self.now.stream);
        let accepted = (!accepted.is_empty()).then(|| Reason::Accepted {
            node,
            node_name: self.name.clone(),
            stream,
            segments: accepted,
        });
        let withdrawn = (!withdrawn.is_empty()).then(|| Reason::Withdrawn {
            node,
            node_name: self.name.clone(),
            stream,
            segments: withdrawn,
        });
        Ok(accepted.into_iter().chain(withdrawn).collect())
    }

    /// Those that have time in the period.
    async fn in_period(
        &self,
        conn: &mut Connection,
        segments: Vec<Seq>,
    ) -> Result<Vec<Seq>, StoreError> {
        let mut within = Vec::new();
        for seq in segments {
            let beyond = store::corrections::beyond(conn, self.stream, seq, self.period).await?;
            if beyond.is_some_and(|(first, ..)| first == seq) {
                within.push(seq);
            }
        }
        Ok(within)
    }
}

/// Rules made since the last document that are effective in the period.
async fn reassigned(
    conn: &mut Connection,
    account: &Account,
    base: &InvoiceDocument,
) -> Result<Option<Reason>, StoreError> {
    let rules = store::catalog::assignments(conn).await?;
    let since = rules
        .iter()
        .filter(|rule| rule.created_at > base.issued_at && rule.from < base.statement.period.to);
    let (own, others): (Vec<_>, Vec<_>) = since.partition(|rule| rule.account == account.id);
    let reason = Reason::Reassigned {
        own: own.iter().map(|rule| rule.id).collect(),
        others: others.len() as u64,
    };
    Ok((!own.is_empty() || !others.is_empty()).then_some(reason))
}
