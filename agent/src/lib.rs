//! Placeholder.
pub mod accrue;
pub mod config;
pub mod sample;
pub mod ship;
