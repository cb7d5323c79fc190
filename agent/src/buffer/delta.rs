//! A byte string as its difference from an earlier one: copies and insertions.
//!
//! Owns the form in which segments and open registers are written between two whole copies. Knows nothing of
//! what the bytes mean; two states, or two segments, of one agent share most of theirs, and so do neighbours in one.
//!
//! The difference is a row of steps. A step begins with a varint, `8 * length + code`. Code 0: so many new bytes
//! follow. Else so many are copied from the base and what has been made behind it so far, from a distance back:
//! codes 1 to 4 name one of the last four different distances, the latest first (at the beginning the length of the
//! base, then 1, 2 and 3); with code 5 the distance follows as varint.

/// Shortest copy that is looked for anywhere, not only at the last distances.
const WINDOW: usize = 4;
const INDEX_BITS: u32 = 15;
/// Last distances that are remembered.
const NEAR: usize = 4;
const CODES: usize = 8;
const INSERT: usize = 0;
const FAR: usize = NEAR + 1;
/// A copy that is shorter is put off where the next byte begins a better one.
const LONG_ENOUGH: usize = 32;

/// What turns `base` into `target`.
pub(super) fn encode(base: &[u8], target: &[u8]) -> Vec<u8> {
    let mut search = Search::new(base, target);
    let mut steps = Vec::new();
    let (mut fresh, mut at) = (base.len(), base.len());
    while at < search.source.len() {
        let found = search.best(at);
        let better_next = |copy: &Copy| {
            let next = search.best(at + 1);
            copy.length < LONG_ENOUGH && next.is_some_and(|next| next.saves > copy.saves + 1)
        };
        let Some(copy) = found.filter(|copy| !better_next(copy)) else {
            search.note(at);
            at += 1;
            continue;
        };
        insert(&mut steps, &search.source[fresh..at]);
        copy.put(&mut steps);
        search.recent.note(copy.distance);
        (at..at + copy.length).for_each(|at| search.note(at));
        at += copy.length;
        fresh = at;
    }
    insert(&mut steps, &search.source[fresh..]);
    steps
}

/// What `steps` make of `base`; `None` when they do not fit it or make more than `max_bytes`.
pub(super) fn decode(base: &[u8], mut steps: &[u8], max_bytes: usize) -> Option<Vec<u8>> {
    let mut source = base.to_vec();
    let mut recent = Recent::new(base.len());
    while !steps.is_empty() {
        let step = take_varint(&mut steps)?;
        let (length, code) = (step / CODES, step % CODES);
        if length > max_bytes.checked_sub(source.len() - base.len())? {
            return None;
        }
        let distance = match code {
            INSERT => {
                let (fresh, rest) = steps.split_at_checked(length)?;
                source.extend_from_slice(fresh);
                steps = rest;
                continue;
            }
            FAR => take_varint(&mut steps)?,
            near => *recent.0.get(near - 1)?,
        };
        recent.note(distance);
        let from = source
            .len()
            .checked_sub(distance)
            .filter(|_| distance > 0)?;
        // It may reach into what it makes itself: then that repeats.
        for at in from..from + length {
            source.push(*source.get(at)?);
        }
    }
    Some(source.split_off(base.len()))
}

/// As [`decode`], of steps as the first version wrote them: copies are from the base alone, and a place is an
/// offset in it.
pub(super) fn decode_first(base: &[u8], mut steps: &[u8], max_bytes: usize) -> Option<Vec<u8>> {
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

/// The last different distances, the latest first.
struct Recent([usize; NEAR]);

impl Recent {
    fn new(base: usize) -> Self {
        Self([base.max(1), 1, 2, 3])
    }

    fn note(&mut self, distance: usize) {
        let known = self.0.iter().position(|known| *known == distance);
        self.0[..=known.unwrap_or(NEAR - 1)].rotate_right(1);
        self.0[0] = distance;
    }
}

/// Finds copies.
struct Search {
    /// The base, and the target behind it.
    source: Vec<u8>,
    recent: Recent,
    /// Where each window of bytes was seen last.
    index: Vec<u32>,
}

impl Search {
    fn new(base: &[u8], target: &[u8]) -> Self {
        let mut search = Self {
            source: [base, target].concat(),
            recent: Recent::new(base.len()),
            index: vec![u32::MAX; 1 << INDEX_BITS],
        };
        (0..base.len()).for_each(|at| search.note(at));
        search
    }

    /// The copy at `at` that saves most, if any saves something.
    fn best(&self, at: usize) -> Option<Copy> {
        let ahead = self.source.get(at..)?;
        let near = self.recent.0.iter().copied().zip(1..);
        let far = self.seen(at).map(|from| (at - from, FAR));
        near.chain(far)
            .filter(|(distance, _)| *distance <= at)
            .map(|(distance, code)| {
                let length = common_prefix(&self.source[at - distance..], ahead);
                Copy::of(length, distance, code)
            })
            .max_by_key(|copy| copy.saves)
            .filter(|copy| copy.saves > 0)
    }

    fn note(&mut self, at: usize) {
        if let (Some(slot), Ok(place)) = (self.slot(at), u32::try_from(at)) {
            self.index[slot] = place;
        }
    }

    fn seen(&self, at: usize) -> Option<usize> {
        let place = usize::try_from(self.index[self.slot(at)?]).ok()?;
        (place < at).then_some(place)
    }

    fn slot(&self, at: usize) -> Option<usize> {
        let window: &[u8; WINDOW] = self.source.get(at..)?.first_chunk()?;
        let mixed = u32::from_le_bytes(*window).wrapping_mul(0x9e37_79b1);
        usize::try_from(mixed >> (u32::BITS - INDEX_BITS)).ok()
    }
}

/// A copy that could be a step.
struct Copy {
    length: usize,
    distance: usize,
    code: usize,
    saves: usize,
}

impl Copy {
    fn of(length: usize, distance: usize, code: usize) -> Self {
        let place = if code == FAR {
            varint_bytes(distance)
        } else {
            0
        };
        let cost = varint_bytes(CODES * length + code) + place;
        Self {
            length,
            distance,
            code,
            saves: length.saturating_sub(cost),
        }
    }

    fn put(&self, steps: &mut Vec<u8>) {
        varint(steps, CODES * self.length + self.code);
        if self.code == FAR {
            varint(steps, self.distance);
        }
    }
}

fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    left.iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count()
}

fn insert(steps: &mut Vec<u8>, fresh: &[u8]) {
    if !fresh.is_empty() {
        varint(steps, CODES * fresh.len() + INSERT);
        steps.extend_from_slice(fresh);
    }
}

fn varint_bytes(value: usize) -> usize {
    let bits = usize::BITS - value.leading_zeros();
    usize::try_from(bits.div_ceil(7).max(1)).unwrap_or(usize::MAX)
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
            steps.len() < before.len() / 4,
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
        // Five bytes from eleven back, where ten are; from here itself; from the ninth last distance.
        for steps in [&[8 * 5 + 5, 11][..], &[8 * 5 + 5, 0], &[8 * 5 + 7]] {
            assert_eq!(decode(&[7; 10], steps, 100), None, "{steps:?}");
        }
        assert_eq!(decode(&[7; 10], &[8 * 5 + 5, 10], 100).unwrap(), [7; 5]);
    }

    #[test]
    fn steps_of_the_first_version_are_read() {
        let base = b"cgroup/a 17 cgroup/b 4";
        // Nine bytes from 0, three new ones, nine from 11, one new.
        let steps = b"\x13\x00\x0618,\x13\x0b\x025";
        let made = decode_first(base, steps, 100).unwrap();
        assert_eq!(made, b"cgroup/a 18, cgroup/b5");
        assert_eq!(decode_first(base, steps, 21), None);
        assert_eq!(decode_first(&base[..12], steps, 100), None);
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
            if let Some(target) = decode_first(&base, &steps, 10_000) {
                prop_assert!(target.len() <= 10_000);
            }
        }
    }
}
