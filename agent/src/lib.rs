//! The agent: meters a node, seals its readings, and keeps them until they are receipted.
//!
//! The way of a reading is the order of the modules: `sample` → `accrue` → (seal, in `station`) →
//! `buffer` → `ship`. What applications report comes in by `intake`. `accrue` and the conversation in `ship` are pure; `sample` is the only user of
//! sysinfo, /proc and /sys, `buffer` the only one of sled, `ship` the only one of quinn.

pub mod accrue;
pub mod buffer;
pub mod config;
pub mod doctor;
pub mod durable;
pub mod figures;
pub mod identity;
pub mod inspect;
pub mod intake;
pub mod lock;
pub mod metrics;
pub mod run;
pub mod sample;
pub mod service;
pub mod ship;
pub mod station;
pub mod status;
pub mod tally;
pub mod thin;
pub mod top;
