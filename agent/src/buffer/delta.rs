//! A byte string as its difference from an earlier one: copies and insertions.
//!
//! Owns the form in which open registers are journaled between two full copies. Knows nothing of
//! what the bytes mean; two states of one agent share most of theirs.
//!
//! The difference is a row of steps. A step begins with a varint `n`: even means `n / 2` new bytes
//! follow, odd means `n / 2` bytes are copied from the base, from the offset that follows as varint.

use std::collections::HashMap;

/// Shortest copy that is worth a step.
const WINDOW: usize = 8;
/// Every how many bytes of the base a copy may be found.
const STRIDE: usize = 4;

/// What turns `base` into `target`.
pub(super) fn encode(base: &[u8], target: &[u8]) -> Vec<u8> {
    let index = index(base);
    let mut steps = Vec::new();
    let (mut fresh, mut at) = (0, 0);
    while at < target.len() {
        let Some(found) = window(target, at).and_then(|window| index.get(window)) else {
            at += 1;
            continue;
        };
        let back = common_suffix(&base[..*found], &target[fresh..at]);
        let (from, start) = (*found - back, at - back);
        let length = common_prefix(&base[from..], &target[start..]);
        insert(&mut steps, &target[fresh..start]);
        varint(&mut steps, 2 * length + 1);
        varint(&mut steps, from);
        at = start + length;
        fresh = at;
    }
    insert(&mut steps, &target[fresh..]);
    steps
}

/// What `steps` make of `base`; `None` when they do not fit it or make more than `max_bytes`.
pub(super) fn decode(base: &[u8], mut steps: &[u8], max_bytes: usize) -> Option<Vec<u8>> {
    let mut target = Vec::new();
    while !steps.is_empty() {
        let step = take_varint(&mut steps)?;
        let length = step / 2;
        if length > max_bytes.checked_sub(target.len())? {
            return None;
        }
        if step % 2 == 0 {
            let (fresh, rest) = steps.split_at_checked(length)?;
            target.extend_from_slice(fresh);
            steps = rest;
        } else {
            let from = take_varint(&mut steps)?;
            target.extend_from_slice(base.get(from..from.checked_add(length)?)?);
        }
    }
    Some(target)
}

fn index(base: &[u8]) -> HashMap<[u8; WINDOW], usize> {
    let mut index = HashMap::with_capacity(base.len() / STRIDE);
    for at in (0..base.len()).step_by(STRIDE) {
        if let Some(window) = window(base, at) {
            index.entry(*window).or_insert(at);
        }
    }
    index
}

fn window(bytes: &[u8], at: usize) -> Option<&[u8; WINDOW]> {
    bytes.get(at..)?.first_chunk()
}

fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count()
}

fn common_suffix(left: &[u8], right: &[u8]) -> usize {
    left.iter()
        .rev()
        .zip(right.iter().rev())
        .take_while(|(left, right)| left == right)
        .count()
}

fn insert(steps: &mut Vec<u8>, fresh: &[u8]) {
    if !fresh.is_empty() {
        varint(steps, 2 * fresh.len());
        steps.extend_from_slice(fresh);
    }
}

fn varint(steps: &mut Vec<u8>, mut value: usize) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return steps.push(low & 0x7f);
        }
        steps.push(low | 0x80);
    }
}

fn take_varint(steps: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (byte, rest) = steps.split_first()?;
        *steps = rest;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn registers_that_moved_cost_little_more_than_their_readings() {
        let state = |moved: u64| -> Vec<u8> {
            (0..200u64)
                .flat_map(|id| {
                    let mut register =
                        format!("cgroup/system.slice/unit-{id:04}.service").into_bytes();
                    register.extend((id * 7_919 + moved).to_le_bytes());
                    register
                })
                .collect()
        };
        let (before, after) = (state(0), state(123_456));
        let steps = encode(&before, &after);
        assert!(
            steps.len() < before.len() / 2,
            "{} of {}",
            steps.len(),
            before.len()
        );
        assert_eq!(decode(&before, &steps, after.len()), Some(after));
    }

    #[test]
    fn steps_that_make_too_much_are_refused() {
        let steps = encode(&[7; 100], &[7; 100]);
        assert!(decode(&[7; 100], &steps, 99).is_none());
        assert!(decode(&[7; 10], &steps, 100).is_none());
    }

    proptest! {
        #[test]
        fn any_target_comes_back(
            base in proptest::collection::vec(0u8..4, 0..400),
            target in proptest::collection::vec(0u8..4, 0..400),
            splice in 0usize..400,
        ) {
            let mut spliced = base.clone();
            let at = splice.min(spliced.len());
            spliced.splice(at..at, target.iter().copied());
            for target in [target, spliced] {
                prop_assert_eq!(decode(&base, &encode(&base, &target), 1000), Some(target));
            }
        }

        #[test]
        fn any_steps_are_survived(base: Vec<u8>, steps: Vec<u8>) {
            if let Some(target) = decode(&base, &steps, 10_000) {
                prop_assert!(target.len() <= 10_000);
            }
        }
    }
}
