//! sled's own files torn, flipped, lost or of another time, with a real sled.

use super::*;

/// Thirty segments, four of them receipted, everything synced.
fn buffered() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut buffer = filled(folder.path(), 30);
    buffer.receipt(receipt(3)).unwrap();
    buffer.flush().unwrap();
    folder
}

fn store_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.path().is_dir() {
            true => files.extend(store_files(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files.sort();
    files
}

/// Opens and holds everything, whatever was done to the store; a second opening finds all in order.
fn assert_survives(dir: &Path, what: &str) {
    let (mut buffer, recovered) = open(dir);
    assert_eq!(recovered.head.next, Seq(30), "{what}");
    assert_holds(&mut buffer, &recovered, 4, 30);
    assert!(!buffer.stats().journal_alone, "{what}");
    buffer.append(segment(30), &state(30)).unwrap();
    drop(buffer);
    let (_, again) = open(dir);
    assert_eq!(again.reports, [], "{what}");
}

#[test]
fn torn_sled_files() {
    let folder = buffered();
    for path in store_files(&folder.path().join("store")) {
        let name = path.strip_prefix(folder.path()).unwrap();
        let length = usize::try_from(path.metadata().unwrap().len()).unwrap();
        for keep in [0, 1, length / 3, length / 2, length.saturating_sub(1)] {
            let torn = tempfile::tempdir().unwrap();
            copy(folder.path(), torn.path());
            let bytes = fs::read(&path).unwrap();
            fs::write(torn.path().join(name), &bytes[..keep]).unwrap();
            assert_survives(torn.path(), &format!("{} cut to {keep}", name.display()));
        }
    }
}

#[test]
fn bit_flipped_sled_files() {
    let folder = buffered();
    for path in store_files(&folder.path().join("store")) {
        let name = path.strip_prefix(folder.path()).unwrap();
        let bytes = fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by((bytes.len() / 24).max(1)) {
            let flipped = tempfile::tempdir().unwrap();
            copy(folder.path(), flipped.path());
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x40;
            fs::write(flipped.path().join(name), &bytes).unwrap();
            assert_survives(
                flipped.path(),
                &format!("{} flipped at {at}", name.display()),
            );
        }
    }
}

#[test]
fn an_older_sled_beside_a_newer_journal() {
    let folder = buffered();
    let older = tempfile::tempdir().unwrap();
    copy(&folder.path().join("store"), older.path());
    let (mut buffer, _) = open(folder.path());
    for seq in 30..50 {
        buffer.append(segment(seq), &state(seq)).unwrap();
    }
    drop(buffer);
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    copy(older.path(), &folder.path().join("store"));
    let (mut buffer, recovered) = open(folder.path());
    assert_eq!(recovered.reports, []);
    assert_holds(&mut buffer, &recovered, 4, 50);
}

#[test]
fn both_lost_begins_a_stream_that_claims_nothing_of_the_old() {
    let folder = buffered();
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let (buffer, recovered) = Buffer::open(folder.path(), small_files(), FRESH).unwrap();
    assert_eq!((recovered.stream, recovered.head), (FRESH, Head::BEGINNING));
    assert_eq!((recovered.state, recovered.predecessor), (None, None));
    assert_eq!(buffer.stats().unreceipted, 0);
}

#[test]
fn receipted_segments_stay_for_their_time_and_never_take_more_than_half_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        keep_receipted: Micros::from_seconds(20),
        ..small_files()
    };
    let (mut buffer, _) = Buffer::open(folder.path(), settings, STREAM).unwrap();
    for seq in 0..100 {
        buffer.append(segment(seq), &state(seq)).unwrap();
        buffer.receipt(receipt(seq)).unwrap();
    }
    assert!(
        (Seq(79 - 16)..=Seq(79)).contains(&buffer.oldest_held()),
        "some at once"
    );
    buffer.flush().unwrap();
    assert_eq!(buffer.oldest_held(), Seq(79), "twenty seconds and the last");
    drop(buffer);
    let settings = Settings {
        keep_receipted: Micros::from_seconds(1_000_000),
        limit_bytes: 16 << 20,
        ..settings
    };
    let (mut buffer, _) = Buffer::open(folder.path(), settings, STREAM).unwrap();
    for seq in 100..3_200 {
        buffer.append(segment(seq), &state(seq)).unwrap();
        buffer.receipt(receipt(seq)).unwrap();
    }
    let kept: usize = (buffer.oldest_held().0..3_200)
        .map(|seq| segment(seq).bytes.len())
        .sum();
    // sled takes three times as much.
    assert!((7 << 20..8 << 20).contains(&(3 * kept)), "{kept}");
}

/// A queue as an agent's buffer is one: seals, receipts, a rolling rest that is kept.
fn queue(segments: u64, keep: u64) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        keep_receipted: Micros::from_seconds(keep),
        limit_bytes: 64 << 20,
        ..Settings::default()
    };
    let (mut buffer, _) = Buffer::open(folder.path(), settings, STREAM).unwrap();
    let live: u64 = (0..keep).map(|seq| segment(seq).bytes.len() as u64).sum();
    let mut most = 0;
    for seq in 0..segments {
        buffer.append(segment(seq), &state(seq)).unwrap();
        if seq % 3 == 2 {
            buffer.receipt(receipt(seq)).unwrap();
        }
        if seq % 50 == 0 {
            most = most.max(crate::durable::bytes_below(&folder.path().join("store")));
        }
    }
    (live, most)
}

#[test]
fn sled_stays_bounded_under_a_queue() {
    let (live, most) = queue(3_000, 200);
    println!("{live} bytes live, at most {most} bytes of sled");
    assert!(
        most <= 2 * (live + (8 << 20)) + (4 << 20),
        "{most} for {live}"
    );
}

/// A year of quarter-hours with a fortnight kept.
#[test]
#[ignore = "takes minutes: a simulated year"]
fn sled_stays_bounded_for_a_year() {
    let (live, most) = queue(365 * 96, 14 * 96);
    println!("{live} bytes live, at most {most} bytes of sled");
    assert!(
        most <= 2 * (live + (8 << 20)) + (4 << 20),
        "{most} for {live}"
    );
}
