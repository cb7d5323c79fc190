//! What somebody could change who has the reconciler's keys, but not the nodes': everything is signed anew,
//! and what was metered still says otherwise.

use tallystick_common::evidence::{Evidence, ShownSegment, StreamPart};
use tallystick_common::ids::{NodeId, Seq};
use tallystick_common::invoice::InvoiceDocument;
use tallystick_common::keys::{EnrolmentRecord, SecretKey, Signed};
use tallystick_common::money::Money;
use tallystick_common::receipt::Receipt;
use tallystick_common::time::Micros;
use tallystick_common::verify::evidence::{Difference, Report, Step};

use tallystick_tests::evidence::forge;

use super::{October, checked, opened, trust};

/// Evidence with everything that the reconciler signs signed again.
struct Forger {
    october: October,
    evidence: Evidence,
    document: InvoiceDocument,
}

impl Forger {
    async fn new() -> Self {
        let october = October::new().await.unwrap();
        let evidence = opened(&october.file);
        let document = serde_json::from_slice(&evidence.invoice.document).unwrap();
        Self {
            october,
            evidence,
            document,
        }
    }

    fn key(&self) -> &SecretKey {
        self.october.office.authority.receipt_key()
    }

    fn stream(&mut self, place: usize) -> &mut StreamPart {
        &mut self.evidence.nodes[0].streams[place]
    }

    /// Digests, word and log follow what was changed.
    fn sign(&mut self) -> Vec<u8> {
        let (evidence, document) = (&mut self.evidence, &mut self.document);
        forge::sign(&self.october.office, evidence, document);
        self.evidence.encode()
    }

    fn found(&mut self) -> Difference {
        let file = self.sign();
        checked(&file, &[]).expect_err("the forgery is found")
    }

    fn receipt(&mut self, place: usize, edit: impl FnOnce(&mut Receipt)) {
        let key = self.key().public();
        let mut receipt = self.stream(place).receipt.verify(&key).unwrap();
        edit(&mut receipt);
        self.stream(place).receipt =
            Signed::new(&receipt, self.october.office.authority.receipt_key());
    }
}

#[tokio::test]
async fn signing_again_changes_nothing() {
    let mut forger = Forger::new().await;
    assert_eq!(
        checked(&forger.sign(), &[]).unwrap().number,
        forger.october.number
    );
}

/// What was left out is missed, or what is left proves the same without it: a peak within a holding that is
/// not the highest of the line.
fn is_missed(forger: &mut Forger, whole: &Report, what: &str) -> bool {
    let steps = [Step::Signature, Step::Usage, Step::Statement];
    let file = forger.sign();
    match checked(&file, &[]) {
        Err(found) => {
            assert!(steps.contains(&found.step), "{what}: {found}");
            true
        }
        Ok(report) => {
            assert_eq!(
                (&report.lines, report.total),
                (&whole.lines, whole.total),
                "{what}"
            );
            false
        }
    }
}

#[tokio::test]
async fn no_shown_segment_and_no_block_can_be_left_out() {
    let mut forger = Forger::new().await;
    let whole = forger.evidence.clone();
    let report = checked(&forger.october.file, &[]).unwrap();
    let (mut tried, mut missed) = (0, 0);
    for place in 0..whole.nodes[0].streams.len() {
        for segment in 0..whole.nodes[0].streams[place].shown.len() {
            forger.evidence = whole.clone();
            let dropped = forger.stream(place).shown.remove(segment);
            let what = format!("segment {} of stream {place}", dropped.seq);
            tried += 1;
            missed += usize::from(is_missed(&mut forger, &report, &what));
            for block in 0..dropped.blocks.len() {
                forger.evidence = whole.clone();
                forger.stream(place).shown[segment].blocks.remove(block);
                tried += 1;
                missed += usize::from(is_missed(&mut forger, &report, &what));
            }
        }
    }
    println!("{tried} segments and blocks left out, one at a time; {missed} are missed");
    assert!(tried > 30 && tried - missed <= 4, "{missed} of {tried}");
}

#[tokio::test]
async fn segments_and_proofs_cannot_change_places() {
    let mut forger = Forger::new().await;
    let whole = forger.evidence.clone();
    let links = whole.nodes[0].streams[0].links.len();
    for place in [0, links / 3, links - 2] {
        forger.evidence = whole.clone();
        forger.stream(0).links.swap(place, place + 1);
        assert_eq!(forger.found().step, Step::Chain, "swapped at {place}");
        forger.evidence = whole.clone();
        let replayed = forger.stream(0).links[place].clone();
        forger.stream(0).links.insert(place + 1, replayed);
        assert_eq!(forger.found().step, Step::Chain, "replayed at {place}");
        forger.evidence = whole.clone();
        forger.stream(0).links.remove(place);
        assert_eq!(forger.found().step, Step::Chain, "dropped at {place}");
    }
    let shown = whole.nodes[0].streams[0].shown.len();
    for place in 1..shown {
        forger.evidence = whole.clone();
        let stream = forger.stream(0);
        let earlier = stream.shown[place - 1].blocks.clone();
        if earlier.is_empty() || earlier.len() != stream.shown[place].blocks.len() {
            continue;
        }
        stream.shown[place].blocks = earlier;
        assert_eq!(
            forger.found().step,
            Step::Proof,
            "an earlier segment's blocks at {place}"
        );
    }
    forger.evidence = whole.clone();
    forger.evidence.nodes[0].streams.swap(0, 1);
    forger.evidence.nodes[0].streams.remove(1);
    assert_eq!(forger.found().step, Step::Chain, "a stream left out");
}

#[tokio::test]
async fn a_cut_moved_back_does_not_reach_the_periods_end() {
    let mut forger = Forger::new().await;
    // Five segments of half a day before the end: the node's signature is under each.
    let stream = forger.stream(1);
    let (id, keep) = (stream.stream, stream.links.len() - 5);
    let before = Seq(stream.start.first.0 + keep as u64 - 1);
    stream.links.truncate(keep);
    stream.shown.retain(|shown| shown.seq < before);
    let mut sealed = forger.october.sealed.iter();
    let last = sealed
        .find(|sealed| (sealed.header().stream, sealed.header().seq) == (id, before))
        .unwrap();
    let (hash, signature) = (last.hash(), last.signature());
    forger.stream(1).shown.push(ShownSegment {
        seq: before,
        signature,
        blocks: Vec::new(),
    });
    for cut in forger
        .document
        .cut
        .iter_mut()
        .filter(|cut| cut.stream == id)
    {
        (cut.seq, cut.hash) = (before, hash);
    }
    forger.receipt(1, |receipt| (receipt.seq, receipt.hash) = (before, hash));
    let found = forger.found();
    assert!(
        matches!(found.step, Step::Usage | Step::Statement),
        "{found}"
    );
}

#[tokio::test]
async fn a_receipt_for_something_else_is_none() {
    let mut forger = Forger::new().await;
    let whole = forger.evidence.clone();
    let other = whole.nodes[0].streams[1].receipt.clone();
    forger.stream(0).receipt = other;
    assert_eq!(forger.found().step, Step::Receipt, "of another stream");
    let edits: [fn(&mut Receipt); 4] = [
        |receipt| receipt.node = NodeId([9; 16]),
        |receipt| receipt.seq = Seq(receipt.seq.0 - 1),
        |receipt| receipt.since = receipt.since.next(),
        |receipt| receipt.quarantined.clear(),
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        forger.evidence = whole.clone();
        forger.receipt(0, edit);
        assert_eq!(forger.found().step, Step::Receipt, "edit {number}");
    }
    forger.evidence = whole.clone();
    let key = forger.key().public();
    let receipt = whole.nodes[0].streams[0].receipt.verify(&key).unwrap();
    forger.stream(0).receipt = Signed::new(&receipt, &SecretKey::from_seed(&[66; 32]));
    assert_eq!(forger.found().step, Step::Receipt, "by another key");
}

#[tokio::test]
async fn a_quarantined_segment_cannot_be_counted_after_all() {
    let mut forger = Forger::new().await;
    for cut in &mut forger.document.cut {
        cut.quarantined.clear();
    }
    forger.receipt(0, |receipt| receipt.quarantined.clear());
    let found = forger.found();
    assert!(
        matches!(found.step, Step::Usage | Step::Statement),
        "{found}"
    );
}

fn edited(json: &[u8], edit: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    // Keys keep their order only where they are text that is changed in place.
    let text = String::from_utf8(json.to_vec()).unwrap();
    let before: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut after = before.clone();
    edit(&mut after);
    changed_text(&text, &before, &after).into_bytes()
}

/// Replaces the one string that differs.
fn changed_text(text: &str, before: &serde_json::Value, after: &serde_json::Value) -> String {
    fn differing(a: &serde_json::Value, b: &serde_json::Value) -> Option<(String, String)> {
        match (a, b) {
            (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
                a.iter().find_map(|(key, value)| differing(value, &b[key]))
            }
            (serde_json::Value::Array(a), serde_json::Value::Array(b)) => {
                a.iter().zip(b).find_map(|(a, b)| differing(a, b))
            }
            _ if a == b => None,
            _ => Some((a.to_string(), b.to_string())),
        }
    }
    let (old, new) = differing(before, after).expect("something was changed");
    text.replacen(&old, &new, 1)
}

#[tokio::test]
async fn an_altered_assignment_is_found() {
    let mut forger = Forger::new().await;
    let whole = forger.evidence.clone();
    let narrower =
        |rules: &mut serde_json::Value| rules[0]["workload"] = "cgroup/acme.slice".into();
    let later = |rules: &mut serde_json::Value| rules[0]["from"] = "2026-10-05T00:00:00Z".into();
    let other = |rules: &mut serde_json::Value| rules[0]["node"] = "web-2".into();
    for edit in [&narrower as &dyn Fn(&mut serde_json::Value), &later, &other] {
        forger.evidence = whole.clone();
        let rules = edited(&whole.terms.assignments, edit);
        forger.evidence.terms.assignments = rules;
        let unsigned = checked(&forger.evidence.encode(), &[]).unwrap_err();
        assert_eq!(unsigned.step, Step::Documents, "{unsigned}");
        let found = forger.found();
        assert_eq!(found.step, Step::Assignments, "{found}");
    }
    forger.evidence = whole.clone();
    let moving = forger.evidence.terms.holdings.iter_mut();
    let moving = moving
        .filter(|held| held.workload == "cgroup/moving")
        .last()
        .unwrap();
    moving.to = moving.to.saturating_add(Micros::from_seconds(86_400));
    let found = forger.found();
    assert_eq!(
        found.step,
        Step::Usage,
        "held longer than it is shown: {found}"
    );
    forger.evidence = whole;
    forger.evidence.terms.holdings.remove(0);
    let found = forger.found();
    assert!(
        matches!(found.step, Step::Proof | Step::Statement),
        "{found}"
    );
}

#[tokio::test]
async fn an_altered_price_is_found() {
    let mut forger = Forger::new().await;
    let plan = String::from_utf8(forger.evidence.terms.plans[0].clone()).unwrap();
    let dearer = plan.replacen("\"0.4\"", "\"0.45\"", 1);
    assert_ne!(plan, dearer);
    forger.evidence.terms.plans[0] = dearer.clone().into_bytes();
    let unsigned = checked(&forger.evidence.encode(), &[]).unwrap_err();
    assert_eq!(unsigned.step, Step::Documents, "{unsigned}");
    let plan: tallystick_common::price::Plan = serde_json::from_str(&dearer).unwrap();
    forger.document.digests.plans[0] = plan.digest();
    forger.document.statement.plans[0].digest = plan.digest();
    let found = forger.found();
    assert_eq!(found.step, Step::Statement, "{found}");
    assert!(found.subject.contains("starter/cpu"), "{found}");
}

#[tokio::test]
async fn an_altered_amount_is_found() {
    let mut forger = Forger::new().await;
    let issued = forger.document.clone();
    let more = Money::parse("0.01", issued.statement.currency).unwrap();
    let statement = &mut forger.document.statement;
    statement.lines[0].amount = statement.lines[0].amount.checked_add(more).unwrap();
    statement.total = statement.total.checked_add(more).unwrap();
    let found = forger.found();
    assert_eq!(found.step, Step::Statement, "{found}");
    assert!(found.subject.contains("starter/cpu, amount"), "{found}");
    let edits: [fn(&mut InvoiceDocument); 6] = [
        |document| document.statement.lines[0].quantity += 1,
        |document| document.statement.lines[0].details[0].quantity += 1,
        |document| {
            document.statement.lines[0].details[0].registers[0]
                .closing
                .0 += 1
        },
        |document| drop(document.statement.lines[0].details.remove(0)),
        |document| drop(document.statement.lines.pop()),
        |document| document.statement.notes.clear(),
    ];
    for (number, edit) in edits.into_iter().enumerate() {
        forger.document = issued.clone();
        edit(&mut forger.document);
        let found = forger.found();
        assert_eq!(found.step, Step::Statement, "edit {number}: {found}");
    }
    forger.document = issued.clone();
    forger.document.statement.period.to = issued
        .statement
        .period
        .to
        .saturating_sub(Micros::from_seconds(900));
    assert_eq!(forger.found().step, Step::Period);
}

#[tokio::test]
async fn nobody_else_vouches_for_a_node() {
    let mut forger = Forger::new().await;
    let whole = forger.evidence.clone();
    let stranger = SecretKey::from_seed(&[77; 32]);
    let record = EnrolmentRecord {
        node: forger.october.teller.node,
        name: "web-1".to_owned(),
        signing_key: forger.october.teller.enrolled,
        from: Seq::FIRST,
        at: forger.document.issued_at,
    };
    forger.evidence.nodes[0].node.record = Signed::new(&record, &stranger);
    assert_eq!(forger.found().step, Step::Node);
    forger.evidence = whole.clone();
    let other = EnrolmentRecord {
        signing_key: stranger.public(),
        ..record
    };
    let authority = &forger.october.office.authority;
    forger.evidence.nodes[0].node.record = authority.sign_enrolment(&other);
    assert_eq!(
        forger.found().step,
        Step::Signature,
        "segments are by another key"
    );
    forger.evidence = whole.clone();
    forger.evidence.authorities[0].succession = None;
    assert_eq!(forger.found().step, Step::Authorities);
    forger.evidence = whole;
    forger.stream(0).rotations.clear();
    assert_eq!(forger.found().step, Step::Signature, "a rotation left out");
}

/// A file that is consistent from end to end is found out only by what the customer holds.
#[tokio::test]
async fn a_consistent_forgery_is_not_what_was_logged() {
    let mut forger = Forger::new().await;
    let kept = trust(&forger.october.office.checkpoint().await.unwrap());
    forger.document.statement.seller = "Somebody else".to_owned();
    let file = forger.sign();
    assert!(!checked(&file, &[]).unwrap().standing.authenticated);
    let found = checked(&file, &[kept]).unwrap_err();
    assert_eq!(found.step, Step::Audit, "{found}");
    let standing = checked(
        &forger.october.file,
        &[trust(&forger.october.office.checkpoint().await.unwrap())],
    );
    assert!(standing.unwrap().standing.authenticated);
}

#[tokio::test]
async fn the_log_cannot_be_shortened() {
    let mut forger = Forger::new().await;
    forger.evidence.audit.seq += 1;
    let bytes = forger.evidence.encode();
    assert_eq!(checked(&bytes, &[]).unwrap_err().step, Step::Audit);
}
