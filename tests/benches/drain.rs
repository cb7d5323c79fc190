//! The agent's part of draining a backlog: read from the buffer, note as offered, frame, hand over.
//! Elements are intervals. The other side is nobody: what is handed over is dropped.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tallystick_agent::buffer::{Buffer, Settings, StoredSegment};
use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::segment::Previous;
use tallystick_common::time::Timestamp;
use tallystick_common::wire::Message;
use tallystick_tests::fixture::{Chain, Size};

/// Of a month's 43,200: enough that nothing of it stays in a cache of sled.
const SEGMENTS: usize = 2_000;
/// 200 registers, sampled every 10 s and sealed every minute.
const SIZE: Size = Size {
    workloads: 20,
    meters: 10,
    steps: 6,
};
/// What a conversation reads at once.
const BATCH: (usize, usize) = (64, 1 << 20);

fn backlog(buffer: &mut Buffer) {
    let from = Timestamp::from_seconds(1_795_348_800).expect("an instant");
    let mut chain = Chain::new(NodeId([7; 16]), from, 60, SIZE);
    for _ in 0..SEGMENTS {
        let sealed = chain.seal_next();
        let header = sealed.header();
        let segment = StoredSegment {
            seq: header.seq,
            previous: match header.previous {
                Previous::Follows(hash) => hash,
                Previous::Opens { .. } => Hash::ZERO,
            },
            hash: sealed.hash(),
            covered_through: header.covered_through,
            bytes: sealed.bytes().to_vec(),
        };
        buffer.append(segment, b"").expect("the disk takes it");
    }
}

fn drain(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let stream = StreamId([7; 16]);
    let (mut buffer, _) =
        Buffer::open(folder.path(), Settings::default(), stream).expect("a buffer");
    backlog(&mut buffer);
    let mut group = criterion.benchmark_group("drain");
    group.sample_size(10);
    group.throughput(Throughput::Elements((SEGMENTS * SIZE.intervals()) as u64));
    group.bench_function("read, offer, frame", |bencher| {
        bencher.iter(|| {
            let mut next = Seq::FIRST;
            while next < buffer.head().next {
                let batch = buffer
                    .segments_from(next, BATCH.0, BATCH.1)
                    .expect("they are there");
                let last = batch.last().expect("at least one").seq;
                buffer.offered(last).expect("the disk takes it");
                for segment in batch {
                    black_box(Message::Segment(segment.bytes).to_frame());
                }
                next = last.next();
            }
        });
    });
    group.finish();
}

criterion_group!(benches, drain);
criterion_main!(benches);
