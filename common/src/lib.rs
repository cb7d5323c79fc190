//! What agent, reconciler and a customer's verifier must compute alike.
//!
//! No I/O, no clock, no async: time, keys and bytes are passed in, so every rule in here can be
//! replayed anywhere.

pub mod application;
pub mod audit;
pub mod authority;
pub mod chain;
pub mod codec;
pub mod correction;
pub mod decision;
pub mod evidence;
pub mod failpoint;
pub mod ids;
pub mod invoice;
pub mod keys;
#[cfg(feature = "logfmt")]
pub mod logfmt;
pub mod meter;
pub mod money;
pub mod odometer;
pub mod packing;
pub mod pattern;
pub mod period;
pub mod price;
pub mod rating;
pub mod reading;
pub mod receipt;
pub mod seal;
pub mod segment;
pub mod statement;
pub mod tiling;
pub mod time;
pub mod told;
pub mod verify;
pub mod wire;
