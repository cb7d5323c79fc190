//! Evidence that somebody changed without any key: it never stands, whatever the customer trusts by.

use std::sync::OnceLock;

use tallystick_common::evidence::Evidence;
use tallystick_common::ids::Hash;
use tallystick_common::keys::SecretKey;
use tallystick_common::verify::evidence::{Trust, verify};

use super::{Input, Output, Target, golden};

pub(super) const EVIDENCE: Target = Target {
    name: "evidence",
    max_bytes: 512,
    run,
    seeds,
    words: &["tallystick-proof"],
};

/// The golden files, and what bears them out.
fn files() -> &'static [(Vec<u8>, Vec<Trust>)] {
    static FILES: OnceLock<Vec<(Vec<u8>, Vec<Trust>)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let names = ["evidence/invoice-1", "evidence/correction-2"];
        let files = names.map(|name| {
            let file = golden(name);
            let node = SecretKey::from_seed(&[5; 32]).public();
            let mut trust = vec![Trust::Key(Hash(node.0))];
            let evidence = Evidence::decode(&file).expect("golden evidence");
            trust.push(Trust::Checkpoint(held(&evidence)));
            (file, trust)
        });
        files.to_vec()
    })
}

fn held(evidence: &Evidence) -> tallystick_common::audit::Checkpoint {
    let before = tallystick_common::audit::Checkpoint {
        entries: evidence.audit.seq - 1,
        head: evidence.audit.previous,
    };
    before.then(&evidence.audit.entry.hash())
}

/// The first byte: which file is changed; 2 is the bare bytes. Then changes.
fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let which = usize::from(input.byte() % 3);
    let Some((file, trust)) = files().get(which) else {
        assert!(verify(input.0, &[], None).is_err());
        return;
    };
    let changed = changed(file, &mut input);
    match verify(&changed, trust, None) {
        Ok(report) => {
            assert!(changed == *file, "changed evidence stands");
            assert!(report.standing.authenticated);
            let _ = report.to_string();
        }
        Err(difference) => {
            assert!(changed != *file, "{difference}");
        }
    }
}

/// Bytes after the changes that the input says, each at an offset: set, removed, put in, or copied from
/// elsewhere.
pub(super) fn changed(bytes: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..8 {
        if input.is_empty() || bytes.is_empty() {
            break;
        }
        let how = input.byte();
        let at = (usize::from(input.byte()) << 16 | usize::from(input.short())) % bytes.len();
        let length = usize::from(how >> 3);
        match how % 5 {
            0 => bytes[at] ^= input.byte(),
            1 => drop(bytes.drain(at..bytes.len().min(at + length + 1))),
            2 => {
                let fresh: Vec<u8> = (0..=length).map(|_| input.byte()).collect();
                drop(bytes.splice(at..at, fresh));
            }
            3 => {
                let fresh: Vec<u8> = (0..=length).map(|_| input.byte()).collect();
                let end = bytes.len().min(at + fresh.len());
                drop(bytes.splice(at..end, fresh));
            }
            _ => {
                let from = usize::from(input.short()) % bytes.len();
                let copied = bytes[from..bytes.len().min(from + length + 1)].to_vec();
                let end = bytes.len().min(at + copied.len());
                drop(bytes.splice(at..end, copied));
            }
        }
    }
    bytes
}

/// A change at an offset.
pub(super) fn change(out: Output, how: u8, at: usize) -> Output {
    let [low, middle, high, ..] = at.to_le_bytes();
    out.byte(how).byte(high).bytes(&[low, middle])
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1], vec![2]];
    for which in 0..2u8 {
        for at in (0..files()[usize::from(which)].0.len()).step_by(1500) {
            let how = u8::try_from(at / 1500 % 5).expect("it is small");
            let out = change(Output::default().byte(which), how, at);
            seeds.push(out.byte(1).short(7).0);
        }
    }
    let bare = &files()[0].0[..400];
    seeds.push(Output::default().byte(2).bytes(bare).0);
    seeds
}
