//! Periods that were issued and are known otherwise later: what all their documents add up to, and evidence of
//! them.

use std::os::unix::process::ExitStatusExt as _;

use tallystick_common::correction::CorrectionKind;
use tallystick_common::evidence::Evidence;
use tallystick_common::invoice::InvoiceDocument;
use tallystick_common::money::Money;
use tallystick_common::verify::evidence::{Difference, Report, Step, verify};
use tallystick_reconciler::catalog::account::CorrectionPolicy;
use tallystick_reconciler::catalog::change;
use tallystick_reconciler::decision::{Order, revoke};
use tallystick_reconciler::store::billing::InvoiceRow;
use tallystick_tests::draw::Draw;
use tallystick_tests::evidence::story::{self, Teller};
use tallystick_tests::evidence::{October, Office, at, forge};
use tallystick_tests::sides::FAILPOINT;

fn checked(file: &[u8]) -> Result<Report, Difference> {
    verify(file, &[], None)
}

fn document(row: &InvoiceRow) -> InvoiceDocument {
    serde_json::from_str(&row.document).unwrap()
}

/// October, of which the node was at sea from the segment of that number on; what it still has to send.
async fn at_sea(from: usize) -> (Office, Teller, Vec<tallystick_common::seal::SealedSegment>) {
    let office = Office::of_october().await.unwrap();
    let (teller, mut sealed) = story::october();
    office
        .enrol(teller.node, teller.enrolled, "web-1")
        .await
        .unwrap();
    let late = sealed.split_off(from);
    office
        .admit(teller.node, teller.enrolled, sealed)
        .await
        .unwrap();
    (office, teller, late)
}

#[tokio::test]
async fn what_a_node_at_sea_sends_late_makes_the_bill_that_it_would_have_been() {
    let october = October::new().await.unwrap();
    let mut tx = october.office.store.read().await.unwrap();
    let whole = tallystick_reconciler::store::billing::invoice(&mut tx, &october.number).await;
    let whole = document(&whole.unwrap().unwrap());

    let (office, teller, mut late) = at_sea(14).await;
    let invoice = office.issue_of("acme", Some("at sea")).await.unwrap();
    assert!(office.correct("acme").await.unwrap().is_none());
    let mut paid = invoice.total;
    let mut corrections = Vec::new();
    while !late.is_empty() {
        let now: Vec<_> = late.drain(..late.len().min(20)).collect();
        office
            .admit(teller.node, teller.enrolled, now)
            .await
            .unwrap();
        if let Some(row) = office.correct("acme").await.unwrap() {
            paid = paid.checked_add(row.issued.total).unwrap();
            corrections.push(row);
        }
    }
    assert!(corrections.len() > 1, "{} corrections", corrections.len());
    assert_eq!(paid, whole.statement.total, "to the cent");
    let last = document(&corrections.last().unwrap().issued);
    assert_eq!(last.statement.lines, whole.statement.lines);

    for (place, row) in corrections.iter().enumerate() {
        let file = office.export(&row.issued.number, false).await.unwrap();
        let report = checked(&file).unwrap();
        assert_eq!(report.amount, row.issued.total);
        assert_eq!(report.corrects.as_ref(), Some(&invoice.number));
        let evidence = Evidence::decode(&file).unwrap();
        assert_eq!(
            evidence.named.len(),
            place + 1,
            "each base, back to the invoice"
        );
        assert_eq!(evidence.encode(), file);
    }
    let report = checked(&office.export(&invoice.number, false).await.unwrap()).unwrap();
    assert_eq!(
        (report.total, report.amount),
        (invoice.total, invoice.total)
    );
}

#[tokio::test]
async fn what_is_decided_after_an_invoice_leaves_its_evidence_as_it_was() {
    let october = October::new().await.unwrap();
    let office = &october.office;
    let before = checked(&october.file).unwrap();
    let node = october.teller.node.to_string();
    let decided_at = at("2026-11-01T12:00:00Z");
    // The last days of each stream, one after the other; with the first goes the segment that was in doubt.
    for (place, name) in [
        (20, "the first stream"),
        (october.sealed.len() - 9, "the other"),
    ] {
        let lost = october.sealed[place].header();
        let order = Order {
            node: &node,
            stream: lost.stream,
            reason: "the key was copied",
            actor: "test",
            signer: office.authority.receipt_key(),
        };
        let revoked = revoke(&office.store, &order, lost.seq, false, decided_at).await;
        let revoked = revoked.unwrap();
        assert!(revoked.changed > 3, "{name}: {revoked:?}");
        let invoices = revoked.touched.iter().map(|touched| &touched.invoice);
        assert!(invoices.flatten().any(|number| *number == october.number));
        for full in [false, true] {
            let file = office.export(&october.number, full).await.unwrap();
            let after = checked(&file).unwrap();
            assert_eq!((after.total, after.amount), (before.total, before.amount));
        }
        let credit = office.correct("acme").await.unwrap().unwrap();
        assert_eq!(credit.kind, CorrectionKind::CreditNote);
        let file = office.export(&credit.issued.number, false).await.unwrap();
        assert_eq!(checked(&file).unwrap().amount, credit.issued.total);
        let file = office.export(&october.number, false).await.unwrap();
        assert_eq!(checked(&file).unwrap().amount, before.amount);
    }
}

/// October as it was issued, with a rival that pays too.
async fn with_rival() -> (October, InvoiceRow) {
    let october = October::new().await.unwrap();
    let store = &october.office.store;
    let begin = at("2026-09-01T00:00:00Z");
    change::subscribe(store, "rival", "starter", begin, "test", begin)
        .await
        .unwrap();
    let rivals = october.office.issue_of("rival", None).await.unwrap();
    (october, rivals)
}

#[tokio::test]
async fn usage_that_was_anothers_all_along_is_credited_to_one_and_charged_to_the_other() {
    let (october, rivals) = with_rival().await;
    let office = &october.office;
    for (workload, from) in [
        ("cgroup/moving", "2026-10-01T00:00:00Z"),
        ("cgroup/acme-batch", "2026-10-05T00:15:00Z"),
    ] {
        office.reassign("rival", workload, from).await.unwrap();
        let credit = office.correct("acme").await.unwrap().unwrap();
        let more = office.correct("rival").await.unwrap().unwrap();
        assert_eq!(credit.kind, CorrectionKind::CreditNote);
        assert_eq!(more.kind, CorrectionKind::CorrectionInvoice);
        for row in [&credit, &more] {
            let file = office.export(&row.issued.number, false).await.unwrap();
            assert_eq!(checked(&file).unwrap().amount, row.issued.total);
        }
        let quantity = |row: &InvoiceRow| -> i128 {
            let lines = document(row).correction.unwrap().differences.lines;
            let cpu = lines.iter().find(|line| line.price == "cpu").unwrap();
            let of = |quantity: u128| i128::try_from(quantity).unwrap();
            of(cpu.quantity_now) - of(cpu.quantity_then)
        };
        assert_eq!(quantity(&credit.issued) + quantity(&more.issued), 0);
        // Nothing says to one who the other is.
        let file = office.export(&credit.issued.number, true).await.unwrap();
        let holds = |word: &str| file.windows(word.len()).any(|w| w == word.as_bytes());
        assert!(holds("cgroup/acme") && !holds("rival") && !holds("Rival"));
    }
    // What was issued is still what it was, by the assignments of then.
    for number in [&october.number, &rivals.number] {
        checked(&office.export(number, false).await.unwrap()).unwrap();
    }
    assert!(office.correct("acme").await.unwrap().is_none());
}

#[tokio::test]
async fn a_linear_price_moves_between_accounts_without_a_cent_lost() {
    let (october, _) = with_rival().await;
    let office = &october.office;
    office
        .reassign("rival", "cgroup/acme*", "2026-10-01T00:00:00Z")
        .await
        .unwrap();
    let credit = office.correct("acme").await.unwrap().unwrap();
    let more = office.correct("rival").await.unwrap().unwrap();
    let peaks = |row: &InvoiceRow| -> Money {
        let lines = document(row).correction.unwrap().differences.lines;
        let peaks = lines.iter().filter(|line| line.price == "peak");
        let zero = Money::zero(row.total.currency());
        peaks.fold(zero, |sum, line| sum.checked_add(line.difference).unwrap())
    };
    let sum = peaks(&credit.issued)
        .checked_add(peaks(&more.issued))
        .unwrap();
    assert!(sum.is_zero() && peaks(&more.issued).minor() > 0, "{sum}");
    let file = office.export(&credit.issued.number, false).await.unwrap();
    checked(&file).unwrap();
}

#[tokio::test]
async fn documents_that_are_named_and_not_there_or_others_are_found() {
    let (office, teller, late) = at_sea(30).await;
    let invoice = office.issue_of("acme", Some("at sea")).await.unwrap();
    office
        .admit(teller.node, teller.enrolled, late)
        .await
        .unwrap();
    let first = office.correct("acme").await.unwrap().unwrap();
    office
        .reassign("rival", "cgroup/moving", "2026-10-01T00:00:00Z")
        .await
        .unwrap();
    let second = office.correct("acme").await.unwrap().unwrap();
    assert_eq!(second.base, first.issued.number);
    let file = office.export(&second.issued.number, false).await.unwrap();
    let whole = Evidence::decode(&file).unwrap();
    assert_eq!(whole.named.len(), 2);
    let edits: [fn(&mut Vec<Vec<u8>>); 5] = [
        |named| drop(named.pop()),
        |named| drop(named.remove(0)),
        |named| named.swap(0, 1),
        |named| named.push(named[1].clone()),
        |named| named[1][100] ^= 1,
    ];
    for (place, edit) in edits.into_iter().enumerate() {
        let mut evidence = whole.clone();
        edit(&mut evidence.named);
        let found = checked(&evidence.encode()).unwrap_err();
        assert_eq!(found.step, Step::Correction, "{place}: {found}");
    }
    let mut none = whole.clone();
    none.named.clear();
    assert_eq!(checked(&none.encode()).unwrap_err().step, Step::Correction);
    let mut more = Evidence::decode(&office.export(&invoice.number, false).await.unwrap()).unwrap();
    more.named.push(invoice.document.into_bytes());
    assert_eq!(checked(&more.encode()).unwrap_err().step, Step::Correction);
}

#[tokio::test]
async fn killed_with_a_number_in_hand_it_gives_the_same_number_again() {
    let (office, teller, late) = at_sea(30).await;
    office.issue_of("acme", Some("at sea")).await.unwrap();
    office
        .admit(teller.node, teller.enrolled, late)
        .await
        .unwrap();
    let order = [
        "--json",
        "correction",
        "issue",
        "acme",
        "--period",
        "2026-10",
    ];
    for _ in 0..3 {
        let mut command = office.command(&order);
        command.env(FAILPOINT, "reconciler.correction.numbered");
        let killed = command.output().unwrap();
        let said = String::from_utf8_lossy(&killed.stderr);
        assert_eq!(killed.status.signal(), Some(9), "{said}");
        assert!(said.contains("failpoint reconciler.correction.numbered"));
    }
    let mut given = Vec::new();
    for _ in 0..2 {
        let done = office.command(&order).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        given.push(String::from_utf8(done.stdout).unwrap());
    }
    assert!(given[0].contains("-000001\""), "I10: {}", given[0]);
    let mut tx = office.store.read().await.unwrap();
    let all = tallystick_reconciler::store::corrections::all(&mut tx, None).await;
    assert_eq!(all.unwrap().len(), 1, "{given:?}");
}

/// Evidence of a document, changed, and signed again by the reconciler's keys.
fn forged(
    office: &Office,
    file: &[u8],
    edit: impl FnOnce(&mut InvoiceDocument),
) -> Result<Report, Difference> {
    let mut evidence = Evidence::decode(file).unwrap();
    let mut document = serde_json::from_slice(&evidence.invoice.document).unwrap();
    edit(&mut document);
    forge::sign(office, &mut evidence, &mut document);
    checked(&evidence.encode())
}

/// October with a correction of what came late.
async fn late() -> (Office, InvoiceRow, Vec<u8>) {
    let (office, teller, late) = at_sea(30).await;
    office.issue_of("acme", Some("at sea")).await.unwrap();
    office
        .admit(teller.node, teller.enrolled, late)
        .await
        .unwrap();
    let row = office.correct("acme").await.unwrap().unwrap().issued;
    let file = office.export(&row.number, false).await.unwrap();
    (office, row, file)
}

#[tokio::test]
async fn a_correction_that_says_other_than_follows_is_found() {
    let (office, _, file) = late().await;
    forged(&office, &file, |_| ()).unwrap();
    let edits: [fn(&mut InvoiceDocument); 6] = [
        |document| {
            let differences = &mut document.correction.as_mut().unwrap().differences;
            let more = Money::new(1, differences.total.currency());
            differences.total = differences.total.checked_add(more).unwrap();
        },
        |document| {
            let of = document.correction.as_mut().unwrap();
            of.differences.lines[0].quantity_then += 1;
        },
        |document| {
            let of = document.correction.as_mut().unwrap();
            drop(of.differences.lines.pop());
        },
        |document| document.correction.as_mut().unwrap().kind = CorrectionKind::CreditNote,
        |document| {
            let of = document.correction.as_mut().unwrap();
            of.agreed_at = document.issued_at;
        },
        |document| document.due = Some(document.statement.total),
    ];
    for (place, edit) in edits.into_iter().enumerate() {
        let found = forged(&office, &file, edit).unwrap_err();
        assert_eq!(found.step, Step::Correction, "{place}: {found}");
    }
    // It says of itself that it corrects nothing: then the log tells otherwise, and the form.
    let plain = forged(&office, &file, |document| document.correction = None);
    assert_eq!(plain.unwrap_err().step, Step::Invoice);
}

#[tokio::test]
async fn every_changed_bit_of_a_correction_is_found() {
    let (_, _, file) = late().await;
    let mut draw = Draw::seeded("flipped bits of a correction");
    for _ in 0..300 {
        let bit = usize::try_from(draw.below(file.len() as u64 * 8)).unwrap();
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(checked(&flipped).is_err(), "bit {bit} is not found");
    }
}

#[tokio::test]
async fn an_invoice_demands_what_it_carries_and_its_evidence_says_from_where() {
    let (office, teller, late) = at_sea(30).await;
    let first = office.issue_of("acme", Some("at sea")).await.unwrap();
    let now = at("2026-11-01T07:00:00Z");
    let policy = CorrectionPolicy::NextInvoice;
    change::set_correction_policy(&office.store, "acme", policy, "test", now)
        .await
        .unwrap();
    office
        .admit(teller.node, teller.enrolled, late)
        .await
        .unwrap();
    let correction = office.correct("acme").await.unwrap().unwrap();
    assert_eq!(correction.kind, CorrectionKind::NextInvoice);
    let december = at("2026-12-01T06:00:00Z");
    let next = office
        .issue_month("acme", "2026-11", Some("at sea again"), december)
        .await
        .unwrap();
    let whole = document(&next);
    let sum = whole.statement.total.checked_add(correction.issued.total);
    let sum = sum.unwrap();
    assert_eq!((next.total, whole.due), (sum, Some(sum)));
    assert_eq!(whole.carried[0].invoice, first.number);

    let file = office.export(&next.number, false).await.unwrap();
    let report = checked(&file).unwrap();
    assert_eq!(
        (report.amount, report.total),
        (next.total, whole.statement.total)
    );
    let said = report
        .checks
        .iter()
        .find(|check| check.step == Step::Correction);
    assert!(said.unwrap().said.contains("1 corrections"), "{report}");
    let edits: [fn(&mut InvoiceDocument); 4] = [
        |document| document.carried.clear(),
        |document| document.carried.push(document.carried[0].clone()),
        |document| {
            let carried = &mut document.carried[0];
            carried.total = Money::new(carried.total.minor() + 1, carried.total.currency());
        },
        |document| document.due = Some(document.statement.total),
    ];
    for (place, edit) in edits.into_iter().enumerate() {
        let found = forged(&office, &file, edit).unwrap_err();
        assert_eq!(found.step, Step::Correction, "{place}: {found}");
    }
}

/// One file is kept for ever.
#[tokio::test]
async fn evidence_of_a_correction_keeps_its_bytes() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/evidence/correction-2.hex");
    if std::env::var("TALLYSTICK_GOLDEN").as_deref() == Ok("write") && !path.exists() {
        let text = data_encoding::HEXLOWER.encode(&late().await.2);
        let lines = text.as_bytes().chunks(96);
        let lines: Vec<&str> = lines
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let kept = std::fs::read_to_string(&path).expect("TALLYSTICK_GOLDEN=write makes a new file");
    let kept = data_encoding::HEXLOWER
        .decode(kept.replace('\n', "").as_bytes())
        .unwrap();
    assert_eq!(Evidence::decode(&kept).unwrap().encode(), kept);
    let report = checked(&kept).unwrap();
    assert_eq!(report.number, "CI-2026-000001");
    assert_eq!(report.corrects.as_deref(), Some("TS-2026-000001"));
    assert!(report.amount.minor() > 0 && report.amount != report.total);
}
