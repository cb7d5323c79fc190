//! One connection from `Hello` to its end: carries what the session decides between buffer and link.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tallystick_common::failpoint;
use tallystick_common::keys::Signed;
use tallystick_common::receipt::Receipt;
use tallystick_common::wire::{
    ALPN_INGEST, CloseCode, InForce, Message, Notice, Position, VERSION_NOTICES, Welcome,
};
use tokio::sync::{mpsc, watch};

use super::backoff::Backoff;
use super::connection::{self, ConnectError, Link, Transport};
use super::session::{Consequence, Holdings, Party, Session, StreamOver};
use super::standing::Standing;
use super::{ShipEvent, Shipping, before, stopped, wall_seconds};
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
    /// The certificate is to be renewed first; true when it is of no use any more.
    Renew(bool),
    /// QUIC gets through again.
    Better,
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
                code: Some(CloseCode::Expired),
                ..
            } => Self::Renew(true),
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
    pub(super) standing: &'a mut Standing,
    pub(super) buffer: &'a Handle,
    pub(super) tell: &'a T,
}

impl<T: Fn(ShipEvent)> Conversation<'_, T> {
    /// Connects and talks until something ends it.
    pub(super) async fn hold(
        mut self,
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

    /// Meets at the first address, in their order, where that is possible.
    async fn meet(&mut self) -> Result<(Link, Session), Ending> {
        let mut last = Ending::Hold("no address of a reconciler is known; enrol again".to_owned());
        for address in self.standing.addresses.clone() {
            match self.meet_at(&address).await {
                Err(Ending::Retry(why)) => last = Ending::Retry(why),
                settled => return settled,
            }
        }
        Err(last)
    }

    async fn connect(&mut self, address: &str) -> Result<Link, Ending> {
        let tls = self.tls()?;
        if self.standing.prefers_tcp(Instant::now())
            && let Ok(link) = connection::connect_tcp(address, tls.clone()).await
        {
            return Ok(link);
        }
        let link = connection::connect(address, tls).await?;
        match link.transport() {
            Transport::Quic => self.standing.handle_quic(),
            Transport::Tcp => {
                let probe_after = self.shipping.probe_quic_after;
                self.standing.handle_tcp(Instant::now(), probe_after);
            }
        }
        Ok(link)
    }

    fn tls(&self) -> Result<rustls::ClientConfig, ConnectError> {
        let tls = self.standing.tls(self.shipping, ALPN_INGEST);
        tls.map_err(ConnectError::Tls)
    }

    /// Connects and exchanges `Hello` and `Welcome`.
    async fn meet_at(&mut self, address: &str) -> Result<(Link, Session), Ending> {
        let mut link = self.connect(address).await?;
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
        self.tell_connected(address, link.transport(), &welcome);
        Ok((link, session))
    }

    fn tell_connected(&mut self, address: &str, transport: Transport, welcome: &Welcome) {
        let authorities = &self.standing.authorities;
        let receipt_keys = authorities.certified(&welcome.receipt_keys);
        self.standing.receipt_keys.clone_from(&receipt_keys);
        (self.tell)(ShipEvent::Connected {
            address: address.to_owned(),
            transport,
            server_time: welcome.server_time,
            epoch: welcome.epoch,
            receipt_keys,
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
        &mut self,
        link: Link,
        session: &mut Session,
        shutdown: watch::Receiver<bool>,
    ) -> Ending {
        let transport = link.transport();
        let (mut sender, mut receiver, closer) = link.split();
        let (hand, mut handed) = mpsc::channel::<Message>(WRITE_AHEAD);
        let mut desk = self.desk(transport, session, shutdown);
        let ending = {
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
            loop {
                match self
                    .step(&mut desk, session, &mut receiver, &hand, writing.as_mut())
                    .await
                {
                    Ok(()) => {}
                    Err(ending) => break ending,
                }
            }
        };
        let code = if matches!(ending, Ending::Stopped) {
            CloseCode::ShuttingDown
        } else {
            CloseCode::Done
        };
        closer.close(sender, code).await;
        ending
    }

    fn desk(
        &self,
        transport: Transport,
        session: &Session,
        shutdown: watch::Receiver<bool>,
    ) -> Desk {
        let now = Instant::now();
        let probe_at = match transport {
            Transport::Quic => None,
            Transport::Tcp => Some(now + self.shipping.probe_quic_after),
        };
        let mut in_force = self.shipping.in_force.clone();
        if session.version() >= VERSION_NOTICES {
            in_force.mark_changed();
        }
        Desk {
            ready: VecDeque::new(),
            stop_by: None,
            shutdown,
            renew_at: now + self.standing.renewal.timeout(wall_seconds(), now),
            probe_at,
            probing: None,
            word: None,
            in_force: (session.version() >= VERSION_NOTICES).then_some(in_force),
        }
    }

    /// Whether QUIC gets through by now, asked beside the connection that there is.
    fn probe(&self) -> Probe {
        let addresses = self.standing.addresses.clone();
        let tls = self.tls();
        tokio::spawn(async move {
            let Ok(tls) = tls else { return false };
            for address in addresses {
                if let Ok(link) = connection::connect_quic(&address, tls.clone()).await {
                    link.close().await;
                    return true;
                }
            }
            false
        })
    }

    /// One thing that happens.
    async fn step(
        &mut self,
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
        let (waiting, speaks) = (desk.ready.is_empty(), desk.word.is_some());
        tokio::select! {
            biased;
            answer = receiver.receive() => return self.take(session, answer?).await,
            found = probed(&mut desk.probing) => {
                if found {
                    self.standing.handle_quic();
                    return Err(Ending::Better);
                }
            }
            () = sleep_until(desk.probe_at) => {
                desk.probe_at = Some(Instant::now() + self.shipping.probe_quic_after);
                desk.probing = Some(self.probe());
            }
            () = sleep_until(Some(desk.renew_at)), if desk.stop_by.is_none() => {
                return Err(Ending::Renew(false));
            }
            in_force = newly_in_force(&mut desk.in_force) => {
                desk.word = Some(Message::InForce(in_force));
            }
            error = writing => return self.last_words(session, receiver, error).await,
            () = stopped(&mut desk.shutdown), if desk.stop_by.is_none() => {
                desk.stop_by = Some(Instant::now() + self.shipping.drain);
            }
            () = sleep_until(until) => {
                if desk.stop_by.is_none() {
                    return Err(Ending::Retry("no receipt came for what was sent".to_owned()));
                }
            }
            permit = hand.reserve(), if !waiting || speaks => {
                let Ok(permit) = permit else { return Ok(()) };
                if let Some(word) = desk.word.take() {
                    permit.send(word);
                } else if let Some(segment) = desk.ready.pop_front() {
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
        &mut self,
        session: &mut Session,
        receiver: &mut connection::Receiver,
        error: ConnectError,
    ) -> Result<(), Ending> {
        match tokio::time::timeout(LAST_WORDS_WITHIN, receiver.receive()).await {
            Ok(Ok(message)) => self.take(session, message).await,
            _ => Err(error.into()),
        }
    }

    async fn take(&mut self, session: &mut Session, message: Message) -> Result<(), Ending> {
        match message {
            Message::Receipt(signed) => self.take_receipt(session, &signed).await,
            Message::Refused(refused) => Err(session.handle_refused(&refused).into()),
            Message::Notice(notice) if session.version() >= VERSION_NOTICES => {
                self.take_notice(session, notice);
                Ok(())
            }
            other => Err(Ending::Retry(format!(
                "a {:?} message out of turn",
                other.kind()
            ))),
        }
    }

    fn take_notice(&mut self, session: &mut Session, notice: Notice) {
        self.standing.learn(&notice.trust);
        let authorities = self.standing.authorities.trusted_keys();
        session.learn_keys(&self.standing.receipt_keys, &authorities);
        (self.tell)(ShipEvent::Noticed(notice));
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

type Probe = tokio::task::JoinHandle<bool>;

/// What lies ready between buffer and link, and what is due.
struct Desk {
    ready: VecDeque<StoredSegment>,
    stop_by: Option<Instant>,
    shutdown: watch::Receiver<bool>,
    renew_at: Instant,
    probe_at: Option<Instant>,
    probing: Option<Probe>,
    /// What to tell the reconciler of, where the version has a word for it.
    in_force: Option<watch::Receiver<InForce>>,
    /// To be sent before the next segment.
    word: Option<Message>,
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some(probing) = &self.probing {
            probing.abort();
        }
    }
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

/// What the probe found, once there is one.
async fn probed(probing: &mut Option<Probe>) -> bool {
    let Some(probe) = probing else {
        return std::future::pending().await;
    };
    let found = probe.await.unwrap_or(false);
    *probing = None;
    found
}

/// What the node meters by, when that is something new.
async fn newly_in_force(in_force: &mut Option<watch::Receiver<InForce>>) -> InForce {
    let Some(told) = in_force else {
        return std::future::pending().await;
    };
    if told.changed().await.is_err() {
        // Whoever configures is gone: what it said last still holds, but nothing more comes.
        *in_force = None;
        return std::future::pending().await;
    }
    told.borrow_and_update().clone()
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
