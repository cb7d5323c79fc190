//! Admits every reading exactly once, keeps it, knows what is missing, and bills it.
//!
//! ```text
//! ingest ─▶ store ─▶ billing ─▶ api, console, cli
//!                       ▲
//!            catalog ───┘      (whose usage it is, and what it costs)
//! ```

pub mod api;
pub mod audit;
pub mod auth;
pub mod authority;
pub mod backup;
pub mod bans;
pub mod billing;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod decision;
pub mod evidence;
pub mod ingest;
pub mod init;
pub mod metrics;
pub mod overview;
pub mod rollup;
pub mod run;
pub mod service;
pub mod store;
