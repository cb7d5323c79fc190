//! Seal and verify, per size of segment. Elements are intervals.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tallystick_common::ids::NodeId;
use tallystick_common::seal::SealedSegment;
use tallystick_common::time::Timestamp;
use tallystick_tests::fixture::{Chain, Size};

/// (a) a backlog's segments, (b) one interval per register, and a small agent's.
const SIZES: [(&str, Size); 3] = [
    (
        "20x10x5",
        Size {
            workloads: 20,
            meters: 10,
            steps: 5,
        },
    ),
    (
        "20x8x1",
        Size {
            workloads: 20,
            meters: 8,
            steps: 1,
        },
    ),
    (
        "4x8x1",
        Size {
            workloads: 4,
            meters: 8,
            steps: 1,
        },
    ),
];

fn chain(size: Size) -> Chain {
    Chain::new(
        NodeId([7; 16]),
        Timestamp::from_seconds(1_795_348_800).expect("an instant"),
        60,
        size,
    )
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for (name, size) in SIZES {
        group.throughput(Throughput::Elements(size.intervals() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let mut chain = chain(size);
            bencher.iter(|| black_box(chain.seal_next()));
        });
    }
    group.finish();
}

fn verify(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verify");
    for (name, size) in SIZES {
        let mut chain = chain(size);
        let bytes = chain.seal_next().bytes().to_vec();
        let ring = chain.ring();
        println!(
            "{name}: {} bytes, {} per 1,000 intervals",
            bytes.len(),
            bytes.len() * 1000 / size.intervals()
        );
        group.throughput(Throughput::Elements(size.intervals() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_batched(
                || bytes.clone(),
                |bytes| {
                    SealedSegment::parse(bytes)
                        .and_then(|read| read.verify(&ring))
                        .expect("it verifies")
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, seal, verify);
criterion_main!(benches);
