//! Evidence changed by somebody who has every key: signed, hashed and logged anew. It may stand then, for
//! whoever has the keys may say anything; reading it must not fail in any other way than by a difference.
//!
//! `fuzz/forgeable.hex` is evidence of [`October`] behind the seed of the key that signed its receipts; the
//! node's keys are known.

use std::path::PathBuf;
use std::sync::OnceLock;

use tallystick_common::audit::{AuditCheckpoint, Checkpoint};
use tallystick_common::codec;
use tallystick_common::evidence::{Evidence, Holding, StreamPart, unpack};
use tallystick_common::ids::{Hash, NodeId, StoreEpoch};
use tallystick_common::invoice::{InvoiceDocument, IssuedInvoice, digest};
use tallystick_common::keys::{SecretKey, Signed};
use tallystick_common::receipt::Receipt;
use tallystick_common::seal::{ShownBlock, check_signature, merkle};
use tallystick_common::verify::evidence::verify;

use super::evidence::{change, changed};
use super::{Input, Output, Target, folder, hex_file};
use crate::evidence::October;

pub(super) const FORGED: Target = Target {
    name: "forged",
    max_bytes: 512,
    run,
    seeds,
    words: &[
        "\"quantity\":",
        "\"amount\":",
        "\"version\":",
        "null",
        "cgroup/",
        "-1",
        "99999999999999999999",
    ],
};

/// What is changed, in this order.
const PARTS: u8 = 9;
const DOMAIN: &str = "tallystick/1 segment";

struct Forger {
    evidence: Evidence,
    document: InvoiceDocument,
    receipt_key: SecretKey,
    node_keys: Vec<SecretKey>,
}

fn path() -> PathBuf {
    folder().join("forgeable.hex")
}

fn forger() -> &'static Forger {
    static FORGER: OnceLock<Forger> = OnceLock::new();
    FORGER.get_or_init(|| {
        let bytes = hex_file(&path());
        let (seed, file) = bytes.split_first_chunk().expect("a seed stands first");
        let evidence = Evidence::decode(file).expect("evidence follows");
        let document = serde_json::from_slice(&evidence.invoice.document).expect("its document");
        Forger {
            evidence,
            document,
            receipt_key: SecretKey::from_seed(seed),
            node_keys: [5, 6, 7]
                .map(|seed| SecretKey::from_seed(&[seed; 32]))
                .into(),
        }
    })
}

/// Writes the file that the forger begins with, where there is none.
///
/// # Errors
/// When it cannot be made.
pub fn make() -> anyhow::Result<()> {
    if path().exists() {
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let october = runtime.block_on(Box::pin(October::new()))?;
    let seed = october.office.authority.receipt_key().to_seed();
    let bytes = [&seed, october.file.as_slice()].concat();
    let text = data_encoding::HEXLOWER.encode(&bytes);
    let lines: Vec<String> = text
        .as_bytes()
        .chunks(96)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    Ok(std::fs::write(path(), lines.join("\n") + "\n")?)
}

/// The first byte says which parts are changed (a bit for signing anew), then for each its changes.
fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let forger = forger();
    let mut evidence = forger.evidence.clone();
    let mut document = None;
    let how = input.byte();
    for _ in 0..=how & 1 {
        let part = input.byte() % PARTS;
        let mut changes = Input(input.piece());
        forger.change(&mut evidence, &mut document, part, &mut changes);
    }
    if how & 2 == 0 {
        forger.sign_nodes(&mut evidence);
    }
    if how & 4 == 0 {
        forger.sign(&mut evidence, document);
    }
    let file = evidence.encode();
    match verify(&file, &[], None) {
        Ok(report) => {
            assert!(
                !report.standing.authenticated,
                "nothing outside bears it out"
            );
            assert!(
                how & 6 != 6 || evidence == forger.evidence,
                "unsigned changes stand"
            );
            let _ = report.to_string();
        }
        Err(difference) => drop(difference.to_string()),
    }
}

impl Forger {
    fn change(
        &self,
        evidence: &mut Evidence,
        document: &mut Option<Vec<u8>>,
        part: u8,
        input: &mut Input<'_>,
    ) {
        let terms = &mut evidence.terms;
        match part {
            0 => *document = Some(changed(&evidence.invoice.document, input)),
            1 => terms.account = changed(&terms.account, input),
            2 => terms.subscriptions = changed(&terms.subscriptions, input),
            3 => terms.assignments = changed(&terms.assignments, input),
            4 => {
                if let Some(plan) = terms.plans.first_mut() {
                    *plan = changed(plan, input);
                }
            }
            5 => recoded::<Vec<Holding>>(&mut terms.holdings, input),
            6 => {
                let which = usize::from(input.byte());
                let streams = evidence.nodes.iter_mut().flat_map(|node| &mut node.streams);
                if let Some(stream) = streams.into_iter().nth(which % 2) {
                    recoded::<StreamPart>(stream, input);
                }
            }
            7 => {
                let which = usize::from(input.short());
                let shown = evidence
                    .nodes
                    .iter_mut()
                    .flat_map(|node| &mut node.streams)
                    .flat_map(|stream| &mut stream.shown)
                    .flat_map(|shown| &mut shown.blocks);
                let mut blocks: Vec<&mut ShownBlock> = shown.collect();
                let count = blocks.len().max(1);
                if let Some(block) = blocks.get_mut(which % count) {
                    change_block(block, input);
                }
            }
            _ => recoded(&mut evidence.audit, input),
        }
    }

    /// Roots, hashes, signatures and receipts follow what is shown.
    fn sign_nodes(&self, evidence: &mut Evidence) {
        let before = &self.evidence;
        for (node, original) in evidence.nodes.iter_mut().zip(&before.nodes) {
            let id = node.node.node;
            for (stream, original) in node.streams.iter_mut().zip(&original.streams) {
                self.sign_stream(id, stream, original);
            }
        }
    }

    fn sign_stream(&self, node: NodeId, stream: &mut StreamPart, original: &StreamPart) {
        reroot(stream);
        let Ok(links) = unpack(node, stream.stream, &stream.start, &stream.links) else {
            return;
        };
        let before = unpack(node, original.stream, &original.start, &original.links);
        let before = before.expect("the original can be read");
        for shown in &mut stream.shown {
            let find = |links: &[tallystick_common::evidence::Linked]| {
                links
                    .iter()
                    .find(|link| link.header.seq == shown.seq)
                    .map(|link| link.hash)
            };
            let signed = original.shown.iter().find(|other| other.seq == shown.seq);
            let (Some(hash), Some(was), Some(signed)) = (find(&links), find(&before), signed)
            else {
                continue;
            };
            let key = self
                .node_keys
                .iter()
                .find(|key| check_signature(&was, &signed.signature, key.public()).is_ok());
            if let Some(key) = key {
                shown.signature = key.sign(DOMAIN, hash.as_bytes());
            }
        }
        let said = stream.receipt.verify(&self.receipt_key.public());
        if let (Ok(receipt), Some(last)) = (said, links.last()) {
            let receipt = Receipt {
                seq: last.header.seq,
                hash: last.hash,
                ..receipt
            };
            stream.receipt = Signed::new(&receipt, &self.receipt_key);
        }
    }

    /// Digests, word and log follow document and terms.
    fn sign(&self, evidence: &mut Evidence, document: Option<Vec<u8>>) {
        let bytes = document.unwrap_or_else(|| {
            let mut document = self.document.clone();
            let terms = &evidence.terms;
            document.digests.account = digest(&terms.account);
            document.digests.subscriptions = digest(&terms.subscriptions);
            document.digests.assignments = digest(&terms.assignments);
            document.to_json().into_bytes()
        });
        // A changed document names the digest of its statement.
        let read = serde_json::from_slice::<InvoiceDocument>(&bytes).ok();
        let (number, at, bytes) = match read {
            Some(mut read) => {
                read.digests.statement = read.statement.digest();
                (
                    read.number.clone(),
                    read.issued_at,
                    read.to_json().into_bytes(),
                )
            }
            None => (self.document.number.clone(), self.document.issued_at, bytes),
        };
        let digest = digest(&bytes);
        let word = IssuedInvoice { number, digest, at };
        evidence.invoice.word = Signed::new(&word, &self.receipt_key);
        evidence.invoice.document = bytes;
        self.log(evidence, digest);
    }

    fn log(&self, evidence: &mut Evidence, digest: Hash) {
        let audit = &mut evidence.audit;
        if let Ok(mut detail) = serde_json::from_str::<serde_json::Value>(&audit.entry.detail)
            && detail.is_object()
        {
            detail["digest"] = digest.to_string().into();
            audit.entry.detail = detail.to_string();
        }
        let begin = Checkpoint {
            entries: audit.seq.saturating_sub(1),
            head: audit.previous,
        };
        // The number of entries saturates no earlier than any log.
        if begin
            .entries
            .checked_add(audit.after.len() as u64 + 1)
            .is_none()
        {
            return;
        }
        let begin = begin.then(&audit.entry.hash());
        let statement = AuditCheckpoint {
            checkpoint: audit
                .after
                .iter()
                .fold(begin, |at, content| at.then(content)),
            epoch: StoreEpoch([7; 16]),
            at: self.document.issued_at,
        };
        audit.head = Signed::new(&statement, &self.receipt_key);
    }
}

/// A value as its changed bytes spell it, if they spell one.
fn recoded<T: bincode::Encode + bincode::Decode<()>>(value: &mut T, input: &mut Input<'_>) {
    if let Ok(other) = codec::decode_large(&changed(&codec::encode(value), input)) {
        *value = other;
    }
}

type Shown = (u32, Vec<u8>, [u8; 32], Vec<Hash>);

fn change_block(block: &mut ShownBlock, input: &mut Input<'_>) {
    let shown: Shown = codec::decode(&codec::encode(block)).expect("a shown block");
    let (index, bytes, salt, path) = shown;
    let shown: Shown = (index, changed(&bytes, input), salt, path);
    *block = codec::decode(&codec::encode(&shown)).expect("a shown block");
}

/// Each segment's root is that of its first shown block.
fn reroot(stream: &mut StreamPart) {
    let mut leaves = stream.start.leaves;
    let mut seq = stream.start.first;
    for link in &mut stream.links {
        leaves = link
            .change
            .as_ref()
            .and_then(|change| change.leaves)
            .unwrap_or(leaves);
        let shown = stream.shown.iter().find(|shown| shown.seq == seq);
        if let Some(block) = shown.and_then(|shown| shown.blocks.first()) {
            let shown: Shown = codec::decode(&codec::encode(block)).expect("a shown block");
            let leaf = merkle::block_leaf(&shown.2, &shown.1);
            let count = (leaves as usize).saturating_sub(1);
            if let Some(root) = merkle::root_from(leaf, shown.0 as usize, count, &shown.3) {
                link.blocks = root;
            }
        }
        seq = seq.next();
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0]];
    for part in 0..PARTS {
        for step in 0..6u8 {
            let at = 40 + usize::from(step) * 131;
            let before = match part {
                6 => Output::default().byte(step),
                7 => Output::default().short(u16::from(step) * 5),
                _ => Output::default(),
            };
            let changes = change(before, step % 5, at).byte(1).short(3).0;
            seeds.push(Output::default().byte(0).byte(part).piece(&changes).0);
        }
    }
    seeds
}
