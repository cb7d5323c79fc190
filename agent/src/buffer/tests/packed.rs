//! Segments that stand as differences, and sled that is written several seals at a time.

use super::*;

fn neighbours(dir: &Path, settings: Settings, segments: std::ops::Range<u64>) -> Buffer {
    let (mut buffer, _) = Buffer::open(dir, settings, STREAM).unwrap();
    for seq in segments {
        buffer.append(neighbour(seq), &state(seq)).unwrap();
    }
    buffer
}

fn assert_holds_neighbours(buffer: &mut Buffer, first: u64, end: u64) {
    let held = buffer.segments_from(Seq(first), usize::MAX, usize::MAX);
    assert_eq!(
        held.unwrap(),
        (first..end).map(neighbour).collect::<Vec<_>>()
    );
}

#[test]
fn neighbours_take_a_fraction_and_are_read_from_either_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = neighbours(folder.path(), Settings::default(), 0..300);
    let whole: usize = (0..300).map(|seq| neighbour(seq).bytes.len()).sum();
    let journaled = usize::try_from(buffer.journal.bytes()).unwrap();
    assert!(journaled < whole / 2, "{journaled} for {whole}");
    assert_holds_neighbours(&mut buffer, 0, 300);
    for seq in [0, 1, 255, 256, 257, 258, 299] {
        assert_eq!(
            buffer.journal.segment(Seq(seq)).unwrap(),
            Some(neighbour(seq))
        );
    }
    drop(buffer);
    for lost in ["store", "journal"] {
        let damaged = tempfile::tempdir().unwrap();
        copy(folder.path(), damaged.path());
        fs::remove_dir_all(damaged.path().join(lost)).unwrap();
        let mut buffer = neighbours(damaged.path(), Settings::default(), 300..303);
        assert_holds_neighbours(&mut buffer, 0, 303);
    }
}

#[test]
fn what_others_were_packed_from_stays_as_long_as_they_do() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        rotate_bytes: 100_000,
        keep_receipted: Micros::from_seconds(1),
        ..Settings::default()
    };
    let mut buffer = neighbours(folder.path(), settings, 0..350);
    buffer.receipt(receipt(299)).unwrap();
    assert_eq!(buffer.oldest_held(), Seq(298), "in the middle of its group");
    assert_holds_neighbours(&mut buffer, 298, 350);
    drop(buffer);
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let mut buffer = neighbours(folder.path(), settings, 350..370);
    assert_holds_neighbours(&mut buffer, 300, 370);
    buffer.receipt(receipt(369)).unwrap();
    buffer.flush().unwrap();
    drop(buffer);
    let mut buffer = neighbours(folder.path(), settings, 370..371);
    assert_holds_neighbours(&mut buffer, 368, 371);
}

#[test]
fn a_flipped_bit_in_what_others_were_packed_from_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    drop(neighbours(folder.path(), Settings::default(), 0..20));
    let path = last_file(folder.path());
    let bytes = fs::read(&path).unwrap();
    let needle = &neighbour(0).bytes[..64];
    let base = bytes.windows(64).position(|window| window == needle);
    for at in [base.unwrap(), bytes.len() / 2, bytes.len() - 200] {
        let damaged = tempfile::tempdir().unwrap();
        copy(folder.path(), damaged.path());
        let mut bytes = bytes.clone();
        bytes[at] ^= 4;
        fs::write(last_file(damaged.path()), &bytes).unwrap();
        let (mut buffer, recovered) =
            Buffer::open(damaged.path(), Settings::default(), FRESH).unwrap();
        assert_eq!(recovered.stream, STREAM, "{:?}", recovered.reports);
        assert!(
            recovered
                .reports
                .contains(&Report::JournalRebuilt { segments: 20 }),
            "{:?}",
            recovered.reports
        );
        assert_eq!(recovered.state, Some(state(19)));
        assert_holds_neighbours(&mut buffer, 0, 20);
    }
}

#[test]
fn without_sled_a_damaged_one_ends_the_stream_before_it_and_not_later() {
    let folder = tempfile::tempdir().unwrap();
    drop(neighbours(folder.path(), Settings::default(), 0..270));
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    let path = last_file(folder.path());
    let mut bytes = fs::read(&path).unwrap();
    // The second one that stands whole.
    let needle = &neighbour(257).bytes[..64];
    let mut wholes = bytes.windows(64).enumerate();
    let at = wholes.rfind(|(_, window)| *window == needle).unwrap().0;
    bytes[at] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let (_, recovered) = Buffer::open(folder.path(), Settings::default(), FRESH).unwrap();
    let lost = recovered.reports.iter().find_map(|report| match report {
        Report::StreamEnded { lost_from, .. } => Some(*lost_from),
        _ => None,
    });
    assert_eq!(lost, Some(Seq(257)), "{:?}", recovered.reports);
}

#[test]
fn sled_is_written_some_seals_at_a_time_and_a_crash_between_is_made_good() {
    let folder = tempfile::tempdir().unwrap();
    let (mut buffer, _) = open(folder.path());
    let stored = |buffer: &Buffer| {
        buffer
            .store
            .as_ref()
            .unwrap()
            .mark()
            .unwrap()
            .unwrap()
            .head
            .next
    };
    for seq in 0..STORE_EVERY - 1 {
        buffer.append(segment(seq), &state(seq)).unwrap();
    }
    let before = stored(&buffer);
    assert!(before.0 < STORE_EVERY - 1, "{before}");
    let held = buffer
        .segments_from(Seq(0), usize::MAX, usize::MAX)
        .unwrap();
    assert_eq!(held.len() as u64, STORE_EVERY - 1);
    // As `kill -9` leaves it.
    let crashed = tempfile::tempdir().unwrap();
    copy(folder.path(), crashed.path());
    let (mut after, recovered) = open(crashed.path());
    assert_holds(&mut after, &recovered, 0, STORE_EVERY - 1);
    assert_eq!(stored(&after), Seq(STORE_EVERY - 1));
    for seq in STORE_EVERY - 1..3 * STORE_EVERY {
        buffer.append(segment(seq), &state(seq)).unwrap();
        assert!(stored(&buffer).0 + STORE_EVERY > seq);
    }
}

#[test]
fn a_receipt_is_written_with_the_next_record_and_given_again_if_it_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 3);
    let before = fs::read(last_file(folder.path())).unwrap();
    buffer.receipt(receipt(1)).unwrap();
    assert_eq!(fs::read(last_file(folder.path())).unwrap(), before);
    let crashed = tempfile::tempdir().unwrap();
    copy(folder.path(), crashed.path());
    let (mut lost, recovered) = open(crashed.path());
    assert_eq!(recovered.last_receipt, None);
    assert_eq!(
        lost.receipt(receipt(1)).unwrap(),
        ReceiptOutcome::Advanced(2)
    );
    drop(lost);
    assert_eq!(open(crashed.path()).1.last_receipt, Some(receipt(1)));
    buffer.append(segment(3), &state(3)).unwrap();
    let scan = scan::scan(&folder.path().join("journal")).unwrap();
    assert_eq!(scan.mark.unwrap().receipt, Some(receipt(1)));
}
