//! Stories of a buffer with real files and a real sled.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tallystick_common::ids::{Hash, Seq, StreamId};
use tallystick_common::segment::StreamPosition;
use tallystick_common::time::Timestamp;

use super::*;

mod matrix;
mod packed;
mod power_cuts;

const STREAM: StreamId = StreamId([1; 16]);
const FRESH: StreamId = StreamId([2; 16]);

fn hash(seq: u64) -> Hash {
    Hash(*blake3::hash(&seq.to_be_bytes()).as_bytes())
}

/// Of a length that takes one piece of sled or several, and nothing like any other.
fn segment(seq: u64) -> StoredSegment {
    let length = 50 + usize::try_from(seq * 1_777 % 9_000).unwrap();
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seq.to_be_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    StoredSegment {
        bytes,
        ..neighbour(seq)
    }
}

/// Most of it is the same in all.
fn neighbour(seq: u64) -> StoredSegment {
    StoredSegment {
        seq: Seq(seq),
        previous: seq.checked_sub(1).map_or(Hash::ZERO, hash),
        hash: hash(seq),
        covered_through: Timestamp::from_seconds(1_000 + seq).unwrap(),
        bytes: (0..500u64)
            .flat_map(|register| {
                let mut bytes = (register * 0x1234_5678_9abc).to_be_bytes().to_vec();
                bytes.extend((seq * register).to_le_bytes());
                bytes
            })
            .collect(),
    }
}

fn state(seq: u64) -> Vec<u8> {
    let mut state: Vec<u8> = (0..60u64).flat_map(|n| (n * 99).to_be_bytes()).collect();
    state.extend(seq.to_be_bytes());
    state
}

fn receipt(seq: u64) -> ReceiptMark {
    ReceiptMark {
        through: Seq(seq),
        hash: hash(seq),
        bytes: vec![9; 100],
    }
}

fn small_files() -> Settings {
    Settings {
        rotate_bytes: 20_000,
        // Two segments: they are a second apart.
        keep_receipted: Micros::from_seconds(1),
        ..Settings::default()
    }
}

fn open(dir: &Path) -> (Buffer, Recovered) {
    Buffer::open(dir, small_files(), STREAM).unwrap()
}

fn filled(dir: &Path, segments: u64) -> Buffer {
    let (mut buffer, _) = open(dir);
    for seq in 0..segments {
        buffer.append(segment(seq), &state(seq)).unwrap();
    }
    buffer
}

/// Everything from `first` to `end` is there, unchanged, and the registers are those after it.
fn assert_holds(buffer: &mut Buffer, recovered: &Recovered, first: u64, end: u64) {
    assert_eq!(recovered.head.next, Seq(end));
    let expected = end.checked_sub(1).map(state);
    assert!(recovered.state == expected, "other registers after {end}");
    assert_eq!(recovered.stream, STREAM);
    let held = buffer
        .segments_from(Seq(first), usize::MAX, usize::MAX)
        .unwrap();
    assert_eq!(held, (first..end).map(segment).collect::<Vec<_>>());
}

fn last_file(dir: &Path) -> std::path::PathBuf {
    let journal = dir.join("journal");
    let number = *scan::numbers(&journal).unwrap().last().unwrap();
    scan::file_path(&journal, number)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        // Many megabytes of nothing.
        if entry.file_name() == "reserve" {
            continue;
        }
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).map(drop).unwrap();
        }
    }
}

#[test]
fn what_was_sealed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), 40));
    let (mut buffer, recovered) = open(folder.path());
    assert_eq!(recovered.reports, []);
    assert_holds(&mut buffer, &recovered, 0, 40);
    assert_eq!(buffer.stats().unreceipted, 40);
    assert!(!buffer.stats().journal_alone);
}

#[test]
fn a_segment_that_does_not_follow_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 3);
    for wrong in [2, 4] {
        let error = buffer.append(segment(wrong), b"").unwrap_err();
        assert!(matches!(error, BufferError::NotNext { .. }), "{error}");
    }
    let forged = StoredSegment {
        previous: hash(77),
        ..segment(3)
    };
    assert!(buffer.append(forged, b"").is_err());
    buffer.append(segment(3), b"").unwrap();
}

#[test]
fn a_receipt_frees_the_disk_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 60);
    let before = buffer.journal.bytes();
    assert!(matches!(
        buffer.receipt(receipt(49)).unwrap(),
        ReceiptOutcome::Advanced(50)
    ));
    assert!(buffer.journal.bytes() < before / 2);
    assert_eq!(buffer.receipt(receipt(10)).unwrap(), ReceiptOutcome::Known);
    assert_eq!(buffer.oldest_held(), Seq(48), "two receipted ones are kept");
    assert!(matches!(
        buffer.segments_from(Seq(3), 1, 1).unwrap_err(),
        BufferError::Gone(Seq(3))
    ));
    drop(buffer);
    let (mut buffer, recovered) = open(folder.path());
    assert_eq!(recovered.last_receipt, Some(receipt(49)));
    assert_holds(&mut buffer, &recovered, 50, 60);
}

#[test]
fn a_receipt_for_something_else_removes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 5);
    let foreign = ReceiptMark {
        hash: hash(99),
        ..receipt(2)
    };
    assert!(matches!(
        buffer.receipt(foreign),
        Err(BufferError::ForeignReceipt { .. })
    ));
    assert!(matches!(
        buffer.receipt(receipt(5)),
        Err(BufferError::ForeignReceipt { .. })
    ));
    assert_eq!(
        buffer.segments_from(Seq(0), 9, usize::MAX).unwrap().len(),
        5
    );
}

#[test]
fn a_torn_last_record_is_cut_off_wherever_it_was_torn() {
    let folder = tempfile::tempdir().unwrap();
    let (mut buffer, _) = Buffer::open(folder.path(), Settings::default(), STREAM).unwrap();
    for seq in 0..4 {
        buffer.append(segment(seq), &state(seq)).unwrap();
    }
    drop(buffer);
    let journal = fs::read(last_file(folder.path())).unwrap();
    let whole = fs::metadata(last_file(folder.path())).unwrap().len();
    let (mut buffer, _) = Buffer::open(folder.path(), Settings::default(), STREAM).unwrap();
    buffer.append(segment(4), &state(4)).unwrap();
    drop(buffer);
    let longer = fs::read(last_file(folder.path())).unwrap();
    assert_eq!(journal, longer[..journal.len()]);
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    for length in usize::try_from(whole).unwrap()..longer.len() {
        let crashed = tempfile::tempdir().unwrap();
        copy(folder.path(), crashed.path());
        fs::write(last_file(crashed.path()), &longer[..length]).unwrap();
        // What is in the journal decides; a new sled for every byte would take minutes.
        let scan = scan::scan(&crashed.path().join("journal")).unwrap();
        assert!(!scan.is_damaged());
        assert_eq!(
            scan.torn_tail().is_some(),
            length != journal.len(),
            "{length}"
        );
        let resumed = Journal::resume(&crashed.path().join("journal"), &scan).unwrap();
        assert_eq!(resumed.bytes(), whole);
        assert_eq!(fs::read(last_file(crashed.path())).unwrap(), journal);
        assert_eq!(scan.mark.unwrap().head.next, Seq(4));
        if length % 97 == 0 {
            let (mut buffer, recovered) = open(crashed.path());
            assert_holds(&mut buffer, &recovered, 0, 4);
            buffer.append(segment(4), &state(4)).unwrap();
        }
    }
}

#[test]
fn sled_ahead_of_a_torn_journal_saves_the_last_segment() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 30);
    buffer.flush().unwrap();
    drop(buffer);
    let path = last_file(folder.path());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let (mut buffer, recovered) = open(folder.path());
    assert_holds(&mut buffer, &recovered, 0, 30);
    assert!(
        recovered
            .reports
            .contains(&Report::JournalRebuilt { segments: 30 })
    );
    drop(buffer);
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    let (mut buffer, recovered) = open(folder.path());
    assert_holds(&mut buffer, &recovered, 0, 30);
}

#[test]
fn a_flipped_bit_anywhere_in_the_journal_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 12);
    buffer.flush().unwrap();
    drop(buffer);
    for number in scan::numbers(&folder.path().join("journal")).unwrap() {
        let path = scan::file_path(&folder.path().join("journal"), number);
        let length = fs::metadata(&path).unwrap().len();
        for at in (0..length).step_by(4_001) {
            let damaged = tempfile::tempdir().unwrap();
            copy(folder.path(), damaged.path());
            let path = scan::file_path(&damaged.path().join("journal"), number);
            let mut bytes = fs::read(&path).unwrap();
            bytes[usize::try_from(at).unwrap()] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let (mut buffer, recovered) = open(damaged.path());
            assert_holds(&mut buffer, &recovered, 0, 12);
            assert!(!recovered.reports.is_empty(), "file {number} at {at}");
            buffer.append(segment(12), &state(12)).unwrap();
        }
    }
}

#[test]
fn a_lost_journal_is_written_anew_from_sled() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 25);
    buffer.receipt(receipt(4)).unwrap();
    buffer.flush().unwrap();
    drop(buffer);
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let (mut buffer, recovered) = open(folder.path());
    assert_holds(&mut buffer, &recovered, 5, 25);
    assert_eq!(recovered.last_receipt, Some(receipt(4)));
    drop(buffer);
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    let (mut buffer, recovered) = open(folder.path());
    assert_holds(&mut buffer, &recovered, 5, 25);
}

#[test]
fn a_journal_lost_after_a_restart_is_written_anew_too() {
    let folder = tempfile::tempdir().unwrap();
    let (mut buffer, _) = Buffer::open(folder.path(), Settings::default(), STREAM).unwrap();
    for seq in 0..3 {
        buffer.append(segment(seq), &state(seq)).unwrap();
    }
    drop(buffer);
    let (mut buffer, _) = Buffer::open(folder.path(), Settings::default(), STREAM).unwrap();
    buffer.append(segment(3), &state(3)).unwrap();
    buffer.append(segment(4), &state(4)).unwrap();
    drop(buffer);
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let (mut buffer, recovered) = open(folder.path());
    assert_holds(&mut buffer, &recovered, 0, 5);
}

#[test]
fn a_lost_sled_is_filled_from_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), 25));
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    let (buffer, recovered) = open(folder.path());
    assert_eq!(recovered.reports, []);
    let store = buffer.store.as_ref().unwrap();
    for seq in 0..25 {
        assert_eq!(store.segment(Seq(seq)).unwrap(), Some(segment(seq)));
    }
}

#[test]
fn garbage_in_the_place_of_sled_is_set_aside() {
    for garbage in [b"garbage".as_slice(), &[0; 100_000], &[0xff; 5_000]] {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path(), 25));
        for entry in fs::read_dir(folder.path().join("store"))
            .unwrap()
            .map(Result::unwrap)
        {
            if entry.path().is_file() {
                fs::write(entry.path(), garbage).unwrap();
            }
        }
        let (mut buffer, recovered) = open(folder.path());
        assert_holds(&mut buffer, &recovered, 0, 25);
        assert!(!buffer.stats().journal_alone);
        buffer.append(segment(25), &state(25)).unwrap();
    }
}

#[test]
fn a_sled_that_cannot_even_be_made_leaves_the_journal_to_work_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), 5));
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    fs::write(folder.path().join("quarantine"), "in the way").unwrap();
    fs::write(folder.path().join("store"), "in the way").unwrap();
    let (mut buffer, recovered) = open(folder.path());
    assert!(buffer.stats().journal_alone);
    assert_holds(&mut buffer, &recovered, 0, 5);
    buffer.append(segment(5), &state(5)).unwrap();
    buffer.receipt(receipt(3)).unwrap();
    fs::remove_file(folder.path().join("store")).unwrap();
    for seq in 6..20 {
        buffer.append(segment(seq), &state(seq)).unwrap();
    }
    assert!(!buffer.stats().journal_alone, "tried again and mended");
    drop(buffer);
    let (mut buffer, recovered) = open(folder.path());
    assert_holds(&mut buffer, &recovered, 4, 20);
}

#[test]
fn what_is_lost_in_both_ends_the_stream_and_a_new_one_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut buffer, _) = Buffer::open(folder.path(), Settings::default(), STREAM).unwrap();
    for seq in 0..10 {
        buffer.append(segment(seq), &state(seq)).unwrap();
    }
    let places = buffer.journal.segment(Seq(6)).unwrap();
    assert_eq!(places, Some(segment(6)));
    drop(buffer);
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    let path = last_file(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    let needle = &segment(6).bytes[..64];
    let at = bytes
        .windows(64)
        .rposition(|window| window == needle)
        .unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let (mut buffer, recovered) = Buffer::open(folder.path(), Settings::default(), FRESH).unwrap();
    assert_eq!(recovered.stream, FRESH);
    assert_eq!(recovered.head, Head::BEGINNING);
    assert_eq!(recovered.state, None);
    let after = StreamPosition {
        stream: STREAM,
        seq: Seq(5),
        hash: hash(5),
    };
    assert_eq!(recovered.predecessor, Some(after));
    let [
        Report::StreamEnded {
            lost_from, kept_in, ..
        },
    ] = &recovered.reports[..]
    else {
        panic!("{:?}", recovered.reports)
    };
    assert_eq!(*lost_from, Seq(6));
    assert_eq!(
        fs::read(scan::file_path(kept_in, 1)).unwrap(),
        bytes,
        "kept as it was found"
    );
    buffer.append(segment(0), &state(0)).unwrap();
    drop(buffer);
    let (_, recovered) =
        Buffer::open(folder.path(), Settings::default(), StreamId([3; 16])).unwrap();
    assert_eq!((recovered.stream, recovered.reports.len()), (FRESH, 0));
}

#[test]
fn a_new_stream_keeps_what_was_not_receipted_of_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 7);
    let after = buffer.position();
    assert_eq!(
        after,
        Some(StreamPosition {
            stream: STREAM,
            seq: Seq(6),
            hash: hash(6)
        })
    );
    buffer
        .begin_stream(FRESH, after, Some(b"opened anew"))
        .unwrap();
    assert_eq!(buffer.head(), Head::BEGINNING);
    assert_eq!(buffer.segments_from(Seq(0), 9, 9).unwrap(), []);
    drop(buffer);
    let ended = scan::scan(&folder.path().join("ended").join(STREAM.to_string())).unwrap();
    let known: Vec<u64> = (0..9)
        .filter(|seq| ended.segments.get(Seq(*seq)).is_some())
        .collect();
    assert_eq!(known, [0, 1, 2, 3, 4, 5, 6]);
    let (buffer, recovered) = open(folder.path());
    assert_eq!((recovered.stream, recovered.predecessor), (FRESH, after));
    assert_eq!(recovered.state.as_deref(), Some(b"opened anew".as_slice()));
    assert_eq!(buffer.stats().unreceipted, 0);
}

#[test]
fn registers_saved_without_a_seal_cost_no_files_and_are_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 3);
    let files = || scan::numbers(&folder.path().join("journal")).unwrap();
    let before = files();
    let last = before.last().copied().unwrap();
    let mut saved = Vec::new();
    for turn in 0u32.. {
        // Nothing of one is in the next.
        let words =
            (0..2_500u32).map(|word| blake3::hash(&[turn, word].map(u32::to_le_bytes).concat()));
        saved = words.flat_map(|hash| *hash.as_bytes()).collect();
        buffer.save_state(&saved).unwrap();
        if files().last().is_some_and(|file| *file >= last + 4) {
            break;
        }
    }
    assert!(files().len() <= before.len() + 2, "{:?}", files());
    drop(buffer);
    let (mut buffer, recovered) = open(folder.path());
    assert_eq!(recovered.reports, []);
    assert_eq!(recovered.state, Some(saved));
    assert_eq!(
        buffer.segments_from(Seq(0), 9, usize::MAX).unwrap().len(),
        3
    );
}

#[test]
fn a_journal_of_a_newer_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(filled(folder.path(), 1));
    let path = last_file(folder.path());
    let mut frame = fs::read(&path).unwrap();
    frame[5] = 9;
    let crc = crc32fast::hash(&frame[..24]);
    frame[24..28].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &frame).unwrap();
    let error = Buffer::open(folder.path(), small_files(), FRESH).unwrap_err();
    assert!(
        matches!(error, BufferError::Newer { version: 9, .. }),
        "{error}"
    );
    assert_eq!(fs::read(&path).unwrap(), frame);
}

#[test]
fn most_states_are_journaled_as_small_differences() {
    let folder = tempfile::tempdir().unwrap();
    let (mut buffer, _) = Buffer::open(folder.path(), Settings::default(), STREAM).unwrap();
    let state = |seq: u64| -> Vec<u8> {
        (0..1000u64)
            .flat_map(|n| (n * 7 + seq).to_be_bytes())
            .collect()
    };
    let same = |seq: u64| {
        let mut same = state(0);
        same[100] = seq.to_le_bytes()[0];
        same
    };
    for seq in 0..200 {
        buffer.append(segment(seq), &same(seq)).unwrap();
    }
    let segments: usize = (0..200).map(|seq| segment(seq).bytes.len()).sum();
    let journaled = usize::try_from(buffer.journal.bytes()).unwrap();
    assert!(
        journaled < segments + 200 * 300,
        "{journaled} for {segments}"
    );
    drop(buffer);
    let (_, recovered) = open(folder.path());
    assert_eq!(recovered.state, Some(same(199)));
}

#[test]
fn a_peek_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(peek(folder.path()).unwrap(), None);
    let mut buffer = filled(folder.path(), 9);
    buffer.receipt(receipt(2)).unwrap();
    buffer.flush().unwrap();
    let peek = peek(folder.path()).unwrap().unwrap();
    assert_eq!((peek.head, peek.unreceipted), (buffer.head(), 6));
    assert_eq!(peek.last_receipt, Some(receipt(2)));
    assert_eq!(peek.state, Some(state(8)));
}

/// What can happen to a buffer.
#[derive(Debug, Clone)]
enum Op {
    Append,
    Receipt(u64),
    Offer,
    NewStream,
    Reopen,
    ReopenWithoutStore,
    TearTail(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::Append),
        3 => (0u64..6).prop_map(Op::Receipt),
        1 => Just(Op::Offer),
        1 => Just(Op::NewStream),
        2 => Just(Op::Reopen),
        1 => Just(Op::ReopenWithoutStore),
        1 => (1usize..2_000).prop_map(Op::TearTail),
    ]
}

/// What a buffer should be.
#[derive(Default)]
struct Model {
    streams: u8,
    next: u64,
    receipted: u64,
}

fn play(ops: Vec<Op>) {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let mut buffer = Some(open(folder.path()).0);
    for op in ops {
        let live = buffer.as_mut().unwrap();
        match op {
            Op::Append => {
                live.append(segment(model.next), &state(model.next))
                    .unwrap();
                model.next += 1;
            }
            Op::Receipt(back) if back < model.next => {
                let seq = model.next - 1 - back;
                if live.receipt(receipt(seq)).is_ok() {
                    model.receipted = model.receipted.max(seq + 1);
                }
            }
            Op::Receipt(_) => {}
            Op::Offer => live.offered(Seq(model.next)).unwrap(),
            Op::NewStream => {
                let streams = model.streams + 1;
                live.begin_stream(StreamId([100 + streams; 16]), live.position(), None)
                    .unwrap();
                model = Model {
                    streams,
                    ..Model::default()
                };
            }
            Op::Reopen => drop(buffer.take()),
            Op::ReopenWithoutStore => {
                drop(buffer.take());
                fs::remove_dir_all(folder.path().join("store")).unwrap();
            }
            Op::TearTail(garbage) => {
                drop(buffer.take());
                let path = last_file(folder.path());
                let mut bytes = fs::read(&path).unwrap();
                bytes.extend(std::iter::repeat_n(0xa5, garbage));
                fs::write(path, bytes).unwrap();
            }
        }
        let mut buffer_now = buffer.take().unwrap_or_else(|| {
            let (buffer, recovered) = open(folder.path());
            let registers = model.next.checked_sub(1).map(state);
            assert!(
                recovered.state == registers,
                "registers after {}",
                model.next
            );
            buffer
        });
        assert_eq!(buffer_now.head().next, Seq(model.next));
        assert_eq!(buffer_now.stats().unreceipted, model.next - model.receipted);
        let held = buffer_now
            .segments_from(Seq(model.receipted), usize::MAX, usize::MAX)
            .unwrap();
        let expected: Vec<_> = (model.receipted..model.next).map(segment).collect();
        assert_eq!(held, expected);
        buffer = Some(buffer_now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_buffer_is_its_model_whatever_happens(ops in proptest::collection::vec(op(), 1..40)) {
        play(ops);
    }
}

#[test]
fn a_batch_ends_at_its_limits_with_at_least_one_segment() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 10);
    let sizes: BTreeMap<u64, usize> = (0..10).map(|seq| (seq, segment(seq).bytes.len())).collect();
    assert_eq!(buffer.segments_from(Seq(2), 100, 1).unwrap().len(), 1);
    let two = sizes[&2] + 1;
    assert_eq!(buffer.segments_from(Seq(2), 100, two).unwrap().len(), 2);
    assert_eq!(
        buffer.segments_from(Seq(2), 3, usize::MAX).unwrap().len(),
        3
    );
    assert_eq!(buffer.segments_from(Seq(10), 3, usize::MAX).unwrap(), []);
}
