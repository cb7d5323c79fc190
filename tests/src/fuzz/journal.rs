//! What an agent reads from its disk: journal, differences, registers, tally, ledger of applications.

use tallystick_agent::accrue::{Accrual, Checkpoint, Settings};
use tallystick_agent::{buffer, intake, tally};
use tallystick_common::codec;
use tallystick_common::ids::Hash;
use tallystick_common::time::{Micros, SECOND_US, Timestamp};

use super::{Input, Output, Target};

pub(super) const JOURNAL: Target = Target {
    name: "journal",
    max_bytes: 4096,
    run: journal,
    seeds: journal_seeds,
    words: &["TSJL"],
};

pub(super) const DELTA: Target = Target {
    name: "delta",
    max_bytes: 2048,
    run: delta,
    seeds: delta_seeds,
    words: &[],
};

pub(super) const RECORDS: Target = Target {
    name: "records",
    max_bytes: 4096,
    run: records,
    seeds: record_seeds,
    words: &["TSTL", "host"],
};

/// The first byte: 0 is a bare file, else so many records follow, each a kind and a body; a bit begins a new file.
fn journal(bytes: &[u8]) {
    let mut input = Input(bytes);
    if input.byte() == 0 {
        check_journal(&[input.0.to_vec()]);
        return;
    }
    let mut files = vec![Vec::new()];
    let mut number = 0;
    while !input.is_empty() && number < 64 {
        let kind = input.byte();
        if kind & 0x80 != 0 {
            files.push(Vec::new());
        }
        let version = if kind & 0x40 != 0 { 1 } else { 2 };
        let record = buffer::decoders::framed(kind % 8, version, number, input.piece());
        if let Some((read, again)) = buffer::decoders::written_again(&record) {
            assert_eq!(read, again, "a record keeps its meaning");
        }
        if let Some(file) = files.last_mut() {
            file.extend(record);
        }
        number += 1;
    }
    check_journal(&files);
}

fn check_journal(files: &[Vec<u8>]) {
    let whole: usize = files.iter().map(Vec::len).sum();
    if let Some(segments) = buffer::decoders::journal(files) {
        assert!(segments * 28 <= whole);
    }
}

fn delta(bytes: &[u8]) {
    let mut input = Input(bytes);
    let base = input.piece();
    let steps = input.0;
    let made = buffer::decoders::applied(base, steps);
    let _ = buffer::decoders::applied_first(base, steps);
    for target in [Some(steps.to_vec()), made].into_iter().flatten() {
        let target = &target[..target.len().min(8192)];
        let difference = buffer::decoders::difference(base, target);
        let back = buffer::decoders::applied(base, &difference);
        assert_eq!(back.as_deref(), Some(target), "a difference comes back");
    }
}

/// The first byte: registers; a bare tally, records of one; a bare ledger, records of one.
fn records(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 5 {
        0 => registers(input.0),
        1 => drop(tally::decoders::tally(input.0)),
        2 => {
            let mut file = Vec::new();
            while !input.is_empty() {
                let kind = input.byte();
                let version = 1 + u8::from(kind == 0xff);
                file.extend(tally::decoders::framed(kind % 6, version, input.piece()));
            }
            let _ = tally::decoders::tally(&file);
        }
        3 => drop(intake::decoders::replayed(input.0, None)),
        _ => {
            let counted = input.byte();
            let counted = (counted != 0).then_some(u64::from(counted));
            let mut file = Vec::new();
            while !input.is_empty() {
                file.extend(intake::decoders::framed(input.piece()));
            }
            let _ = intake::decoders::replayed(&file, counted);
        }
    }
}

fn registers(bytes: &[u8]) {
    let Ok(checkpoint) = codec::decode::<Checkpoint>(bytes) else {
        return;
    };
    let settings = Settings {
        sample: Micros(10 * SECOND_US),
        register_limit: 100,
        config: Hash([1; 32]),
        labels: Vec::new(),
        begins: Timestamp::EPOCH,
    };
    let _ = (checkpoint.sealed_through(), checkpoint.register_count());
    if let Ok(accrual) = Accrual::restore(settings, checkpoint) {
        let again = accrual.checkpoint();
        let bytes = codec::encode(&again);
        assert_eq!(codec::decode::<Checkpoint>(&bytes).as_ref(), Ok(&again));
    }
}

/// A body of bincode fields.
fn body(parts: &[&dyn Fn() -> Vec<u8>]) -> Vec<u8> {
    parts.iter().flat_map(|part| part()).collect()
}

fn journal_seeds() -> Vec<Vec<u8>> {
    let hash = [7u8; 32];
    let head = |next: u64| {
        move || {
            [
                codec::encode(&next),
                hash.to_vec(),
                codec::encode(&9_000_000u64),
            ]
            .concat()
        }
    };
    let life = || [codec::encode(&1u64), [3u8; 16].to_vec(), vec![0]].concat();
    let nothing = || vec![0, 0];
    let checkpoint = body(&[&life, &head(0), &nothing, &|| vec![0]]);
    let segment = |seq: u64, bytes: &[u8]| {
        [
            codec::encode(&seq),
            hash.to_vec(),
            [8; 32].to_vec(),
            codec::encode(&9_000_000u64),
            codec::encode(&bytes.to_vec()),
        ]
        .concat()
    };
    let state = |at: u64, bytes: &[u8]| {
        [codec::encode(&at), vec![0], codec::encode(&bytes.to_vec())].concat()
    };
    let long: Vec<u8> = (0..120).collect();
    let sealed = [segment(0, &long), vec![1], state(1, &long)].concat();
    let packed = {
        let steps = buffer::decoders::difference(&long, &long);
        let facts = [
            codec::encode(&1u64),
            hash.to_vec(),
            [8; 32].to_vec(),
            codec::encode(&9_000_001u64),
        ]
        .concat();
        let base_at = 28 + checkpoint.len() as u64;
        [
            facts,
            codec::encode(&base_at),
            codec::encode(&steps),
            codec::encode(&crc32(&long)),
            vec![0],
        ]
        .concat()
    };
    let receipt = [
        codec::encode(&0u64),
        [8; 32].to_vec(),
        codec::encode(&vec![1u8, 2]),
    ]
    .concat();
    let records = [
        (1, checkpoint.clone()),
        (2, sealed),
        (6, packed),
        (3, receipt),
        (4, codec::encode(&1u64)),
        (5, state(2, &long)),
        (0x81, checkpoint),
    ];
    let mut whole = Output::default().byte(1);
    let mut seeds = vec![vec![0]];
    let mut bare = vec![0];
    for (kind, body) in &records {
        whole = whole.byte(*kind).piece(body);
        seeds.push(Output::default().byte(1).byte(*kind).piece(body).0);
        bare.extend(buffer::decoders::framed(kind % 8, 2, 1, body));
    }
    seeds.push(whole.0);
    seeds.push(bare);
    seeds
}

/// As in Ethernet, bit by bit: only seeds need it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn delta_seeds() -> Vec<Vec<u8>> {
    let base: Vec<u8> = (0..100).collect();
    let target: Vec<u8> = (0..100)
        .map(|byte: u8| byte ^ u8::from(byte.is_multiple_of(9)))
        .collect();
    let steps = buffer::decoders::difference(&base, &target);
    vec![
        Output::default().piece(&base).bytes(&steps).0,
        Output::default().piece(&base).bytes(&target).0,
        Output::default().piece(b"ab").bytes(&[0x99, 1, 0x41]).0,
    ]
}

fn record_seeds() -> Vec<Vec<u8>> {
    let settings = Settings {
        sample: Micros(10 * SECOND_US),
        register_limit: 100,
        config: Hash([1; 32]),
        labels: Vec::new(),
        begins: Timestamp::EPOCH,
    };
    let empty = codec::encode(&Accrual::new(settings).checkpoint());
    let begun = [codec::encode(&9_000_000u64), codec::encode(&20_000u64)].concat();
    let row = [
        codec::encode(&1u64),
        codec::encode("host"),
        codec::encode(&1u16),
        codec::encode(&500u128),
        codec::encode(&9_000_000u64),
    ]
    .concat();
    let rows = [vec![1], row].concat();
    let day = [
        codec::encode(&20_000u64),
        [3u8; 16].to_vec(),
        codec::encode(&9_000_000u64),
        rows.clone(),
    ]
    .concat();
    let closed = [[3u8; 16].to_vec(), rows].concat();
    let receipt = [
        codec::encode(&9_000_000u64),
        codec::encode(&4u64),
        [8; 32].to_vec(),
        vec![2, 1, 2],
    ]
    .concat();
    let tally = [(1, begun), (2, day), (3, closed), (4, receipt)];
    let whole = tally
        .iter()
        .fold(Output::default().byte(2), |out, (kind, body)| {
            out.byte(*kind).piece(body)
        });
    let bare: Vec<u8> = tally
        .iter()
        .flat_map(|(kind, body)| tally::decoders::framed(*kind, 1, body))
        .collect();
    let event = [
        codec::encode(&1u64),
        codec::encode(&9_000_000u64),
        vec![1, 0],
        [4; 16].to_vec(),
        vec![9],
    ]
    .concat();
    let horizon = [
        codec::encode(&2u64),
        codec::encode(&9_000_000u64),
        vec![1, 2],
        codec::encode(&8u64),
    ]
    .concat();
    vec![
        Output::default().byte(0).bytes(&empty).0,
        whole.0,
        Output::default().byte(1).bytes(&bare).0,
        Output::default()
            .byte(4)
            .byte(1)
            .piece(&event)
            .piece(&horizon)
            .0,
        Output::default()
            .byte(3)
            .bytes(&intake::decoders::framed(&event))
            .0,
    ]
}
