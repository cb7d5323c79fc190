//! What was found, told to a customer line by line, and as data.

use std::fmt;

use serde::Serialize;

use super::Step;
use super::audit::Log;
use super::correction::NamedDocuments;
use super::node::Node;
use super::stream::Stream;
use super::tally::Told;
use super::trust::Standing;
use super::usage::Used;
use crate::ids::{Hash, NodeId, Seq, StreamId, WorkloadName};
use crate::invoice::{InvoiceDocument, digest};
use crate::keys::PublicKey;
use crate::meter::{Meter, Unit};
use crate::money::Money;
use crate::period::Period;
use crate::statement::{Detail, Line, RegisterSpan, Statement};
use crate::time::Timestamp;

/// Evidence that agrees with itself, and the invoice computed from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The invoice.
    pub number: String,
    /// BLAKE3 of its document.
    pub digest: Hash,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// Who owes: id and name.
    pub account: (String, String),
    /// For which time.
    pub period: Period,
    /// What was checked, in order.
    pub checks: Vec<Check>,
    /// Nodes and their streams.
    pub nodes: Vec<NodeReport>,
    /// Lines as computed.
    pub lines: Vec<LineReport>,
    /// Their sum.
    pub total: Money,
    /// What the document is over: the total; of a correction what it differs by from what was said before
    /// (negative on a credit note); with what an invoice carries.
    pub amount: Money,
    /// The invoice that it corrects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrects: Option<String>,
    /// What it is worth.
    pub standing: Standing,
}

/// A step that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which.
    pub step: Step,
    /// What was seen.
    pub said: String,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeReport {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The key it enrolled with.
    pub key: PublicKey,
    /// Its streams.
    pub streams: Vec<StreamReport>,
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StreamReport {
    /// Which.
    pub stream: StreamId,
    /// The first segment of the chain.
    pub first: Seq,
    /// The last one: the invoice's cut.
    pub last: Seq,
    /// Its hash.
    pub head: Hash,
    /// Time that the chain accounts for.
    pub covers: Period,
    /// Segments of which blocks are shown.
    pub shown: usize,
    /// Segments that are held and not counted.
    pub quarantined: usize,
}

/// One charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineReport {
    /// Its id.
    pub id: String,
    /// What the customer reads.
    pub title: String,
    /// Whose usage.
    pub usage: Vec<UsageReport>,
    /// From the quantity to the amount, a sentence each.
    pub steps: Vec<String>,
    /// What is due.
    pub amount: Money,
}

/// One workload's part of a charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageReport {
    /// The node.
    pub node: String,
    /// The workload.
    pub workload: WorkloadName,
    /// What was measured.
    pub meter: Meter,
    /// In which unit.
    pub unit: Unit,
    /// How much.
    #[serde(with = "crate::money::whole")]
    pub quantity: u128,
    /// What the whole host counted in the same time, where it counts this.
    #[serde(serialize_with = "as_text")]
    pub host: Option<u128>,
    /// The readings that say so.
    pub registers: Vec<RegisterSpan>,
}

fn as_text<S: serde::Serializer>(value: &Option<u128>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// All that a report is made of.
pub(super) struct Found<'a> {
    pub(super) bytes: usize,
    pub(super) document: InvoiceDocument,
    pub(super) statement: Statement,
    pub(super) nodes: &'a [Node],
    pub(super) used: &'a Used,
    pub(super) named: NamedDocuments,
    pub(super) log: Log,
    pub(super) told: Option<Told>,
    pub(super) standing: Standing,
    pub(super) authorities: usize,
}

pub(super) fn build(found: Found<'_>) -> Report {
    let checks = checks(&found);
    let lines = found.statement.lines.iter();
    let lines = lines.map(|line| line_report(line, found.used)).collect();
    let Found {
        document,
        statement,
        nodes,
        standing,
        ..
    } = found;
    Report {
        digest: digest(document.to_json().as_bytes()),
        amount: document.amount(),
        corrects: document
            .correction
            .map(|correction| correction.invoice.number),
        number: document.number,
        issued_at: document.issued_at,
        account: (statement.account.id, statement.account.name),
        period: statement.period,
        checks,
        nodes: nodes.iter().map(node_report).collect(),
        lines,
        total: statement.total,
        standing,
    }
}

fn node_report(node: &Node) -> NodeReport {
    NodeReport {
        node: node.id,
        name: node.name.clone(),
        key: node.key,
        streams: node.streams.iter().filter_map(stream_report).collect(),
    }
}

fn stream_report(stream: &Stream) -> Option<StreamReport> {
    let (first, last) = (stream.chain.first()?, stream.chain.last()?);
    Some(StreamReport {
        stream: stream.id,
        first: first.header.seq,
        last: last.header.seq,
        head: last.hash,
        covers: Period {
            from: first.header.from,
            to: last.header.covered_through,
        },
        shown: stream.shown.len(),
        quarantined: stream.quarantined.len(),
    })
}

fn line_report(line: &Line, used: &Used) -> LineReport {
    LineReport {
        id: line.id.clone(),
        title: line.title.clone(),
        usage: line
            .details
            .iter()
            .map(|detail| usage_report(detail, line.meter, used))
            .collect(),
        steps: line.steps.iter().map(ToString::to_string).collect(),
        amount: line.amount,
    }
}

fn usage_report(detail: &Detail, meter: Meter, used: &Used) -> UsageReport {
    // The holdings behind a detail are those of its time.
    let spans = used.items.iter().filter(|item| {
        item.node == detail.of.node
            && item.workload == detail.of.workload
            && item.meter == meter
            && detail.window.covers(&item.window())
    });
    let host = spans
        .map(|item| used.hosts.get(&(item.node, item.window(), meter)).copied())
        .try_fold(0_u128, |sum, host| sum.checked_add(host?));
    UsageReport {
        node: detail.of.node_name.clone(),
        workload: detail.of.workload.clone(),
        meter,
        unit: meter.unit(),
        quantity: detail.quantity,
        host,
        registers: detail.registers.clone(),
    }
}

fn checks(found: &Found<'_>) -> Vec<Check> {
    let document = &found.document;
    let streams = || found.nodes.iter().flat_map(|node| &node.streams);
    let segments: usize = streams().map(|stream| stream.chain.len()).sum();
    let blocks: usize = streams()
        .flat_map(|stream| stream.shown.values())
        .map(Vec::len)
        .sum();
    let signed: usize = streams().map(|stream| stream.shown.len()).sum();
    let doubted: usize = streams().map(|stream| stream.quarantined.len()).sum();
    let registers = found.used.items.iter();
    let registers: usize = registers.map(|item| item.registers.len()).sum();
    let said = [
        (
            Step::File,
            format!("{} bytes, in their one spelling", found.bytes),
        ),
        (
            Step::Authorities,
            format!(
                "{} in succession, and the key of receipts",
                found.authorities
            ),
        ),
        (
            Step::Invoice,
            format!("{} is the document that was issued", document.number),
        ),
        (
            Step::Documents,
            "account, subscriptions, assignments and plans are those it names".to_owned(),
        ),
        (
            Step::Period,
            format!("{} is one of the account's", document.statement.period),
        ),
        (
            Step::Assignments,
            "everything billed was assigned to the account".to_owned(),
        ),
        (
            Step::Node,
            format!(
                "{} with a key that an authority vouches for",
                found.nodes.len()
            ),
        ),
        (
            Step::Chain,
            format!("{segments} segments, each naming the one before, up to the cut"),
        ),
        (Step::Signature, format!("{signed} signatures of nodes")),
        (
            Step::Receipt,
            format!("held and counted by the reconciler, but for {doubted}"),
        ),
        (
            Step::Proof,
            format!("{blocks} blocks are of their segments"),
        ),
        (
            Step::Usage,
            format!("{registers} register spans go on without jump or hole"),
        ),
        (
            Step::Statement,
            "rated again, to the same bytes but for notes on time".to_owned(),
        ),
        (
            Step::Audit,
            format!(
                "entry {} of {} at {}",
                found.log.entry(),
                found.log.head().entries,
                found.log.at
            ),
        ),
    ];
    let corrected = found.named.told();
    let corrected = corrected.map(|said| (Step::Correction, said));
    let tally = found.told.map(|told| {
        let said = format!(
            "{} readings and {} receipts agree",
            told.readings, told.receipts
        );
        (Step::Tally, said)
    });
    let mut said: Vec<_> = said.into_iter().chain(corrected).chain(tally).collect();
    said.sort_by_key(|(step, _)| *step);
    said.into_iter()
        .map(|(step, said)| Check { step, said })
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, name) = &self.account;
        match &self.corrects {
            None => writeln!(f, "Invoice {} of {}", self.number, self.issued_at)?,
            Some(invoice) => writeln!(
                f,
                "Correction {} of invoice {invoice}, {}",
                self.number, self.issued_at
            )?,
        }
        writeln!(f, "{name} ({id}), {}\n", self.period)?;
        for check in &self.checks {
            writeln!(f, "ok  {:<12} {}", check.step.to_string(), check.said)?;
        }
        for node in &self.nodes {
            write!(f, "{node}")?;
        }
        for line in &self.lines {
            write!(f, "{line}")?;
        }
        writeln!(
            f,
            "\nTotal {}: the evidence gives what the invoice says",
            self.total
        )?;
        if self.amount != self.total {
            let amount = self.amount;
            writeln!(f, "Amount of the document {amount}: by those that it names")?;
        }
        write!(f, "{}", self.standing)
    }
}

impl fmt::Display for NodeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nNode {} ({}), key {}", self.name, self.node, self.key)?;
        for stream in &self.streams {
            let StreamReport {
                first,
                last,
                covers,
                ..
            } = stream;
            writeln!(
                f,
                "    stream {}: segments {first} to {last}, {covers}",
                stream.stream
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for LineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{} [{}]  {}", self.title, self.id, self.amount)?;
        for usage in &self.usage {
            write!(f, "{usage}")?;
        }
        for step in &self.steps {
            writeln!(f, "    {step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for UsageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (quantity, unit) = (self.quantity, self.unit);
        write!(
            f,
            "    {} on {}: {quantity} {unit}",
            self.workload, self.node
        )?;
        match self.host {
            Some(host) => writeln!(f, ", of {host} of the whole host")?,
            None => writeln!(f)?,
        }
        for span in &self.registers {
            let RegisterSpan {
                register,
                from,
                to,
                opening,
                closing,
                ..
            } = span;
            writeln!(
                f,
                "        register {register}: {opening} at {from}, {closing} at {to}"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for unused in &self.unused {
            writeln!(f, "Not in this file, or outside of what it shows: {unused}")?;
        }
        if self.authenticated {
            return writeln!(f, "Authenticated by {}", self.by.join("; "));
        }
        f.write_str("Consistent, not authenticated: ")?;
        if self.by.is_empty() {
            return f.write_str(
                "whoever made the file may have made all keys in it; give --trust a node's signing key, an authority's fingerprint or an audit checkpoint that you hold\n",
            );
        }
        let by = self.by.join("; ");
        writeln!(
            f,
            "{by} does not bear out all of its nodes; give --trust the others' keys"
        )
    }
}
