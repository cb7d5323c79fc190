use std::path::Path;

use tallystick_common::ids::Seq;
use tallystick_common::seal::SealedSegment;

use super::*;
use crate::buffer::{Buffer, Settings};
use crate::identity::tests::enrolment;
use crate::lock::LockError;

fn config(data: &Path) -> Config {
    Config {
        sample_seconds: 1,
        seal_seconds: 1,
        data: data.to_owned(),
        ..Config::default()
    }
}

fn enrol(data: &Path) {
    let keys = Identity::keys_to_enroll(data).unwrap();
    // Nobody listens there.
    let (_, enrolment) = enrolment(keys, &["127.0.0.1:9"]);
    Identity::store(data, enrolment).unwrap();
}

async fn run_for(data: &Path, duration: Duration) {
    run(config(data), tokio::time::sleep(duration))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_host_that_is_not_enrolled_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = run(config(folder.path()), std::future::pending())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("tallystick-agent enroll"),
        "{error}"
    );
    let error = Status::of(folder.path(), &config(folder.path())).unwrap_err();
    assert!(
        error.to_string().contains("tallystick-agent enroll"),
        "{error}"
    );
}

#[tokio::test]
async fn without_a_reconciler_it_meters_seals_stops_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    enrol(data);
    run_for(data, Duration::from_millis(1_100)).await;
    let first = Status::of(data, &config(data)).unwrap();
    assert!(!first.running && first.next_seq >= Seq(1), "{first:?}");
    assert!(
        first
            .registers
            .iter()
            .any(|register| register.workload.is_host())
    );
    run_for(data, Duration::from_millis(300)).await;
    let second = Status::of(data, &config(data)).unwrap();
    assert_eq!(second.stream, first.stream);
    assert!(second.next_seq > first.next_seq);
    assert_eq!(
        second.unreceipted, second.next_seq.0,
        "nothing is forgotten without a receipt"
    );

    let identity = Identity::load(data).unwrap().unwrap();
    let (mut buffer, recovered) =
        Buffer::open(&data.join("buffer"), Settings::default(), StreamId([1; 16])).unwrap();
    assert_eq!(recovered.reports, []);
    for segment in buffer
        .segments_from(Seq::FIRST, usize::MAX, usize::MAX)
        .unwrap()
    {
        let sealed = SealedSegment::parse(segment.bytes).unwrap();
        sealed.verify(&identity.key_ring()).unwrap();
    }
}

#[tokio::test]
async fn a_second_agent_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    enrol(folder.path());
    let _lock = DataLock::acquire(folder.path()).unwrap();
    let error = run(config(folder.path()), std::future::pending())
        .await
        .unwrap_err();
    assert!(
        matches!(error, RunError::Lock(LockError::Held(_))),
        "{error}"
    );
    let status = Status::of(folder.path(), &config(folder.path())).unwrap();
    assert!(status.running && status.table(now()).to_string().contains("running"));
}
