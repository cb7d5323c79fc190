//! Evidence of an issued invoice or correction: reads what it was computed from and writes one file of it.
//!
//! Owns where each part comes from. What is shown of a stream is decided in
//! [`tallystick_common::evidence::gather`]; documents are those that were in force when the invoice was
//! issued, and what no longer has the digest that the invoice names is an error, not evidence.

use std::collections::{BTreeMap, BTreeSet};

use tallystick_common::audit::{AuditCheckpoint, SignedCheckpoint};
use tallystick_common::codec;
use tallystick_common::correction::Named;
use tallystick_common::evidence::gather::Gather;
use tallystick_common::evidence::{
    AuditPart, Evidence, Holding, InvoicePart, NodeEvidence, NodePart, SignedHeader, StreamPart,
    Terms,
};
use tallystick_common::ids::{Hash, NodeId, Seq, StoreEpoch, WorkloadName};
use tallystick_common::invoice::{CutPosition, InvoiceDocument, IssuedInvoice, digest, json_of};
use tallystick_common::keys::{EnrolmentRecord, Signed};
use tallystick_common::price::Plan;
use tallystick_common::receipt::Receipt;
use tallystick_common::statement::Detail;
use tallystick_common::time::Timestamp;

use crate::audit::{self, Checkpoint};
use crate::authority::Authority;
use crate::billing::draft::cuts;
use crate::catalog::assignment::NodeNames;
use crate::catalog::{Account, Assignments, Subscription, subscription};
use crate::store::billing::InvoiceRow;
use crate::store::nodes::Node;
use crate::store::streams::{self, Stream};
use crate::store::{self, Connection, StoreError, readings};

/// Segments read at once.
const PAGE: u32 = 512;

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// No such invoice.
    #[error(
        "no invoice or correction has the number {0}: see `invoice list` and `correction list`"
    )]
    Unknown(String),
    /// Something is not what the invoice was computed from.
    #[error(
        "gather evidence of {number}: {what} is no longer what the invoice names; restore it from a backup"
    )]
    Changed {
        /// The invoice.
        number: String,
        /// What.
        what: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    /// Of which invoice or correction.
    pub number: &'a str,
    /// Every block of the account's workloads, not only those that prove the readings at bounds.
    pub full: bool,
    /// The store's life, named in receipts.
    pub epoch: StoreEpoch,
}

/// The file. All reads see one state of the store when `conn` is in a transaction.
///
/// # Errors
/// When there is no such invoice, or not all that it was computed from.
pub async fn export(
    conn: &mut Connection,
    authority: &Authority,
    order: &Export<'_>,
    now: Timestamp,
) -> Result<Vec<u8>, EvidenceError> {
    let row = store::corrections::document(conn, order.number).await?;
    let row = row.ok_or_else(|| EvidenceError::Unknown(order.number.to_owned()))?;
    let document: InvoiceDocument = serde_json::from_str(&row.document)
        .map_err(|error| StoreError::damaged("invoices.document", error))?;
    let work = Work {
        order,
        authority,
        now,
        document: &document,
    };
    let agreed = work.agreed(conn).await?;
    let holdings = work.holdings(conn, &agreed).await?;
    let nodes = work.nodes(conn, &holdings).await?;
    let audit = work.audit(conn).await?;
    let evidence = Evidence {
        invoice: work.invoice(&row),
        named: work.named(conn).await?,
        authorities: authority.records(),
        terms: agreed.into_terms(holdings),
        nodes,
        audit,
    };
    Ok(evidence.encode())
}

/// Where the audit log stands, signed, to be kept elsewhere.
///
/// # Errors
/// When the database fails.
pub async fn checkpoint(
    conn: &mut Connection,
    authority: &Authority,
    epoch: StoreEpoch,
    now: Timestamp,
) -> Result<(Checkpoint, SignedCheckpoint), StoreError> {
    let checkpoint = audit::head(conn).await?;
    let signed = SignedCheckpoint {
        statement: signed_head(checkpoint, authority, epoch, now),
        receipt_key: authority.receipt_certificate(),
    };
    Ok((checkpoint, signed))
}

fn signed_head(
    checkpoint: Checkpoint,
    authority: &Authority,
    epoch: StoreEpoch,
    at: Timestamp,
) -> Signed<AuditCheckpoint> {
    let statement = AuditCheckpoint {
        checkpoint,
        epoch,
        at,
    };
    Signed::new(&statement, authority.receipt_key())
}

/// The documents that were in force when the invoice was issued.
struct Agreed {
    account: Account,
    subscriptions: Vec<Subscription>,
    rules: Assignments,
    plans: Vec<Plan>,
}

impl Agreed {
    fn into_terms(self, holdings: Vec<Holding>) -> Terms {
        Terms {
            assignments: json_of(&self.rules.of(&self.account.id)),
            account: json_of(&self.account),
            subscriptions: json_of(&self.subscriptions),
            plans: self.plans.iter().map(json_of).collect(),
            holdings,
        }
    }
}

struct Work<'a> {
    order: &'a Export<'a>,
    authority: &'a Authority,
    now: Timestamp,
    document: &'a InvoiceDocument,
}

impl Work<'_> {
    fn changed(&self, what: impl Into<String>) -> EvidenceError {
        EvidenceError::Changed {
            number: self.order.number.to_owned(),
            what: what.into(),
        }
    }

    fn invoice(&self, row: &InvoiceRow) -> InvoicePart {
        let word = IssuedInvoice {
            number: row.number.clone(),
            digest: digest(row.document.as_bytes()),
            at: row.issued_at,
        };
        InvoicePart {
            document: row.document.clone().into_bytes(),
            word: Signed::new(&word, self.authority.receipt_key()),
        }
    }

    /// The documents that this one names by digest.
    async fn named(&self, conn: &mut Connection) -> Result<Vec<Vec<u8>>, EvidenceError> {
        let mut named = Vec::new();
        let mut next = self.document.correction.clone();
        while let Some(correction) = next {
            let document = self.held(conn, &correction.base).await?;
            let base: InvoiceDocument = serde_json::from_str(&document)
                .map_err(|error| StoreError::damaged("an issued document", error))?;
            named.push(document.into_bytes());
            next = base.correction;
        }
        for carried in &self.document.carried {
            let document = self.held(conn, &carried.correction).await?;
            named.push(document.into_bytes());
        }
        Ok(named)
    }

    async fn held(&self, conn: &mut Connection, name: &Named) -> Result<String, EvidenceError> {
        let row = store::corrections::document(conn, &name.number).await?;
        let row = row.filter(|row| digest(row.document.as_bytes()) == name.digest);
        let row = row.ok_or_else(|| self.changed(format!("document {}", name.number)))?;
        Ok(row.document)
    }

    async fn agreed(&self, conn: &mut Connection) -> Result<Agreed, EvidenceError> {
        let statement = &self.document.statement;
        let account = store::catalog::account(conn, &statement.account.id).await?;
        let account = account.ok_or_else(|| self.changed("the account"))?;
        let issued = self.document.issued_at;
        let rules = store::catalog::assignments(conn).await?.made_by(issued);
        // A correction is by the subscriptions that its invoice was issued by.
        let correction = self.document.correction.as_ref();
        let agreed = correction.map_or(issued, |correction| correction.agreed_at);
        let mut subscriptions = store::catalog::subscriptions(conn, Some(&account.id)).await?;
        subscriptions.retain(|held| held.created_at <= agreed);
        let mut plans = Vec::new();
        for held in subscription::spans(subscriptions.clone(), &statement.period) {
            let (name, version) = (&held.subscription.plan, held.subscription.plan_version);
            let row = store::catalog::plan_version(conn, name, Some(version)).await?;
            let row = row.ok_or_else(|| self.changed(format!("plan {name}@{version}")))?;
            let plan: Plan = serde_json::from_str(&row.document)
                .map_err(|error| StoreError::damaged("plan_versions.document", error))?;
            plans.push(plan);
        }
        let agreed = Agreed {
            account,
            subscriptions,
            rules,
            plans,
        };
        self.check(&agreed)?;
        Ok(agreed)
    }

    /// Whether these are what the invoice names.
    fn check(&self, agreed: &Agreed) -> Result<(), EvidenceError> {
        let digests = &self.document.digests;
        let rules = json_of(&agreed.rules.of(&agreed.account.id));
        let plans: Vec<Hash> = agreed.plans.iter().map(Plan::digest).collect();
        for (what, same) in [
            (
                "the account",
                digest(&json_of(&agreed.account)) == digests.account,
            ),
            (
                "a subscription",
                digest(&json_of(&agreed.subscriptions)) == digests.subscriptions,
            ),
            ("an assignment", digest(&rules) == digests.assignments),
            ("a plan", plans == digests.plans),
        ] {
            if !same {
                return Err(self.changed(what));
            }
        }
        Ok(())
    }

    /// What was the account's when, of the workloads that the statement names.
    async fn holdings(
        &self,
        conn: &mut Connection,
        agreed: &Agreed,
    ) -> Result<Vec<Holding>, EvidenceError> {
        let statement = &self.document.statement;
        let lines = statement.lines.iter().flat_map(|line| &line.details);
        let unpriced = statement.unpriced.iter().map(|unpriced| &unpriced.detail);
        let of = |detail: &Detail| (detail.of.node, detail.of.workload.clone());
        let named: BTreeSet<(NodeId, WorkloadName)> = lines.chain(unpriced).map(of).collect();
        let mut names: BTreeMap<NodeId, NodeNames> = BTreeMap::new();
        for node in store::nodes::all(conn).await? {
            let (id, name) = (node.id, node.name);
            names.insert(id, NodeNames { id, name });
        }
        let cuts = cuts(&agreed.rules, &agreed.subscriptions, statement.period);
        let mut holdings = Vec::new();
        for (node, workload) in named {
            let names = names
                .get(&node)
                .ok_or_else(|| self.changed(format!("node {node}")))?;
            for pair in cuts.windows(2) {
                let owner = agreed.rules.owner(names, workload.as_str(), pair[0]);
                if owner.is_some_and(|rule| rule.account == agreed.account.id) {
                    holdings.push(Holding {
                        node,
                        workload: workload.as_str().to_owned(),
                        from: pair[0],
                        to: pair[1],
                    });
                }
            }
        }
        Ok(holdings)
    }

    async fn nodes(
        &self,
        conn: &mut Connection,
        holdings: &[Holding],
    ) -> Result<Vec<NodeEvidence>, EvidenceError> {
        let mut nodes = Vec::new();
        for of in holdings.chunk_by(|a, b| a.node == b.node) {
            let Some(id) = of.first().map(|holding| holding.node) else {
                continue;
            };
            let node = store::nodes::by_id(conn, id).await?;
            let node = node.ok_or_else(|| self.changed(format!("node {id}")))?;
            let streams = self.streams(conn, &node, of).await?;
            let record = record(conn, &node).await?;
            let node = NodePart { node: id, record };
            nodes.push(NodeEvidence { node, streams });
        }
        Ok(nodes)
    }

    async fn streams(
        &self,
        conn: &mut Connection,
        node: &Node,
        holdings: &[Holding],
    ) -> Result<Vec<StreamPart>, EvidenceError> {
        let from = self.document.statement.period.from;
        let held = streams::of_node(conn, node.row).await?;
        let mut parts = Vec::new();
        for cut in &self.document.cut {
            if cut.node != node.id || cut.covered_through <= from {
                continue;
            }
            let stream = held.iter().find(|held| held.stream == cut.stream);
            let stream = stream.ok_or_else(|| self.changed(format!("stream {}", cut.stream)))?;
            parts.push(self.stream(conn, node, stream, cut, holdings).await?);
        }
        Ok(parts)
    }

    async fn stream(
        &self,
        conn: &mut Connection,
        node: &Node,
        stream: &Stream,
        cut: &CutPosition,
        holdings: &[Holding],
    ) -> Result<StreamPart, EvidenceError> {
        let what = || format!("stream {}", cut.stream);
        let from = self.document.statement.period.from;
        let since = readings::first_after(conn, stream.row, from).await?;
        let since = since.ok_or_else(|| self.changed(what()))?;
        let first = Seq(since.0.saturating_sub(1));
        let mut gather = Gather::new(holdings.iter().collect(), self.order.full);
        let mut next = first;
        while next <= cut.seq {
            let page = streams::segments_from(conn, stream.row, next, PAGE).await?;
            let Some(last) = page.last().map(|segment| segment.seq) else {
                return Err(self.changed(what()));
            };
            let counts = |seq: Seq| seq >= since && !cut.quarantined.contains(&seq);
            for segment in page.into_iter().filter(|segment| segment.seq <= cut.seq) {
                let counted = counts(segment.seq);
                let sealed = segment.sealed()?;
                let damaged = |error| StoreError::damaged("segments.bytes", error);
                gather.push(sealed, counted).map_err(damaged)?;
            }
            next = last.next();
        }
        if gather.head() != Some((cut.seq, cut.hash)) {
            return Err(self.changed(what()));
        }
        let rotations = rotations(conn, node, stream, first).await?;
        let receipt = self.receipt(cut, since);
        let part = gather.finish(cut.stream, rotations, receipt);
        part.ok_or_else(|| self.changed(what()))
    }

    fn receipt(&self, cut: &CutPosition, since: Seq) -> Signed<Receipt> {
        let receipt = Receipt {
            node: cut.node,
            stream: cut.stream,
            seq: cut.seq,
            hash: cut.hash,
            epoch: self.order.epoch,
            at: self.now,
            since,
            quarantined: cut.quarantined.clone(),
        };
        Signed::new(&receipt, self.authority.receipt_key())
    }

    async fn audit(&self, conn: &mut Connection) -> Result<AuditPart, EvidenceError> {
        let action = match self.document.correction {
            None => "invoice.issue",
            Some(_) => "correction.issue",
        };
        let entry = audit::entry_of(conn, action, self.order.number).await?;
        let entry = entry.ok_or_else(|| self.changed("the entry in the audit log"))?;
        let mut after = Vec::new();
        let mut last = (entry.seq, entry.hash);
        loop {
            let page = audit::entries(conn, last.0, PAGE).await?;
            let Some(end) = page.last() else { break };
            last = (end.seq, end.hash);
            after.extend(page.iter().map(|entry| entry.content().hash()));
        }
        let head = Checkpoint {
            entries: last.0,
            head: last.1,
        };
        Ok(AuditPart {
            previous: entry.previous,
            seq: entry.seq,
            entry: entry.content(),
            after,
            head: signed_head(head, self.authority, self.order.epoch, self.now),
        })
    }
}

/// The authority's word for the node's key.
async fn record(conn: &mut Connection, node: &Node) -> Result<Signed<EnrolmentRecord>, StoreError> {
    let records = store::nodes::records(conn, node.row).await?;
    let none = || StoreError::damaged("node_records", format!("node {} has none", node.id));
    let first = records.first().ok_or_else(none)?;
    Signed::from_bytes(first).map_err(|error| StoreError::damaged("node_records.record", error))
}

/// Segments before `first` that rotated the stream's key.
async fn rotations(
    conn: &mut Connection,
    node: &Node,
    stream: &Stream,
    first: Seq,
) -> Result<Vec<SignedHeader>, StoreError> {
    let ring = store::nodes::key_ring(conn, node).await?;
    let mut rotations = Vec::new();
    for from in ring.rotations(stream.stream) {
        let rotating = Seq(from.0.saturating_sub(1));
        if rotating < first {
            let sealed = readings::segment(conn, stream.row, rotating)
                .await?
                .sealed()?;
            rotations.push(SignedHeader {
                header: codec::encode(sealed.header()),
                blocks: sealed.blocks_root(),
                signature: sealed.signature(),
            });
        }
    }
    Ok(rotations)
}
