//! One connection from `Hello` to its end: carries what the session decides between buffer and link.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tallystick_common::failpoint;
use tallystick_common::keys::Signed;
use tallystick_common::receipt::Receipt;
use tallystick_common::wire::{CloseCode, Message, Position, Welcome};
use tokio::sync::{mpsc, watch};

use super::backoff::Backoff;
use super::connection::{self, ConnectError, Link};
use super::session::{Consequence, Holdings, Party, Session, StreamOver};
use super::{ShipEvent, Shipping, before, stopped, tls};
use crate::buffer::{BufferError, Handle, ReceiptMark, StoredSegment};

/// Most that is read from the buffer at once.
const BATCH_SEGMENTS: usize = 64;
/// The same in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Segments handed to the socket's side ahead of it.
const WRITE_AHEAD: usize = 4;

/// How long a broken link is listened to.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);

/// How a conversation ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// We were asked to stop.
    Stopped,
    /// The buffer began another stream.
    NewStream,
    /// The stream cannot go on.
    StreamOver(StreamOver),
    /// Nothing will change until somebody acts.
    Hold(String),
    /// To be tried again.
    Retry(String),
}

impl From<Consequence> for Ending {
    fn from(consequence: Consequence) -> Self {
        match consequence {
            Consequence::StreamOver(over) => Self::StreamOver(over),
            Consequence::Hold(why) => Self::Hold(why),
            Consequence::Retry(why) => Self::Retry(why),
        }
    }
}

impl From<ConnectError> for Ending {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Tls(_) => Self::Hold(error.to_string()),
            ConnectError::Closed {
                code: Some(CloseCode::Refused),
                reason,
            } => Self::Hold(reason),
            _ => Self::Retry(error.to_string()),
        }
    }
}

impl From<BufferError> for Ending {
    fn from(error: BufferError) -> Self {
        Self::Retry(error.to_string())
    }
}

/// What one conversation is about.
pub(super) struct Conversation<'a, T> {
    pub(super) shipping: &'a Shipping,
    pub(super) party: Party,
    pub(super) address: Option<&'a String>,
    pub(super) buffer: &'a Handle,
    pub(super) tell: &'a T,
}

impl<T: Fn(ShipEvent)> Conversation<'_, T> {
    /// Connects and talks until something ends it.
    pub(super) async fn hold(
        self,
        backoff: &mut Backoff,
        mut shutdown: watch::Receiver<bool>,
    ) -> Ending {
        let meeting = tokio::select! {
            () = stopped(&mut shutdown) => return Ending::Stopped,
            met = self.meet() => met,
        };
        match meeting {
            Ok((link, mut session)) => {
                let ending = self.talk(link, &mut session, shutdown).await;
                if session.came_forward() {
                    backoff.reset();
                }
                ending
            }
            Err(ending) => ending,
        }
    }

    /// Connects and exchanges `Hello` and `Welcome`.
    async fn meet(&self) -> Result<(Link, Session), Ending> {
        let address = self.address.ok_or_else(|| {
            Ending::Hold("no address of a reconciler is known; enrol again".to_owned())
        })?;
        let config = tls(self.shipping).map_err(ConnectError::Tls)?;
        let mut link = connection::connect(address, config).await?;
        let mut session = Session::new(self.party.clone(), Instant::now());
        let holdings = self.holdings().await?;
        link.send(&Message::Hello(session.hello(&holdings))).await?;
        let answer = tokio::time::timeout(connection::ANSWER_WITHIN, link.receive())
            .await
            .map_err(|_| ConnectError::Slow)??;
        let welcome = match answer {
            Message::Welcome(welcome) => welcome,
            Message::Refused(refused) => return Err(session.handle_refused(&refused).into()),
            other => {
                return Err(Ending::Retry(format!(
                    "a {:?} message instead of a welcome",
                    other.kind()
                )));
            }
        };
        let known = match before(welcome.position.next) {
            Some(last) => self.buffer.hash_at(last).await?,
            None => None,
        };
        session.handle_welcome(Instant::now(), &welcome, &holdings, known)?;
        self.tell_connected(address, welcome);
        Ok((link, session))
    }

    fn tell_connected(&self, address: &str, welcome: Welcome) {
        let ca = &self.party.ca;
        let receipt_keys = welcome.receipt_keys.into_iter();
        (self.tell)(ShipEvent::Connected {
            address: address.to_owned(),
            server_time: welcome.server_time,
            epoch: welcome.epoch,
            receipt_keys: receipt_keys.filter(|key| key.verify(ca).is_ok()).collect(),
        });
    }

    async fn holdings(&self) -> Result<Holdings, BufferError> {
        self.buffer
            .work(|buffer| {
                let head = buffer.head();
                Ok(Holdings {
                    oldest: buffer.oldest_held(),
                    position: Position {
                        next: head.next,
                        head: head.last().map(|_| head.hash),
                    },
                    receipted: buffer.last_receipt().map(|receipt| receipt.through),
                })
            })
            .await
    }

    /// Sends, and takes answers, until something ends it.
    async fn talk(
        &self,
        link: Link,
        session: &mut Session,
        shutdown: watch::Receiver<bool>,
    ) -> Ending {
        let (mut sender, mut receiver, closer) = link.split();
        let (hand, mut handed) = mpsc::channel::<Message>(WRITE_AHEAD);
        // Writing a frame must not be abandoned half-way, so it is a future of its own.
        let writing = async {
            while let Some(message) = handed.recv().await {
                if let Err(error) = sender.send(&message).await {
                    return error;
                }
                failpoint!("agent.ship.sent");
            }
            ConnectError::Ended
        };
        tokio::pin!(writing);
        let mut desk = Desk {
            ready: VecDeque::new(),
            stop_by: None,
            shutdown,
        };
        let ending = loop {
            match self
                .step(&mut desk, session, &mut receiver, &hand, writing.as_mut())
                .await
            {
                Ok(()) => {}
                Err(ending) => break ending,
            }
        };
        let code = if matches!(ending, Ending::Stopped) {
            CloseCode::ShuttingDown
        } else {
            CloseCode::Done
        };
        closer.close(code).await;
        ending
    }

    /// One thing that happens.
    async fn step(
        &self,
        desk: &mut Desk,
        session: &mut Session,
        receiver: &mut connection::Receiver,
        hand: &mpsc::Sender<Message>,
        writing: std::pin::Pin<&mut impl Future<Output = ConnectError>>,
    ) -> Result<(), Ending> {
        let mut heads = self.buffer.heads();
        if self.buffer.stream() != self.party.stream {
            return Err(Ending::NewStream);
        }
        let end = self.buffer.head().next;
        if desk.ready.is_empty()
            && let Some(first) = session.poll_send(end)
        {
            let room = session.room().min(BATCH_SEGMENTS);
            desk.ready = self
                .buffer
                .offer_from(first, room, BATCH_BYTES)
                .await?
                .into();
        }
        desk.check_stop(session.is_settled(end))?;
        let until = desk.stop_by.or(session.poll_timeout());
        let waiting = desk.ready.is_empty();
        tokio::select! {
            biased;
            answer = receiver.receive() => return self.take(session, answer?).await,
            error = writing => return self.last_words(session, receiver, error).await,
            () = stopped(&mut desk.shutdown), if desk.stop_by.is_none() => {
                desk.stop_by = Some(Instant::now() + self.shipping.drain);
            }
            () = sleep_until(until) => {
                if desk.stop_by.is_none() {
                    return Err(Ending::Retry("no receipt came for what was sent".to_owned()));
                }
            }
            permit = hand.reserve(), if !waiting => {
                if let (Ok(permit), Some(segment)) = (permit, desk.ready.pop_front()) {
                    session.handle_sent(Instant::now(), segment.seq);
                    permit.send(Message::Segment(segment.bytes));
                }
            }
            changed = heads.changed(), if waiting => {
                if changed.is_err() {
                    return Err(Ending::Stopped);
                }
            }
        }
        Ok(())
    }

    /// The link no longer takes anything: a refusal may have been said before.
    async fn last_words(
        &self,
        session: &mut Session,
        receiver: &mut connection::Receiver,
        error: ConnectError,
    ) -> Result<(), Ending> {
        match tokio::time::timeout(LAST_WORDS_WITHIN, receiver.receive()).await {
            Ok(Ok(message)) => self.take(session, message).await,
            _ => Err(error.into()),
        }
    }

    async fn take(&self, session: &mut Session, message: Message) -> Result<(), Ending> {
        match message {
            Message::Receipt(signed) => self.take_receipt(session, &signed).await,
            Message::Refused(refused) => Err(session.handle_refused(&refused).into()),
            other => Err(Ending::Retry(format!(
                "a {:?} message out of turn",
                other.kind()
            ))),
        }
    }

    async fn take_receipt(
        &self,
        session: &mut Session,
        signed: &Signed<Receipt>,
    ) -> Result<(), Ending> {
        let disbelieved = |error: super::session::BadReceipt| Ending::Retry(error.to_string());
        let receipt = session.read_receipt(signed).map_err(disbelieved)?;
        let known = self.buffer.hash_at(receipt.seq).await?;
        if !session
            .handle_receipt(Instant::now(), &receipt, known)
            .map_err(disbelieved)?
        {
            return Ok(());
        }
        failpoint!("agent.receipt.verified");
        let mark = ReceiptMark {
            through: receipt.seq,
            hash: receipt.hash,
            bytes: signed.to_bytes(),
        };
        self.buffer.receipt(mark).await?;
        (self.tell)(ShipEvent::Receipted(receipt));
        Ok(())
    }
}

/// What lies ready between buffer and link.
struct Desk {
    ready: VecDeque<StoredSegment>,
    stop_by: Option<Instant>,
    shutdown: watch::Receiver<bool>,
}

impl Desk {
    /// Asked to stop, the conversation ends when everything has its receipt or time is up.
    fn check_stop(&self, settled: bool) -> Result<(), Ending> {
        match self.stop_by {
            Some(by) if settled || Instant::now() >= by => Err(Ending::Stopped),
            _ => Ok(()),
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
