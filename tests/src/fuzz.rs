//! What is fuzzed: every decoder of bytes or text that somebody else wrote, with what must hold of it.
//!
//! A target is a function of bytes that panics when something is wrong. `tests/fuzz` gives it to libFuzzer,
//! `tests/corpora.rs` runs it over what libFuzzer kept. Where bytes are checksummed, signed or hashed, the input
//! is what stands inside, and the target puts checksum, hash and signature around it; another byte of input
//! chooses the bare bytes.

use std::path::{Path, PathBuf};

pub mod corpus;
mod evidence;
mod forged;
mod input;
mod intake;
mod journal;
mod kernel;
mod names;
mod plan;
mod statement;
mod stream;
mod token;
mod wire;

pub use forged::make as make_forgeable;
pub use input::{Input, Output};

/// One thing that is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and its corpus'.
    pub name: &'static str,
    /// Longest input in bytes.
    pub max_bytes: usize,
    /// Panics when something does not hold.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that stand in good inputs.
    pub words: &'static [&'static str],
}

/// Every one.
pub const TARGETS: &[Target] = &[
    wire::FRAMES,
    wire::MESSAGES,
    stream::STREAM,
    stream::BLOCK,
    statement::STATEMENT,
    token::TOKEN,
    evidence::EVIDENCE,
    forged::FORGED,
    plan::PLAN,
    plan::SETTINGS,
    journal::JOURNAL,
    journal::DELTA,
    journal::RECORDS,
    intake::EVENTS,
    intake::OTLP,
    intake::EXPOSITION,
    kernel::KERNEL,
    names::NAMES,
];

/// The target with that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Where corpora and larger seeds are kept.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Bytes that stand in a file of hexadecimal lines.
///
/// # Panics
/// When the file is not there or something else.
#[must_use]
pub fn hex_file(path: &Path) -> Vec<u8> {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: String = text.split_whitespace().collect();
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(digits.as_bytes())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A golden file's bytes.
fn golden(name: &str) -> Vec<u8> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    hex_file(&tests.join("golden").join(format!("{name}.hex")))
}

/// Texts as inputs.
fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
