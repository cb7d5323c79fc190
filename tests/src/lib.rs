//! Both sides of the way, and what is needed to test them.
//!
//! `process` and `sides` run the product's binaries, `world` runs both sides in the test's own process;
//! `month` meters a made-up host for days;
//! `fixture` makes segments of any size, `bench` whole fleets of them. Nothing here listens elsewhere than
//! on loopback, on a port that the kernel chose.

pub mod bench;
pub mod browser;
pub mod cgroup;
pub mod draw;
pub mod evidence;
pub mod fixture;
pub mod fuzz;
pub mod group;
pub mod halves;
pub mod http;
pub mod month;
pub mod poll;
pub mod postgres;
pub mod process;
pub mod relay;
pub mod sides;
pub mod simulation;
pub mod vm;
pub mod world;
