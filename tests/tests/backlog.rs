//! What a month's backlog costs the agent in memory, as the kernel counts it.

use std::time::Duration;

use tallystick_agent::buffer::{Buffer, Handle, Settings};
use tallystick_agent::station::Station;
use tallystick_common::ids::{NodeId, StreamId};
use tallystick_common::keys::SecretKey;
use tallystick_common::time::{Micros, QUARTER_HOUR_US};
use tallystick_tests::month::{DAY_S, DAYS, Host, SEGMENTS, accrual, meter};
use tallystick_tests::poll;
use tallystick_tests::sides::Sides;
use tallystick_tests::world::now;

fn kibibytes(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "takes minutes and 800 MB of disk: a measurement"]
fn a_months_backlog_in_memory() {
    let mut sides = Sides::prepare(&["nothing-of-that-name"]).unwrap();
    let reconciler = sides.reconciler.take().unwrap();
    assert!(reconciler.terminate().unwrap().success());
    let stream = StreamId([7; 16]);
    let (buffer, _) = Buffer::open(&sides.buffer(), Settings::default(), stream).unwrap();
    let buffer = Handle::new(buffer);
    let month = Micros::from_seconds(DAYS * DAY_S);
    let mut host = Host::new(now().saturating_sub(month).floor_to(QUARTER_HOUR_US));
    let key = SecretKey::from_seed(&[7; 32]);
    let mut station = Station::new(NodeId([7; 16]), key, accrual(), buffer.clone(), None).unwrap();
    meter(&mut station, &mut host, DAYS);
    buffer.lock().flush().unwrap();
    let bytes = buffer.stats().bytes;
    drop((station, buffer));
    sides.start_agent(None).unwrap();
    let patience = Duration::from_secs(120);
    poll::until(patience, "twenty seals of the agent", || {
        (sides.journal().ok()?.head.next.0 >= SEGMENTS + 20).then_some(())
    });
    let pid = sides.agent.as_ref().unwrap().id();
    let (rss, peak) = (kibibytes(pid, "VmRSS:"), kibibytes(pid, "VmHWM:"));
    println!("{bytes} bytes of buffer; RSS {rss} KiB, at most {peak} KiB");
    assert!(rss <= 24 << 10, "{rss} KiB");
}
