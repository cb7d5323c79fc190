//! Days come and go; what was kept stays.

use std::fs;

use tallystick_common::ids::{Hash, RegisterId, Seq, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::reading::Reading;

use super::*;

const STREAM: StreamId = StreamId([1; 16]);
/// 2026-11-22.
const DAY: u64 = 20_779;

fn at(day: u64, second: u64) -> Timestamp {
    Timestamp::from_seconds((DAY + day) * 86_400 + second).unwrap()
}

fn head(seq: u64, covered_through: Timestamp) -> Head {
    Head {
        next: Seq(seq + 1),
        hash: Hash([7; 32]),
        covered_through,
    }
}

fn registers(reading: u128, through: Timestamp) -> Vec<RegisterView> {
    ["host", "cgroup/a.slice"]
        .iter()
        .zip(0..)
        .map(|(name, id)| RegisterView {
            register: RegisterId(id),
            workload: WorkloadName::new((*name).to_owned()).unwrap(),
            meter: Meter::CPU_TIME,
            reading: Reading(reading + u128::from(id)),
            through,
        })
        .collect()
}

fn receipt(seq: u64) -> ReceiptMark {
    ReceiptMark {
        through: Seq(seq),
        hash: Hash([8; 32]),
        bytes: vec![9; 100],
    }
}

fn seal(tally: &mut Tally, seq: u64, through: Timestamp, closed: Vec<RegisterView>) {
    let registers = registers(u128::from(seq) * 1_000, through).into_iter();
    tally
        .sealed(STREAM, &head(seq, through), registers, closed)
        .unwrap();
}

fn days(data: &Path) -> Days {
    Days::read(data, |bytes| (bytes == [9; 100]).then_some(at(9, 0))).unwrap()
}

#[test]
fn a_day_has_its_readings_what_closed_in_it_and_the_first_receipt_that_covers_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut tally = Tally::open(folder.path()).unwrap();
    seal(&mut tally, 1, at(0, 50_000), Vec::new());
    let gone = registers(5, at(0, 60_000)).into_iter().take(1).collect();
    seal(&mut tally, 2, at(0, 60_000), gone);
    assert_eq!(days(folder.path()).days, [], "no day is over");
    seal(&mut tally, 3, at(1, 0), Vec::new());
    assert!(tally.wants_receipt());
    tally.receipted(&receipt(2), at(0, 60_000)).unwrap();
    assert!(tally.wants_receipt(), "that one is for earlier segments");
    // Restarted before the receipt, with a record that a crash cut short.
    drop(tally);
    let path = folder.path().join("tally.log");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [whole.as_slice(), &whole[..30]].concat()).unwrap();
    let mut tally = Tally::open(folder.path()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), whole);
    seal(&mut tally, 4, at(1, 60), Vec::new());
    tally.receipted(&receipt(4), at(1, 60)).unwrap();
    assert!(!tally.wants_receipt());
    // Away for two days: the days that were never read at their end have no record.
    seal(&mut tally, 5, at(4, 30), Vec::new());
    let kept = days(folder.path());
    let names: Vec<_> = kept.days.iter().map(|day| day.day.as_str()).collect();
    assert_eq!(names, ["2026-11-22", "2026-11-25"]);
    let first = &kept.days[0];
    assert_eq!(
        (first.through, first.registers.len(), first.closed.len()),
        (at(1, 0), 2, 1)
    );
    assert_eq!(first.registers[1].reading, "3001");
    assert_eq!(
        first.receipt.as_ref().map(|receipt| receipt.seq),
        Some(Seq(4))
    );
    assert_eq!(kept.days[1].receipt, None);
    let text = kept.to_string();
    assert!(
        text.contains("2026-11-22") && text.contains("none yet"),
        "{text}"
    );
    let text = kept.only("2026-11-22").to_string();
    assert!(
        text.contains("cgroup/a.slice") && text.contains("closed in it"),
        "{text}"
    );
}

#[test]
fn a_flipped_bit_costs_one_record_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut tally = Tally::open(folder.path()).unwrap();
    for day in 0..6 {
        seal(&mut tally, day, at(day, 0), Vec::new());
    }
    drop(tally);
    let path = folder.path().join("tally.log");
    let whole = fs::read(&path).unwrap();
    for place in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[place] ^= 4;
        fs::write(&path, &bytes).unwrap();
        let kept = days(folder.path());
        assert_eq!(
            kept.days.len() + usize::from(kept.since.is_some()),
            5,
            "of six records one is lost: {place}"
        );
    }
}
