//! Admits every reading exactly once, keeps it, knows what is missing, and bills it.

pub mod authority;
pub mod ingest;
pub mod store;
