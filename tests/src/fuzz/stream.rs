//! Segments: bare, and sealed around headers and blocks that are made of the input; a stream of them as a
//! customer's verifier reads it.

use tallystick_common::codec;
use tallystick_common::ids::{BootId, Hash, NodeId, Seq, StoreEpoch, StreamId};
use tallystick_common::keys::{KeyRing, SecretKey, Signature, Signed};
use tallystick_common::reading::{Cause, Gap};
use tallystick_common::receipt::Receipt;
use tallystick_common::seal::{SealedSegment, VerifiedSegment, merkle, seal};
use tallystick_common::segment::{Block, Header, HeaderDraft, Previous, Purpose, StreamPosition};
use tallystick_common::time::{Micros, Timestamp};
use tallystick_common::verify::Verifier;

use super::{Input, Output, Target, golden};

pub(super) const STREAM: Target = Target {
    name: "stream",
    max_bytes: 8192,
    run,
    seeds,
    words: &["host", "host/other"],
};

pub(super) const BLOCK: Target = Target {
    name: "block",
    max_bytes: 4096,
    run: block,
    seeds: block_seeds,
    words: &["host", "host/other"],
};

const NODE: NodeId = NodeId([0xa1; 16]);
const SEED: [u8; 32] = [0x77; 32];
/// Every part of a block but its name and labels.
const COLUMNS: usize = 7;

type Columns = (
    String,
    Vec<(String, String)>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
);
type Envelope = (u16, Vec<u8>, [u8; 32], Vec<Vec<u8>>, Signature);

fn key() -> SecretKey {
    SecretKey::from_seed(&[0x11; 32])
}

/// An instant of the input; most are near a day in 2026.
fn instant(number: u64) -> Timestamp {
    Timestamp::from_micros(number).unwrap_or(Timestamp::EPOCH)
}

/// The first byte: 0 is a bare segment, else one more segments than its low bits say.
fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let how = input.byte();
    let receipt_key = SecretKey::from_seed(&[0x33; 32]);
    let ring = KeyRing::new(NODE, key().public());
    let mut verifier = Verifier::new(ring, Some(receipt_key.public()));
    if how == 0 {
        let bytes = input.0.to_vec();
        if let Ok(segment) = SealedSegment::parse(bytes.clone()) {
            assert_eq!(segment.bytes(), bytes);
            let _ = segment.kept_blocks();
            let _ = segment.verify(&KeyRing::new(NODE, key().public()));
        }
        return;
    }
    let mut before: Option<Header> = None;
    let mut head = None;
    for _ in 0..=how % 4 {
        let (header, sealed) = sealed(&mut input, before.as_ref(), head);
        let Ok(segment) = SealedSegment::parse(sealed.clone()) else {
            return;
        };
        check_segment(&segment);
        head = Some(segment.hash());
        if verifier.segment(sealed).is_err() {
            return;
        }
        let receipt = Receipt {
            node: NODE,
            stream: header.stream,
            seq: header.seq,
            hash: segment.hash(),
            epoch: StoreEpoch([7; 16]),
            at: header.covered_through,
            since: header.seq,
            quarantined: Vec::new(),
        };
        let signed = Signed::new(&receipt, &receipt_key);
        assert!(verifier.receipt(&signed).is_ok());
        before = Some(header);
    }
    let report = verifier.report().expect("there was a segment");
    assert_eq!(report.receipted, Some(report.last));
    assert!(
        report
            .registers
            .iter()
            .all(|total| total.opening <= total.closing
                || total.meter.kind() == tallystick_common::meter::Kind::Peak)
    );
}

/// What verifies is sealed the same by whoever seals the same, and each block of it can be shown alone.
fn check_segment(segment: &SealedSegment) {
    let ring = KeyRing::new(NODE, key().public());
    let Ok(verified) = segment.clone().verify(&ring) else {
        return;
    };
    let again = seal(
        draft(verified.header()),
        verified.blocks().to_vec(),
        SEED,
        &key(),
    );
    assert_eq!(
        again.map(|again| again.bytes().to_vec()).as_deref(),
        Ok(segment.bytes())
    );
    for (index, block) in verified.blocks().iter().enumerate() {
        let proof = segment.prove(index).expect("the block is there");
        let proof = codec::decode::<tallystick_common::seal::BlockProof>(&codec::encode(&proof));
        let (_, shown, hash) = proof
            .map(|proof| proof.verify(&ring))
            .expect("it is spelled")
            .expect("it is proved");
        assert_eq!((&shown, hash), (block, segment.hash()));
    }
    walk(&verified);
}

fn walk(verified: &VerifiedSegment) {
    for block in verified.blocks() {
        let intervals: usize = block
            .runs()
            .iter()
            .map(|run| block.intervals(run).count())
            .sum();
        assert_eq!(intervals, block.interval_count());
    }
}

fn draft(header: &Header) -> HeaderDraft {
    HeaderDraft {
        node: header.node,
        stream: header.stream,
        seq: header.seq,
        previous: header.previous,
        from: header.from,
        covered_through: header.covered_through,
        boot: header.boot,
        config: header.config,
        purpose: header.purpose,
        gaps: header.gaps.clone(),
    }
}

/// The next segment of the input, hashed and signed. Unless a bit says otherwise it follows the one before.
fn sealed(input: &mut Input<'_>, before: Option<&Header>, head: Option<Hash>) -> (Header, Vec<u8>) {
    let flags = input.byte();
    let free = flags & 1 != 0;
    let (seq, from) = (Seq(input.number()), instant(input.number()));
    let through = from.saturating_add(Micros(input.number()));
    let length = through.since(from);
    let gaps = gaps(input, from);
    let mut header = Header {
        node: NODE,
        stream: StreamId([0xb2; 16]),
        seq: if free { seq } else { Seq::FIRST },
        previous: match (free && seq.0 != 0, flags & 2 != 0) {
            (true, _) => Previous::Follows(Hash([9; 32])),
            (false, true) => Previous::Opens {
                after: Some(StreamPosition {
                    stream: StreamId([1; 16]),
                    seq: Seq(4),
                    hash: Hash([2; 32]),
                }),
            },
            (false, false) => Previous::Opens { after: None },
        },
        from,
        covered_through: through,
        boot: BootId([flags; 16]),
        config: Hash([5; 32]),
        purpose: match flags >> 2 & 3 {
            1 => Purpose::RotateKey(key().public().0),
            2 => Purpose::Final,
            _ => Purpose::Readings,
        },
        gaps,
        salt_commitment: merkle::commitment(&SEED),
        leaves: 1,
    };
    if let (Some(before), Some(head), false) = (before, head, free) {
        header.seq = before.seq.next();
        header.previous = Previous::Follows(head);
        header.from = before.covered_through;
        header.covered_through = header.from.saturating_add(length);
    }
    let count = usize::from(input.byte() % 5);
    let blocks: Vec<Vec<u8>> = (0..count).map(|_| block_bytes(input)).collect();
    header.leaves = u32::try_from(count + 1).expect("they are few");
    let bytes = envelope(&header, blocks);
    (header, bytes)
}

fn gaps(input: &mut Input<'_>, from: Timestamp) -> Vec<Gap> {
    let count = usize::from(input.byte() % 4);
    let mut gap = || {
        let from = from.saturating_add(Micros(input.number()));
        let to = from.saturating_add(Micros(input.number()));
        let cause = Cause::ALL[usize::from(input.byte()) % Cause::ALL.len()];
        Gap { from, to, cause }
    };
    (0..count).map(|_| gap()).collect()
}

fn envelope(header: &Header, blocks: Vec<Vec<u8>>) -> Vec<u8> {
    let header = codec::encode(header);
    let leaves: Vec<Hash> = (0..)
        .zip(&blocks)
        .map(|(index, block)| merkle::block_leaf(&merkle::salt(&SEED, index), block))
        .collect();
    let root = (!leaves.is_empty()).then(|| merkle::root(&leaves));
    let hash = merkle::segment(&merkle::header_leaf(&header), root.as_ref());
    let signature = key().sign("tallystick/1 segment", hash.as_bytes());
    let envelope: Envelope = (1, header, SEED, blocks, signature);
    codec::encode(&envelope)
}

/// A block's bytes: columns, each a piece, or bare.
fn block_bytes(input: &mut Input<'_>) -> Vec<u8> {
    let flags = input.byte();
    if flags & 1 != 0 {
        return input.piece().to_vec();
    }
    let workload = input.text();
    let labels = (0..flags >> 1 & 3)
        .map(|_| (input.text(), input.text()))
        .collect();
    let [a, b, c, d, e, f, g]: [Vec<u8>; COLUMNS] = std::array::from_fn(|_| input.piece().to_vec());
    let columns: Columns = (workload, labels, a, b, c, d, e, f, g);
    codec::encode(&columns)
}

/// Where the segment starts, then the block.
fn block(bytes: &[u8]) {
    let mut input = Input(bytes);
    let from = instant(input.number());
    let bytes = block_bytes(&mut input);
    match Block::decode(&bytes, from) {
        Ok(block) => {
            assert_eq!(block.encode(from), bytes, "a block has one spelling");
            for run in block.runs() {
                let shape = block.shape(run);
                assert_eq!(block.quantities(run).len(), shape.spans.len());
                let mut at = shape.start;
                for interval in block.intervals(run) {
                    assert!(interval.start == at && interval.end > at, "intervals tile");
                    at = interval.end;
                }
            }
        }
        Err(error) => drop(error.to_string()),
    }
}

fn parts(segment: &[u8]) -> (Header, Vec<Vec<u8>>) {
    let (_, header, _, blocks, _): Envelope = codec::decode(segment).expect("a golden segment");
    (codec::decode(&header).expect("its header"), blocks)
}

fn write_block(out: Output, bytes: &[u8]) -> Output {
    let columns: Columns = codec::decode(bytes).expect("a block");
    let (workload, labels, a, b, c, d, e, f, g) = columns;
    let flags = u8::try_from(labels.len().min(3)).expect("it is small") << 1;
    let mut out = out.byte(flags).piece(workload.as_bytes());
    for (key, value) in labels.iter().take(3) {
        out = out.piece(key.as_bytes()).piece(value.as_bytes());
    }
    [a, b, c, d, e, f, g]
        .iter()
        .fold(out, |out, column| out.piece(column))
}

fn write_segment(out: Output, segment: &[u8], free: bool) -> Output {
    let (header, blocks) = parts(segment);
    let mut out = out
        .byte(u8::from(free))
        .number(header.seq.0)
        .number(header.from.as_micros())
        .number(header.covered_through.since(header.from).0)
        .byte(u8::try_from(header.gaps.len().min(3)).expect("it is small"));
    for gap in header.gaps.iter().take(3) {
        out = out
            .number(gap.from.since(header.from).0)
            .number(gap.to.since(gap.from).0)
            .byte(0);
    }
    let count = u8::try_from(blocks.len().min(4)).expect("it is small");
    blocks
        .iter()
        .take(4)
        .fold(out.byte(count), |out, block| write_block(out, block))
}

fn chain() -> Vec<Vec<u8>> {
    let size = crate::fixture::Size {
        workloads: 2,
        meters: 4,
        steps: 3,
    };
    let from = instant(1_795_348_800_000_000);
    let mut chain = crate::fixture::Chain::new(NODE, from, 60, size);
    (0..4).map(|_| chain.seal_next().bytes().to_vec()).collect()
}

fn seeds() -> Vec<Vec<u8>> {
    let names = ["segment-1", "segment-1-rotation"];
    let mut seeds: Vec<Vec<u8>> = names
        .map(|name| Output::default().byte(0).bytes(&golden(name)).0)
        .to_vec();
    seeds.extend(names.map(|name| write_segment(Output::default().byte(4), &golden(name), true).0));
    let whole = chain()
        .iter()
        .fold(Output::default().byte(3), |out, segment| {
            write_segment(out, segment, false)
        });
    seeds.push(whole.0);
    let two = names.iter().fold(Output::default().byte(1), |out, name| {
        write_segment(out, &golden(name), false)
    });
    seeds.push(two.0);
    seeds
}

fn block_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for segment in [
        golden("segment-1"),
        golden("segment-1-rotation"),
        chain()[0].clone(),
        chain()[1].clone(),
    ] {
        let (header, blocks) = parts(&segment);
        for bytes in &blocks {
            let out = Output::default().number(header.from.as_micros());
            seeds.push(write_block(out, bytes).0);
            let out = Output::default().number(header.from.as_micros()).byte(1);
            seeds.push(out.piece(bytes).0);
        }
    }
    seeds
}
