//! Whatever is signed: receipts, records, certificates, decisions, checkpoints, proofs of blocks; and the
//! chain of authorities that vouch for keys.

use tallystick_common::audit::{AuditCheckpoint, Checkpoint, SignedCheckpoint};
use tallystick_common::authority::{AuthorityCertificate, AuthorityRecord, read_succession};
use tallystick_common::codec;
use tallystick_common::decision::Decision;
use tallystick_common::evidence::Evidence;
use tallystick_common::ids::NodeId;
use tallystick_common::invoice::IssuedInvoice;
use tallystick_common::keys::{
    AuthorityRetirement, AuthoritySuccession, EnrolmentRecord, KeyRing, ReceiptKeyCertificate,
    SecretKey, Signed, Statement,
};
use tallystick_common::receipt::Receipt;
use tallystick_common::seal::BlockProof;
use tallystick_common::verify::evidence::Trust;

use super::{Input, Output, Target, golden};

pub(super) const STATEMENT: Target = Target {
    name: "statement",
    max_bytes: 4096,
    run,
    seeds,
    words: &["tallystick-checkpoint-1."],
};

/// The first byte names the kind, the next whether the rest is the signed bytes or all.
fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (kind, signed) = (input.byte() % 12, input.byte() % 2 == 0);
    let body = input.0;
    match kind {
        0 => statement::<Receipt>(body, signed),
        1 => statement::<EnrolmentRecord>(body, signed),
        2 => statement::<ReceiptKeyCertificate>(body, signed),
        3 => statement::<AuthoritySuccession>(body, signed),
        4 => statement::<AuthorityRetirement>(body, signed),
        5 => statement::<Decision>(body, signed),
        6 => statement::<IssuedInvoice>(body, signed),
        7 => statement::<AuditCheckpoint>(body, signed),
        8 => proof(body),
        9 => drop(AuthorityCertificate::read(body)),
        10 => {
            if let Ok(records) = codec::decode::<Vec<AuthorityRecord>>(body) {
                let _ = read_succession(&records);
            }
        }
        _ => trust(&String::from_utf8_lossy(body)),
    }
}

fn statement<T: Statement + PartialEq + std::fmt::Debug>(body: &[u8], signed: bool) {
    let key = SecretKey::from_seed(&[0x33; 32]);
    let bytes = if signed {
        codec::encode(&(body.to_vec(), key.sign(T::DOMAIN, body)))
    } else {
        body.to_vec()
    };
    let Ok(read) = Signed::<T>::from_bytes(&bytes) else {
        assert!(!signed, "a signed statement can be read");
        return;
    };
    assert_eq!(read.to_bytes(), bytes, "a statement has one spelling");
    let stranger = SecretKey::from_seed(&[0x34; 32]).public();
    assert!(read.verify(&stranger).is_err(), "a stranger signed nothing");
    if let Ok(said) = read.verify(&key.public()) {
        assert_eq!(Signed::new(&said, &key).to_bytes(), bytes);
    }
}

/// A proof that is not the golden one proves nothing.
fn proof(body: &[u8]) {
    let Ok(proof) = codec::decode::<BlockProof>(body) else {
        return;
    };
    let key = SecretKey::from_seed(&[0x11; 32]).public();
    for node in [NodeId([0xa1; 16]), NodeId([1; 16])] {
        if proof.verify(&KeyRing::new(node, key)).is_ok() {
            assert_eq!(body, golden("block-proof-1"));
        }
    }
}

fn trust(text: &str) {
    if let Ok(checkpoint) = text.parse::<Checkpoint>() {
        assert_eq!(checkpoint.to_string().parse(), Ok(checkpoint));
    }
    if let Ok(signed) = text.parse::<SignedCheckpoint>() {
        assert_eq!(signed.to_string(), text.trim());
    }
    if let Ok(trust) = text.parse::<Trust>() {
        let _ = trust.to_string();
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let seed = |kind, signed: bool, body: &[u8]| {
        let signed = u8::from(!signed);
        Output::default().byte(kind).byte(signed).bytes(body).0
    };
    let mut seeds = Vec::new();
    for (kind, name) in [
        (0, "receipt"),
        (1, "enrolment-record"),
        (2, "receipt-key"),
        (3, "authority-succession"),
        (4, "authority-retirement"),
    ] {
        let whole = golden(name);
        let (body, _): (Vec<u8>, tallystick_common::keys::Signature) =
            codec::decode(&whole).expect("a golden statement");
        seeds.push(seed(kind, true, &body));
        seeds.push(seed(kind, false, &whole));
    }
    let evidence = Evidence::decode(&golden("evidence/invoice-1")).expect("golden evidence");
    for (kind, body) in [
        (6, signed_bytes(&evidence.invoice.word.to_bytes())),
        (7, signed_bytes(&evidence.audit.head.to_bytes())),
        (8, golden("block-proof-1")),
        (9, evidence.authorities[0].certificate.clone()),
        (10, codec::encode(&evidence.authorities)),
    ] {
        seeds.push(seed(kind, true, &body));
    }
    let held = SignedCheckpoint {
        statement: evidence.audit.head.clone(),
        receipt_key: evidence.authorities[0].receipt_key.clone(),
    };
    seeds.push(seed(11, true, held.to_string().as_bytes()));
    let bare = format!("12:{}", "ab".repeat(32));
    seeds.push(seed(11, true, bare.as_bytes()));
    seeds
}

fn signed_bytes(whole: &[u8]) -> Vec<u8> {
    let (body, _): (Vec<u8>, tallystick_common::keys::Signature) =
        codec::decode(whole).expect("a golden statement");
    body
}
