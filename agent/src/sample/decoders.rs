//! Doors to the parsers of kernel files, paths of control groups and runtimes' records, for tests that feed
//! them anything.

use std::collections::BTreeSet;

use crate::config::Selection;

use super::origin::Origin;
use super::{mounts, parse, record};

/// A kernel file's text through every parser: how many found something in it.
#[must_use]
pub fn kernel(text: &str) -> usize {
    let counted = BTreeSet::from(["8:0".to_owned(), "259:0".to_owned()]);
    let mut total = parse::DiskUse::default();
    parse::diskstats(text).for_each(|device| total += device.usage);
    let numbers = [
        parse::number(text),
        parse::keyed(text, "usage_usec"),
        parse::keyed(text, "inactive_file"),
        parse::meminfo(text, "MemAvailable"),
        parse::proc_stat_cpu(text),
        parse::proc_stat_steal(text),
        parse::tasks(text),
        parse::blkio(text, &counted).map(|(read, _)| read),
        parse::io_stat(text, &counted).map(|usage| usage.read_bytes),
    ];
    numbers.iter().flatten().count()
        + usize::from(parse::names_a_device(text, &counted))
        + mounts::hierarchies(text).len()
}

/// What a control group's path tells of it.
#[must_use]
pub fn origin(path: &str) -> usize {
    Origin::of(path).labels().len()
}

/// What a runtime's record tells of a container.
#[must_use]
pub fn record(json: &[u8]) -> Option<usize> {
    record::told(json, Selection::default().compile().ok()?)
}
