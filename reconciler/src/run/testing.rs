//! An intake that takes nothing, for tests of what is not ingest.

pub(crate) use super::background::Nothing;
