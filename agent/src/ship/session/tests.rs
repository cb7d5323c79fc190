use tallystick_common::ids::StoreEpoch;
use tallystick_common::keys::SecretKey;
use tallystick_common::time::Timestamp;

use super::*;

const NODE: NodeId = NodeId([1; 16]);
const STREAM: StreamId = StreamId([2; 16]);

fn ca() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

fn receipt_key() -> SecretKey {
    SecretKey::from_seed(&[4; 32])
}

fn hash(seq: Seq) -> Hash {
    Hash(*blake3::hash(&seq.0.to_be_bytes()).as_bytes())
}

fn position(next: u64) -> Position {
    Position {
        next: Seq(next),
        head: next.checked_sub(1).map(|last| hash(Seq(last))),
    }
}

fn party() -> Party {
    let (node, stream, authorities) = (NODE, STREAM, vec![ca().public()]);
    Party {
        node,
        stream,
        authorities,
        receipt_keys: vec![],
        software: "test".to_owned(),
    }
}

/// The reconciler's side, as far as an agent sees it.
struct Reconciler {
    holds: u64,
}

impl Reconciler {
    fn welcome(&self) -> Welcome {
        let key = ReceiptKeyCertificate {
            key: receipt_key().public(),
            from: Timestamp::EPOCH,
        };
        Welcome {
            version: 1,
            server_time: Timestamp::EPOCH,
            position: position(self.holds),
            epoch: StoreEpoch::ZERO,
            window: 16,
            receipt_keys: vec![Signed::new(&key, &ca())],
        }
    }

    fn receipt(&self) -> Receipt {
        let seq = Seq(self.holds - 1);
        Receipt {
            node: NODE,
            stream: STREAM,
            seq,
            hash: hash(seq),
            epoch: StoreEpoch::ZERO,
            at: Timestamp::EPOCH,
            since: Seq::FIRST,
            quarantined: vec![],
        }
    }
}

/// The buffer's side.
struct Buffer {
    sealed: u64,
    receipted: Option<Seq>,
}

impl Buffer {
    fn holdings(&self) -> Holdings {
        let oldest = self.receipted.map_or(Seq::FIRST, Seq::next);
        Holdings {
            oldest,
            position: position(self.sealed),
            receipted: self.receipted,
        }
    }

    fn known(&self, seq: Seq) -> Option<Hash> {
        (seq.0 < self.sealed).then(|| hash(seq))
    }
}

fn welcomed(now: Instant, buffer: &Buffer, reconciler: &Reconciler) -> Session {
    let mut session = Session::new(party(), now);
    let welcome = reconciler.welcome();
    let known = welcome
        .position
        .next
        .0
        .checked_sub(1)
        .and_then(|last| buffer.known(Seq(last)));
    session
        .handle_welcome(now, &welcome, &buffer.holdings(), known)
        .unwrap();
    session
}

fn consequence(welcome: &Welcome, buffer: &Buffer, known: Option<Hash>) -> Consequence {
    let now = Instant::now();
    Session::new(party(), now)
        .handle_welcome(now, welcome, &buffer.holdings(), known)
        .unwrap_err()
}

#[test]
fn a_week_offline_with_lost_receipts_arrives_once_and_in_order() {
    let mut now = Instant::now();
    let mut buffer = Buffer {
        sealed: 7 * 24 * 60,
        receipted: None,
    };
    let mut reconciler = Reconciler { holds: 0 };
    let mut sent = 0_u64;
    for attempt in 0.. {
        let mut session = welcomed(now, &buffer, &reconciler);
        for step in 0.. {
            while let Some(seq) = session.poll_send(Seq(buffer.sealed)) {
                assert_eq!(seq.0, sent.min(seq.0), "no segment is skipped");
                session.handle_sent(now, seq);
                reconciler.holds = reconciler.holds.max(seq.0 + 1);
                sent = sent.max(seq.0 + 1);
            }
            now += Duration::from_millis(1);
            if session.is_settled(Seq(buffer.sealed)) || step == 97 {
                break;
            }
            // Every third answer is lost, together with the connection now and then.
            if (attempt + step) % 3 != 0 {
                let receipt =
                    session.read_receipt(&Signed::new(&reconciler.receipt(), &receipt_key()));
                let receipt = receipt.unwrap();
                if session
                    .handle_receipt(now, &receipt, buffer.known(receipt.seq))
                    .unwrap()
                {
                    assert!(buffer.receipted.is_none_or(|before| before < receipt.seq));
                    buffer.receipted = Some(receipt.seq);
                }
            }
        }
        if session.is_settled(Seq(buffer.sealed)) {
            break;
        }
    }
    assert_eq!(sent, buffer.sealed);
    assert_eq!(buffer.receipted, Some(Seq(buffer.sealed - 1)));
}

#[test]
fn the_window_is_kept() {
    let now = Instant::now();
    let buffer = Buffer {
        sealed: 100,
        receipted: None,
    };
    let mut session = welcomed(now, &buffer, &Reconciler { holds: 0 });
    let mut sent = 0;
    while let Some(seq) = session.poll_send(Seq(100)) {
        session.handle_sent(now, seq);
        sent += 1;
    }
    assert_eq!((sent, session.room()), (16, 0));
    let receipt = Reconciler { holds: 10 }.receipt();
    assert_eq!(
        session.handle_receipt(now, &receipt, buffer.known(receipt.seq)),
        Ok(true)
    );
    assert_eq!(session.room(), 10);
    assert_eq!(
        session.handle_receipt(now, &receipt, buffer.known(receipt.seq)),
        Ok(false),
        "no news"
    );
}

#[test]
fn kept_segments_are_sent_again_to_a_restored_reconciler() {
    let buffer = Buffer {
        sealed: 50,
        receipted: None,
    };
    let session = welcomed(Instant::now(), &buffer, &Reconciler { holds: 20 });
    assert_eq!(session.poll_send(Seq(50)), Some(Seq(20)));
    let deleted = Buffer {
        sealed: 50,
        receipted: Some(Seq(29)),
    };
    let held = consequence(&Reconciler { holds: 20 }.welcome(), &deleted, None);
    assert!(
        matches!(held, Consequence::Hold(_)),
        "what is kept is not given up: {held:?}"
    );
}

#[test]
fn a_rolled_back_or_cloned_buffer_ends_its_stream() {
    let buffer = Buffer {
        sealed: 50,
        receipted: None,
    };
    let ahead = consequence(&Reconciler { holds: 60 }.welcome(), &buffer, None);
    let over = StreamOver::RolledBack {
        theirs: Seq(60),
        ours: Seq(50),
    };
    assert_eq!(ahead, Consequence::StreamOver(over));
    let welcome = Reconciler { holds: 40 }.welcome();
    let other = consequence(&welcome, &buffer, Some(Hash([0xee; 32])));
    assert_eq!(
        other,
        Consequence::StreamOver(StreamOver::OtherHash { seq: Seq(39) })
    );
}

#[test]
fn only_true_receipts_are_believed() {
    let now = Instant::now();
    let buffer = Buffer {
        sealed: 50,
        receipted: None,
    };
    let mut session = welcomed(now, &buffer, &Reconciler { holds: 0 });
    let receipt = Reconciler { holds: 10 }.receipt();
    let forged = Signed::new(&receipt, &SecretKey::from_seed(&[9; 32]));
    assert_eq!(session.read_receipt(&forged), Err(BadReceipt::Signature));
    let other = Receipt {
        stream: StreamId([8; 16]),
        ..receipt.clone()
    };
    assert_eq!(
        session.read_receipt(&Signed::new(&other, &receipt_key())),
        Err(BadReceipt::Stream)
    );
    let wrong = session.handle_receipt(now, &receipt, Some(Hash([0; 32])));
    assert_eq!(wrong, Err(BadReceipt::Hash(Seq(9))));
    let future = Reconciler { holds: 99 }.receipt();
    let unknown = session.handle_receipt(now, &future, buffer.known(future.seq));
    assert_eq!(unknown, Err(BadReceipt::Unknown(Seq(98))));
}

#[test]
fn a_receipt_key_that_the_ca_did_not_certify_signs_nothing() {
    let now = Instant::now();
    let foreign = ReceiptKeyCertificate {
        key: receipt_key().public(),
        from: Timestamp::EPOCH,
    };
    let mut welcome = Reconciler { holds: 0 }.welcome();
    welcome.receipt_keys = vec![Signed::new(&foreign, &SecretKey::from_seed(&[9; 32]))];
    let buffer = Buffer {
        sealed: 50,
        receipted: None,
    };
    let mut session = Session::new(party(), now);
    session
        .handle_welcome(now, &welcome, &buffer.holdings(), None)
        .unwrap();
    let signed = Signed::new(&Reconciler { holds: 1 }.receipt(), &receipt_key());
    assert_eq!(session.read_receipt(&signed), Err(BadReceipt::Signature));
}

#[test]
fn what_is_refused_for_ever_is_not_sent_for_ever() {
    let session = Session::new(party(), Instant::now());
    let refused = |seq, reason| {
        session.handle_refused(&Refused {
            seq,
            reason,
            detail: String::new(),
        })
    };
    let over = refused(Some(Seq(7)), RefusalReason::Fork);
    assert!(matches!(
        over,
        Consequence::StreamOver(StreamOver::Refused { seq: Seq(7), .. })
    ));
    for reason in [
        RefusalReason::Banned,
        RefusalReason::Version,
        RefusalReason::UnknownNode,
    ] {
        assert!(
            matches!(refused(None, reason), Consequence::Hold(_)),
            "{reason}"
        );
    }
    let banned = refused(Some(Seq(7)), RefusalReason::Banned);
    assert!(
        matches!(banned, Consequence::Hold(_)),
        "a ban is about the node, not the stream"
    );
    let first = refused(Some(Seq::FIRST), RefusalReason::Format);
    assert!(
        matches!(first, Consequence::Hold(_)),
        "another stream would be refused alike"
    );
    assert!(matches!(
        refused(Some(Seq(7)), RefusalReason::NewerFormat),
        Consequence::Hold(_)
    ));
    assert!(matches!(
        refused(None, RefusalReason::Busy),
        Consequence::Retry(_)
    ));
}

#[test]
fn a_connection_without_receipts_is_given_up() {
    let now = Instant::now();
    let buffer = Buffer {
        sealed: 50,
        receipted: None,
    };
    let mut session = welcomed(now, &buffer, &Reconciler { holds: 0 });
    assert_eq!(session.poll_timeout(), None, "nothing is awaited");
    session.handle_sent(now, Seq(0));
    assert_eq!(session.poll_timeout(), Some(now + RECEIPT_WITHIN));
}

#[test]
fn only_a_new_receipt_makes_a_connection_one_of_use() {
    let now = Instant::now();
    let buffer = Buffer {
        sealed: 50,
        receipted: Some(Seq(9)),
    };
    let mut session = welcomed(now, &buffer, &Reconciler { holds: 10 });
    assert!(!session.came_forward(), "a welcome alone does not");
    for (holds, expected) in [(10, false), (11, true)] {
        let receipt = Reconciler { holds }.receipt();
        let known = buffer.known(receipt.seq);
        session.handle_receipt(now, &receipt, known).unwrap();
        assert_eq!(session.came_forward(), expected, "{holds} held");
    }
}
