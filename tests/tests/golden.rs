//! Golden bytes: one of each sealed and wire format, kept for ever.
//!
//! Each value is built here from fixed keys and compared with its file, and the file is read back. A
//! difference means that bytes in customers' hands would no longer be read or made: the format number
//! must change instead. `TALLYSTICK_GOLDEN=write` writes files that do not exist yet; it never
//! overwrites one.

use std::path::PathBuf;

use tallystick_common::codec;
use tallystick_common::ids::{
    BootId, Hash, NodeId, RegisterId, Seq, StoreEpoch, StreamId, WorkloadName,
};
use tallystick_common::keys::{
    AuthorityRetirement, AuthoritySuccession, EnrolmentRecord, KeyRing, ReceiptKeyCertificate,
    SecretKey, Signed,
};
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Cause, Gap, Interval, Quality, Reading};
use tallystick_common::receipt::Receipt;
use tallystick_common::seal::{self, SealedSegment};
use tallystick_common::segment::{
    Basis, Block, CloseReason, HeaderDraft, Previous, Purpose, RunDraft, StreamPosition,
};
use tallystick_common::time::{Micros, Timestamp};
use tallystick_common::wire::{
    Closing, EnrollRequest, Enrolled, FrameDecoder, Hello, InForce, JoinToken, Message, Notice,
    Position, RefusalReason, Refused, Renew, Renewed, Settings, Trust, Versions, Welcome,
};

fn node_key() -> SecretKey {
    SecretKey::from_seed(&[0x11; 32])
}

fn ca_key() -> SecretKey {
    SecretKey::from_seed(&[0x22; 32])
}

fn receipt_key() -> SecretKey {
    SecretKey::from_seed(&[0x33; 32])
}

fn node() -> NodeId {
    NodeId([0xa1; 16])
}

fn stream() -> StreamId {
    StreamId([0xb2; 16])
}

/// 2026-11-22T12:00:00Z and so many seconds.
fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_795_348_800 + seconds).unwrap()
}

fn exact(start: u64, end: u64, quantity: u128) -> Interval {
    let (start, end) = (at(start), at(end));
    let measured = Micros(end.since(start).0 + 12);
    Interval {
        start,
        end,
        quantity,
        quality: Quality::Exact,
        measured,
    }
}

fn host_block() -> Block {
    let mut block = Block::new(WorkloadName::host(), vec![]);
    let cpu = [exact(30, 60, 1_234_567), exact(60, 90, 0)];
    let memory = [exact(30, 60, 96_636_764_160), exact(60, 90, 96_636_764_161)];
    for (register, meter, basis, intervals) in [
        (
            0,
            Meter::CPU_TIME,
            Basis::FirstSeen { raw: 987_654_321 },
            cpu,
        ),
        (
            1,
            Meter::MEMORY_USAGE,
            Basis::FirstSeen { raw: 3_221_225_472 },
            memory,
        ),
    ] {
        let draft = RunDraft {
            register: RegisterId(register),
            meter,
            opened: Some(basis),
            closed: None,
            opening: Reading(0),
            start: at(30),
            intervals: &intervals,
        };
        block.push(&draft).unwrap();
    }
    block
}

fn workload_block() -> Block {
    let labels = vec![("unit".to_owned(), "web.service".to_owned())];
    let mut block = Block::new(WorkloadName::new("cgroup/system.slice").unwrap(), labels);
    let late = Interval {
        quality: Quality::Interpolated(Cause::AgentDown),
        measured: Micros(60_000_000),
        ..exact(0, 60, 5_000_000)
    };
    let lost = Interval {
        quality: Quality::Unmeasured(Cause::SourceUnreadable),
        measured: Micros(0),
        ..exact(60, 75, 0)
    };
    for (register, opened, closed, opening, start, intervals) in [
        (
            2,
            Some(Basis::Birth),
            None,
            0,
            at(30),
            vec![exact(30, 90, 300)],
        ),
        (
            7,
            None,
            Some(CloseReason::Vanished),
            u128::from(u64::MAX) + 1,
            at(0),
            vec![late, lost],
        ),
    ] {
        let draft = RunDraft {
            register: RegisterId(register),
            meter: Meter::CPU_TIME,
            opened,
            closed,
            opening: Reading(opening),
            start,
            intervals: &intervals,
        };
        block.push(&draft).unwrap();
    }
    block
}

fn segment() -> SealedSegment {
    let draft = HeaderDraft {
        node: node(),
        stream: stream(),
        seq: Seq(0),
        previous: Previous::Opens {
            after: Some(StreamPosition {
                stream: StreamId([0xb1; 16]),
                seq: Seq(300),
                hash: Hash([0xc3; 32]),
            }),
        },
        from: at(0),
        covered_through: at(90),
        boot: BootId([0xd4; 16]),
        config: Hash([0xe5; 32]),
        purpose: Purpose::Readings,
        gaps: vec![Gap {
            from: at(0),
            to: at(30),
            cause: Cause::NodeDown,
        }],
    };
    seal::seal(
        draft,
        vec![host_block(), workload_block()],
        [0x5e; 32],
        &node_key(),
    )
    .unwrap()
}

fn next_segment() -> SealedSegment {
    let draft = HeaderDraft {
        node: node(),
        stream: stream(),
        seq: Seq(1),
        previous: Previous::Follows(segment().hash()),
        from: at(90),
        covered_through: at(150),
        boot: BootId([0xd4; 16]),
        config: Hash([0xe5; 32]),
        purpose: Purpose::RotateKey([0x44; 32]),
        gaps: vec![],
    };
    seal::seal(draft, vec![], [0x5f; 32], &node_key()).unwrap()
}

fn receipt() -> Signed<Receipt> {
    let receipt = Receipt {
        node: node(),
        stream: stream(),
        seq: Seq(1),
        hash: next_segment().hash(),
        epoch: StoreEpoch([0xf6; 16]),
        at: at(151),
        since: Seq(0),
        quarantined: vec![Seq(0)],
    };
    Signed::new(&receipt, &receipt_key())
}

fn record() -> Signed<EnrolmentRecord> {
    let record = EnrolmentRecord {
        node: node(),
        name: "edge-1".to_owned(),
        signing_key: node_key().public(),
        from: Seq(0),
        at: at(0),
    };
    Signed::new(&record, &ca_key())
}

fn receipt_key_certificate() -> Signed<ReceiptKeyCertificate> {
    Signed::new(
        &ReceiptKeyCertificate {
            key: receipt_key().public(),
            from: at(0),
        },
        &ca_key(),
    )
}

fn messages() -> Vec<(&'static str, Message)> {
    let position = Position {
        next: Seq(2),
        head: Some(next_segment().hash()),
    };
    let proof = node_key().sign(
        EnrollRequest::PROOF_DOMAIN,
        &EnrollRequest::possession(&[7; 16], b"request"),
    );
    vec![
        (
            "hello",
            Message::Hello(Hello {
                versions: Versions {
                    oldest: 1,
                    newest: 1,
                },
                software: "tallystick-agent 0.1.0".to_owned(),
                node: node(),
                stream: stream(),
                oldest: Seq(1),
                position,
            }),
        ),
        (
            "welcome",
            Message::Welcome(Welcome {
                version: 1,
                server_time: at(152),
                position: Position {
                    next: Seq(0),
                    head: None,
                },
                epoch: StoreEpoch([0xf6; 16]),
                window: 256,
                receipt_keys: vec![receipt_key_certificate()],
            }),
        ),
        ("segment", Message::Segment(next_segment().bytes().to_vec())),
        ("receipt", Message::Receipt(receipt())),
        (
            "refused",
            Message::Refused(Refused {
                seq: Some(Seq(2)),
                reason: RefusalReason::Fork,
                detail: "another segment has this number".to_owned(),
            }),
        ),
        (
            "enroll",
            Message::Enroll(EnrollRequest {
                versions: Versions {
                    oldest: 1,
                    newest: 1,
                },
                token_id: [7; 16],
                secret: [8; 32],
                name: "edge-1".to_owned(),
                signing_key: node_key().public(),
                tls_request: b"request".to_vec(),
                proof,
            }),
        ),
        (
            "enrolled",
            Message::Enrolled(Enrolled {
                version: 1,
                record: record(),
                certificates: vec![b"certificate".to_vec()],
                ca: b"ca".to_vec(),
                receipt_keys: vec![receipt_key_certificate()],
                addresses: vec!["192.0.2.1:8621".to_owned()],
            }),
        ),
        (
            "renew",
            Message::Renew(Renew {
                versions: Versions {
                    oldest: 1,
                    newest: 2,
                },
                software: "tallystick-agent 0.1.0".to_owned(),
                node: node(),
            }),
        ),
        (
            "renewed",
            Message::Renewed(Renewed {
                version: 2,
                server_time: at(153),
                certificates: vec![b"certificate".to_vec()],
                trust: trust(),
            }),
        ),
        (
            "notice",
            Message::Notice(Notice {
                trust: trust(),
                settings: Some(Settings {
                    version: 300,
                    document: "seal_seconds = 60\n".to_owned(),
                }),
            }),
        ),
        (
            "in-force",
            Message::InForce(InForce {
                settings: 300,
                digest: Hash([0x44; 32]),
                problem: Some("seal_seconds: 60".to_owned()),
            }),
        ),
        (
            "closing",
            Message::Closing(Closing {
                code: 6,
                why: "expired".to_owned(),
            }),
        ),
    ]
}

fn next_ca_key() -> SecretKey {
    SecretKey::from_seed(&[0x55; 32])
}

fn succession() -> Signed<AuthoritySuccession> {
    let succession = AuthoritySuccession {
        certificate: b"next ca".to_vec(),
        from: at(120),
    };
    Signed::new(&succession, &ca_key())
}

fn retirement() -> Signed<AuthorityRetirement> {
    let retirement = AuthorityRetirement {
        key: ca_key().public(),
        from: at(121),
    };
    Signed::new(&retirement, &next_ca_key())
}

fn trust() -> Trust {
    Trust {
        successions: vec![succession()],
        retirements: vec![retirement()],
        receipt_keys: vec![receipt_key_certificate()],
        addresses: vec!["192.0.2.1:8621".to_owned()],
    }
}

/// The bytes in `golden/NAME.hex`, after comparing them with `made`.
fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(format!("{name}.hex"));
    let text = data_encoding::HEXLOWER.encode(made);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(96)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    if std::env::var("TALLYSTICK_GOLDEN").as_deref() == Ok("write") && !path.exists() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; TALLYSTICK_GOLDEN=write makes new files",
            path.display()
        )
    });
    assert_eq!(
        kept.lines().collect::<Vec<_>>(),
        lines,
        "the bytes of {name} have changed"
    );
    data_encoding::HEXLOWER
        .decode(kept.replace('\n', "").as_bytes())
        .unwrap()
}

#[test]
fn sealed_segments_keep_their_bytes() {
    let ring = KeyRing::new(node(), node_key().public());
    for (name, made) in [
        ("segment-1", segment()),
        ("segment-1-rotation", next_segment()),
    ] {
        let kept = golden(name, made.bytes());
        let verified = SealedSegment::parse(kept).unwrap().verify(&ring).unwrap();
        assert_eq!(verified.hash(), made.hash());
        assert_eq!(verified.header(), made.header());
    }
    let kept = SealedSegment::parse(golden("segment-1", segment().bytes()))
        .unwrap()
        .verify(&ring)
        .unwrap();
    assert_eq!(kept.blocks(), [workload_block(), host_block()]);
}

#[test]
fn a_proof_of_one_block_keeps_its_bytes() {
    let ring = KeyRing::new(node(), node_key().public());
    let made = segment().prove(1).unwrap();
    let kept: seal::BlockProof =
        codec::decode(&golden("block-proof-1", &codec::encode(&made))).unwrap();
    let (_, block, hash) = kept.verify(&ring).unwrap();
    assert_eq!((block, hash), (host_block(), segment().hash()));
}

#[test]
fn signed_statements_keep_their_bytes() {
    let kept = golden("receipt", &receipt().to_bytes());
    let read = Signed::<Receipt>::from_bytes(&kept)
        .unwrap()
        .verify(&receipt_key().public())
        .unwrap();
    assert_eq!(read.hash, next_segment().hash());
    let kept = golden("enrolment-record", &record().to_bytes());
    let read = Signed::<EnrolmentRecord>::from_bytes(&kept)
        .unwrap()
        .verify(&ca_key().public())
        .unwrap();
    assert_eq!(read.name, "edge-1");
    let kept = golden("authority-succession", &succession().to_bytes());
    let read = Signed::<AuthoritySuccession>::from_bytes(&kept)
        .unwrap()
        .verify(&ca_key().public())
        .unwrap();
    assert_eq!(read.certificate, b"next ca");
    let kept = golden("authority-retirement", &retirement().to_bytes());
    let read = Signed::<AuthorityRetirement>::from_bytes(&kept)
        .unwrap()
        .verify(&next_ca_key().public())
        .unwrap();
    assert_eq!(read.key, ca_key().public());
    let kept = golden("receipt-key", &receipt_key_certificate().to_bytes());
    let read = Signed::<ReceiptKeyCertificate>::from_bytes(&kept)
        .unwrap()
        .verify(&ca_key().public())
        .unwrap();
    assert_eq!(read.key, receipt_key().public());
}

#[test]
fn frames_keep_their_bytes() {
    for (name, message) in messages() {
        let kept = golden(&format!("frame-{name}"), &message.to_frame());
        let mut decoder = FrameDecoder::new();
        decoder.push(&kept);
        assert_eq!(decoder.next_message(), Ok(Some(message)), "{name}");
        assert!(decoder.unread().is_empty());
    }
}

#[test]
fn join_tokens_keep_their_text() {
    let token = JoinToken {
        addresses: vec!["192.0.2.1:8621".to_owned(), "[2001:db8::1]:8621".to_owned()],
        ca: Hash([0x77; 32]),
        id: [7; 16],
        secret: [8; 32],
    };
    let kept = String::from_utf8(golden("join-token", token.to_string().as_bytes())).unwrap();
    assert_eq!(kept.parse(), Ok(token));
}
