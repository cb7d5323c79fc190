//! What agent, reconciler and a customer's verifier must compute alike.
//!
//! No I/O, no clock, no async: time, keys and bytes are passed in, so every rule in here can be
//! replayed anywhere.

pub mod failpoint;
pub mod ids;
pub mod meter;
pub mod reading;
pub mod time;
