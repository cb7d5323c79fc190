//! A world in which operations happen: machines, agents, conversations, a reconciler; and the ledger beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context as _;
use tallystick_agent::buffer::StoredSegment;
use tallystick_agent::ship::session::{Consequence, Session, StreamOver};
use tallystick_common::ids::{Hash, NodeId, StoreEpoch, StreamId};
use tallystick_common::keys::{KeyRing, SecretKey};
use tallystick_common::seal::{SealedSegment, VerifiedSegment};
use tallystick_common::segment::Previous;
use tallystick_common::time::Timestamp;
use tallystick_common::wire::{DEFAULT_WINDOW, VERSION, Welcome};
use tallystick_reconciler::ingest::admit::Verdict;

use super::agent::{Agent, Folders, Image};
use super::finding::{Finding, Found, violated};
use super::ground::{self, NODES};
use super::link::{About, Answer, Authority, Link, instant};
use super::machine::{Machine, STEP};
use super::model::ledger::{Fate, Ledger};
use super::model::meter::{Meter, Pending};
use super::model::{Content, Truth};
use super::op::{Crash, Fault, Op};
use super::reconciler::{Reconciler, set_clock};

/// Most agents there are: clones are made up to there.
const AGENTS_MAX: usize = 4;
/// Rounds in which everything has to be settled.
const ROUNDS: usize = 12;

/// One agent with its machine, and what the ledger knows of it.
#[derive(Debug)]
pub(super) struct Player {
    pub(super) agent: Agent,
    machine: Machine,
    node: NodeId,
    link: Option<Link>,
    /// What it has seen, and what of that is durable.
    meter: Meter,
    durable: Meter,
    retired: bool,
    backup: Option<Saved>,
}

/// A copy of an agent's folder, with what was durable then.
#[derive(Debug, Clone)]
struct Saved {
    image: Image,
    durable: Meter,
    retired: bool,
}

/// What happened how often.
pub type Seen = BTreeMap<&'static str, u64>;

/// The world.
#[derive(Debug)]
pub struct World {
    pub(super) now: u64,
    pub(super) players: Vec<Player>,
    pub(super) reconciler: Reconciler,
    pub(super) ledger: Ledger,
    pub(super) truth: Truth,
    pub(super) audits: u64,
    store_backup: Option<(PathBuf, Ledger)>,
    authority: Authority,
    folders: Folders,
    /// Everything sealed, in order, with what it is.
    sealed: Vec<(StoredSegment, Rc<Content>)>,
    drawn: u64,
    epoch: StoreEpoch,
    pub(super) seen: Seen,
    /// Whether a verdict that differs is told at once, or only what it leads to.
    watch_verdicts: bool,
}

impl World {
    /// As it begins: two nodes, nothing sealed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn begin(
        ground: &ground::Ground,
        on_disk: bool,
        watch_verdicts: bool,
    ) -> anyhow::Result<Self> {
        set_clock(ground::BEGIN);
        let mut folders = Folders::below(ground.folder()?);
        let reconciler = Reconciler::on_copy(ground.store(), &mut folders).await?;
        let epoch = reconciler.store.epoch();
        let mut world = Self {
            now: ground::BEGIN,
            players: Vec::new(),
            reconciler,
            ledger: ground::ledger(),
            truth: Truth::default(),
            audits: 0,
            store_backup: None,
            authority: Authority::new(),
            folders,
            sealed: Vec::new(),
            drawn: 0,
            epoch,
            seen: Seen::default(),
            watch_verdicts,
        };
        for node in NODES {
            let folder = on_disk.then(|| world.folders.fresh());
            let fresh = world.stream();
            let mut agent = Agent::new(node, key(node), folder, fresh);
            agent.start(fresh)?;
            let machine = Machine::new(node, world.draw(), world.now);
            world.players.push(Player::new(agent, machine, node));
        }
        Ok(world)
    }

    /// Does one thing.
    ///
    /// # Errors
    /// What was found.
    pub async fn apply(&mut self, op: Op) -> Found<()> {
        match op {
            Op::Run { steps, load } => self.run(steps, load),
            Op::Seal { agent, crash } => self.seal(agent, crash, false),
            Op::Spoil { agent, fault } => self.spoil(agent, fault),
            Op::Connect { agent } => self.connect(self.place(agent)).await,
            Op::Send { agent, count } => self.send(self.place(agent), usize::from(count)),
            Op::Reorder { agent } => self.reorder(agent),
            Op::Deliver {
                agent,
                count,
                crash,
            } => {
                self.deliver(self.place(agent), usize::from(count), crash)
                    .await
            }
            Op::Receive { agent, crash } => self.receive(self.place(agent), crash),
            Op::LoseAnswers { agent } => self.lose_answers(agent),
            Op::Cut { agent } => self.cut(agent),
            Op::Replay { pick } => self.replay(pick).await,
            Op::CrashAgent { agent } => self.crash_agent(self.place(agent)),
            Op::Start { agent } => self.start(self.place(agent)),
            Op::Reboot { agent } => self.reboot(agent),
            Op::Restart { agent } => self.restart(agent),
            Op::Backup { agent } => self.backup(agent),
            Op::Restore { agent } => self.restore(agent),
            Op::Clone { agent } => self.clone_agent(agent),
            Op::Retire { agent } => self.seal(agent, None, true),
            Op::Ban { agent } => self.ban(agent).await,
            Op::RollUp { crash } => self.roll_up(crash).await,
            Op::CrashReconciler => self.crash_reconciler().await,
            Op::ChangeReplica => self.change_replica(),
            Op::BackupStore => self.backup_store(),
            Op::RestoreStore => self.restore_store().await,
            Op::Assign {
                account,
                workload,
                quarter,
            } => self.assign(account, workload, quarter).await,
            Op::Reassign {
                account,
                workload,
                quarter,
            } => self.reassign(account, workload, quarter).await,
            Op::Issue {
                account,
                accept_gaps,
                crash,
            } => self.issue(account, accept_gaps, crash).await,
            Op::Correct { account, crash } => self.correct(account, crash).await,
            Op::Judge { pick, more, accept } => self.judge(pick, more, accept).await,
            Op::Resolve { pick, keep_other } => self.resolve(pick, keep_other).await,
            Op::Revoke { pick, seq } => self.revoke(pick, seq).await,
            Op::Tally => self.tally().await,
            Op::Audit => self.audit(false).await,
        }
    }

    /// Lets everything that was sealed arrive, where it may.
    ///
    /// # Errors
    /// What was found, among it that something does not arrive.
    pub async fn settle(&mut self) -> Found<()> {
        for place in 0..self.players.len() {
            self.players[place].link = None;
            self.start(place)?;
        }
        self.run(1, 7)?;
        for place in 0..self.players.len() {
            self.seal(u8::try_from(place).unwrap_or(0), None, false)?;
        }
        let mut unsettled = (0..self.players.len()).collect::<Vec<_>>();
        for _ in 0..ROUNDS {
            for place in &unsettled {
                self.connect(*place).await?;
                self.send(*place, usize::MAX)?;
                self.deliver(*place, usize::MAX, None).await?;
                self.receive(*place, None)?;
            }
            unsettled.retain(|place| !self.is_settled(*place));
        }
        match unsettled.first() {
            None => Ok(()),
            Some(place) => {
                let said = format!(
                    "agent {place} cannot bring what it sealed: {:?}",
                    self.players[*place].agent.holdings()
                );
                violated("I2", said)
            }
        }
    }

    /// Whether everything of an agent's stream is held and receipted, or it has nothing more to say here.
    fn is_settled(&self, place: usize) -> bool {
        let player = &self.players[place];
        let taken =
            self.ledger.nodes.get(&player.node) == Some(&super::model::ledger::Standing::Active);
        let key = (player.node, player.agent.stream());
        let frozen = self
            .ledger
            .streams
            .get(&key)
            .is_some_and(|stream| stream.frozen);
        if !taken || frozen || player.retired || self.ledger.revoked.contains(&player.node) {
            return true;
        }
        let holdings = player.agent.holdings();
        holdings.receipted.map_or(0, |seq| seq.0 + 1) >= holdings.position.next.0
    }

    /// Ends it, and leaves nothing behind: what there was to see in it.
    pub async fn end(self) -> Seen {
        let Self {
            reconciler,
            players,
            folders,
            seen,
            ..
        } = self;
        drop(players);
        reconciler.close().await;
        folders.remove();
        seen
    }

    /// Something happened.
    pub(super) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(super) fn place(&self, agent: u8) -> usize {
        usize::from(agent) % self.players.len()
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    fn stream(&mut self) -> StreamId {
        let mut id = [0x57; 16];
        id[..8].copy_from_slice(&self.draw().to_be_bytes());
        StreamId(id)
    }

    fn run(&mut self, steps: u8, load: u8) -> Found<()> {
        for _ in 0..steps {
            self.now += STEP;
            set_clock(self.now);
            for player in &mut self.players {
                player.machine.work(load, &mut self.truth);
                let readings = player.machine.read(self.now);
                if player.agent.is_up() && !player.retired {
                    player.agent.observe(&readings, player.machine.highest());
                    player.meter.see(&readings);
                }
            }
        }
        Ok(())
    }

    fn seal(&mut self, agent: u8, crash: Option<Crash>, last: bool) -> Found<()> {
        let place = self.place(agent);
        let Self {
            players, folders, ..
        } = self;
        let player = &mut players[place];
        if !player.agent.is_up() || player.retired {
            return Ok(());
        }
        if crash == Some(Crash::Before) && player.agent.folder().is_none() {
            return self.crash_agent(place);
        }
        let at = match crash {
            None => "never",
            Some(Crash::Before) => "agent.seal.before",
            Some(Crash::Midway) => "agent.journal.synced",
            Some(Crash::After) => "agent.sled.written",
        };
        let (sealed, died) = player.agent.die_at(at, folders, |agent| agent.seal(last))?;
        if died && crash == Some(Crash::Before) {
            player.die();
            return Ok(());
        }
        self.note_sealed(place, sealed, last, false)?;
        if died {
            self.players[place].die();
            self.saw("agent died with a seal");
        } else if crash.is_some() {
            self.crash_agent(place)?;
        }
        Ok(())
    }

    fn spoil(&mut self, agent: u8, fault: Fault) -> Found<()> {
        let place = self.place(agent);
        let player = &mut self.players[place];
        if !player.agent.is_up() || player.retired || player.agent.folder().is_some() {
            return Ok(());
        }
        match player.agent.seal_wrong(fault)? {
            None => self.note_sealed(place, None, false, false),
            Some((sealed, wrong)) => self.note_sealed(place, Some(sealed), false, wrong),
        }
    }

    /// The ledger hears what must be in a segment, from the machine's readings.
    fn note_sealed(
        &mut self,
        place: usize,
        sealed: Option<StoredSegment>,
        last: bool,
        spoiled: bool,
    ) -> Found<()> {
        let player = &mut self.players[place];
        let pending = player.meter.seal();
        let (stored, pending) = match (sealed, pending) {
            (Some(stored), Some(pending)) => (stored, pending),
            (None, None) => return Ok(()),
            (stored, _) => {
                let did = if stored.is_some() {
                    "sealed"
                } else {
                    "did not seal"
                };
                return violated(
                    "I5",
                    format!("agent {place} {did}, which its time does not bear out"),
                );
            }
        };
        player.durable = player.meter.clone();
        player.retired |= last;
        let parsed = SealedSegment::parse(stored.bytes.clone()).context("a sealed segment")?;
        let content = Rc::new(content(&parsed, pending, last, spoiled));
        let key = (content.stream, content.seq, content.hash);
        self.truth.sealed.insert(key, Rc::clone(&content));
        self.sealed.push((stored, content));
        Ok(())
    }

    pub(super) async fn connect(&mut self, place: usize) -> Found<()> {
        let player = &mut self.players[place];
        if !player.agent.is_up() || player.link.is_some() {
            return Ok(());
        }
        let (node, stream) = (player.node, player.agent.stream());
        let mut session = Session::new(self.authority.party(node, stream), instant());
        let hello = session.hello(&player.agent.holdings());
        let position = self.reconciler.position(node, hello.stream).await?;
        let held = position
            .next
            .0
            .checked_sub(1)
            .map(tallystick_common::ids::Seq);
        let known = held.and_then(|seq| player.agent.hash_at(seq));
        let welcome = Welcome {
            version: VERSION,
            server_time: super::reconciler::clock(),
            position,
            epoch: self.epoch,
            window: DEFAULT_WINDOW,
            receipt_keys: self.authority.receipt_keys(),
        };
        let holdings = player.agent.holdings();
        match session.handle_welcome(instant(), &welcome, &holdings, known) {
            Ok(()) => {
                let mut link = Link::new(session, held.zip(position.head));
                let said = link.speak(&self.authority, &self.about(place));
                self.players[place].link = Some(link);
                self.check_receipts(place, &said)
            }
            Err(consequence) => self.suffer(place, &consequence),
        }
    }

    fn about(&self, place: usize) -> About {
        let player = &self.players[place];
        About {
            node: player.node,
            stream: player.agent.stream(),
            epoch: self.epoch,
            at: Timestamp::from_micros(self.now).unwrap_or(Timestamp::EPOCH),
        }
    }

    /// What an agent does about a word that ends its conversation.
    fn suffer(&mut self, place: usize, consequence: &Consequence) -> Found<()> {
        let fresh = self.stream();
        let player = &mut self.players[place];
        player.link = None;
        if let Consequence::StreamOver(over) = consequence
            && !player.retired
        {
            player.agent.begin_stream(fresh, over.lives_on())?;
            player.meter.begin_stream();
            player.durable = player.meter.clone();
            self.saw(match over {
                StreamOver::RolledBack { .. } => "stream over, rolled back",
                StreamOver::OtherHash { .. } => "stream over, another hash",
                StreamOver::Refused { .. } => "stream over, refused",
            });
        }
        Ok(())
    }

    fn send(&mut self, place: usize, count: usize) -> Found<()> {
        let player = &mut self.players[place];
        let Some(link) = player.link.as_mut().filter(|link| !link.over) else {
            return Ok(());
        };
        let end = player.agent.holdings().position.next;
        for _ in 0..count {
            let Some(seq) = link.session.poll_send(end) else {
                break;
            };
            let segment = player
                .agent
                .offer(seq)?
                .context("a segment that is to be sent is held")?;
            link.wire.push_back(segment);
            link.session.handle_sent(instant(), seq);
        }
        Ok(())
    }

    fn reorder(&mut self, agent: u8) -> Found<()> {
        let place = self.place(agent);
        if let Some(link) = &mut self.players[place].link
            && link.wire.len() >= 2
        {
            link.wire.swap(0, 1);
        }
        Ok(())
    }

    async fn deliver(&mut self, place: usize, count: usize, crash: Option<Crash>) -> Found<()> {
        let Some(link) = &mut self.players[place].link else {
            return Ok(());
        };
        let count = count.min(link.wire.len());
        let arrived: Vec<StoredSegment> = link.wire.drain(..count).collect();
        if arrived.is_empty() {
            return Ok(());
        }
        let verdicts = self.commit(&arrived, crash).await?;
        if verdicts.iter().any(Option::is_none) {
            return Ok(());
        }
        let about = self.about(place);
        let Some(link) = &mut self.players[place].link else {
            return Ok(());
        };
        for (segment, verdict) in arrived.iter().zip(verdicts.into_iter().flatten()) {
            link.replies
                .handle_verdict(segment.seq, segment.hash, &verdict);
        }
        let said = link.speak(&self.authority, &about);
        self.check_receipts(place, &said)
    }

    async fn replay(&mut self, pick: u16) -> Found<()> {
        if self.sealed.is_empty() {
            return Ok(());
        }
        let (stored, _) = &self.sealed[usize::from(pick) % self.sealed.len()];
        let stored = stored.clone();
        self.commit(&[stored], None).await.map(drop)
    }

    /// Commits what arrived together, and holds every verdict against the ledger's.
    async fn commit(
        &mut self,
        arrived: &[StoredSegment],
        crash: Option<Crash>,
    ) -> Found<Vec<Option<Verdict>>> {
        let verified: Vec<VerifiedSegment> = arrived
            .iter()
            .map(verified)
            .collect::<anyhow::Result<_>>()?;
        let verdicts = self.reconciler.deliver(verified, crash).await?;
        if !matches!(crash, Some(Crash::Before | Crash::Midway)) {
            self.follow(arrived, &verdicts)?;
        }
        if crash.is_some() {
            if verdicts.iter().any(Option::is_some) {
                return violated("I2", "something was answered by a process that died before");
            }
            self.saw("reconciler died in a commit");
            self.crash_reconciler().await?;
        } else if verdicts.iter().any(Option::is_none) {
            // Sessions end, agents send again; what was not committed is not in the ledger either.
            return violated("I1", "a commit failed");
        }
        Ok(verdicts)
    }

    fn follow(&mut self, arrived: &[StoredSegment], verdicts: &[Option<Verdict>]) -> Found<()> {
        for (segment, verdict) in arrived.iter().zip(verdicts) {
            let content = self.content_of(segment)?;
            let fate = self.ledger.fate(&content);
            if let Some(verdict) = verdict
                .as_ref()
                .filter(|verdict| self.watch_verdicts && !agrees(verdict, fate))
            {
                let said = format!(
                    "segment {} is {verdict:?}, by the ledger it is {fate:?}",
                    segment.seq
                );
                return violated(cited(fate, &content), said);
            }
            self.ledger.take(&content, fate, self.now);
            self.saw(match fate {
                Fate::Counted if content.last => "counted, the last one",
                Fate::Counted => "counted",
                Fate::Doubted if content.spoiled => "quarantined, spoiled",
                Fate::Doubted => "quarantined, measured elsewhere",
                Fate::Known => "duplicate",
                Fate::Early => "ahead",
                Fate::Forked => "fork",
                Fate::Held => "held",
                Fate::Refused => "refused",
            });
        }
        Ok(())
    }

    fn content_of(&self, segment: &StoredSegment) -> Found<Rc<Content>> {
        let found = self
            .sealed
            .iter()
            .find(|(stored, _)| stored.hash == segment.hash);
        let content = found.map(|(_, content)| Rc::clone(content));
        Ok(content.context("everything sent was sealed here")?)
    }

    /// A receipt is given for what is held, and for nothing else.
    fn check_receipts(
        &self,
        place: usize,
        said: &[(tallystick_common::ids::Seq, Hash)],
    ) -> Found<()> {
        let stream = self.players[place].agent.stream();
        for (seq, hash) in said {
            let content = self.truth.sealed.get(&(stream, *seq, *hash));
            if !content.is_some_and(|content| self.ledger.holds(content)) {
                return violated(
                    "I2",
                    format!("a receipt for segment {seq} of {stream}, which is not held"),
                );
            }
        }
        Ok(())
    }

    pub(super) fn receive(&mut self, place: usize, crash: Option<Crash>) -> Found<()> {
        if crash == Some(Crash::Before) {
            return self.crash_agent(place);
        }
        while let Some(answer) = self.players[place]
            .link
            .as_mut()
            .and_then(|link| link.back.pop_front())
        {
            match answer {
                Answer::Receipt(signed) => {
                    let crash = crash.filter(|_| self.players[place].agent.folder().is_some());
                    self.take_receipt(place, &signed, crash)?;
                }
                Answer::Refused(refused) => {
                    let Some(link) = &self.players[place].link else {
                        break;
                    };
                    let consequence = link.session.handle_refused(&refused);
                    self.suffer(place, &consequence)?;
                }
            }
        }
        if crash.is_some() {
            self.crash_agent(place)
        } else {
            Ok(())
        }
    }

    fn take_receipt(
        &mut self,
        place: usize,
        signed: &tallystick_common::keys::Signed<tallystick_common::receipt::Receipt>,
        crash: Option<Crash>,
    ) -> Found<()> {
        let Self {
            players, folders, ..
        } = self;
        let player = &mut players[place];
        let Some(link) = &mut player.link else {
            return Ok(());
        };
        let read = link.session.read_receipt(signed);
        let taken = read.and_then(|receipt| {
            let known = player.agent.hash_at(receipt.seq);
            link.session
                .handle_receipt(instant(), &receipt, known)
                .map(|news| (receipt, news))
        });
        let (receipt, news) = match taken {
            Ok(taken) => taken,
            Err(error) => return violated("I2", format!("an agent does not believe {error}")),
        };
        if news {
            let at = match crash {
                Some(Crash::Midway) => "agent.receipt.journaled",
                Some(_) => "agent.receipt.deleted",
                None => "never",
            };
            let take = |agent: &mut Agent| agent.receipt(receipt.seq, receipt.hash);
            let ((), died) = player.agent.die_at(at, folders, take)?;
            if died {
                player.die();
            }
            self.saw(if died {
                "agent died with a receipt"
            } else {
                "receipt"
            });
        }
        Ok(())
    }

    fn lose_answers(&mut self, agent: u8) -> Found<()> {
        let place = self.place(agent);
        if let Some(link) = &mut self.players[place].link {
            // What is lost on a connection is lost with it.
            if !link.back.is_empty() {
                self.players[place].link = None;
            }
        }
        Ok(())
    }

    fn cut(&mut self, agent: u8) -> Found<()> {
        let place = self.place(agent);
        self.players[place].link = None;
        Ok(())
    }

    fn crash_agent(&mut self, place: usize) -> Found<()> {
        let Self {
            players, folders, ..
        } = self;
        let player = &mut players[place];
        if player.agent.is_up() {
            player.agent.crash(folders)?;
            player.die();
        }
        Ok(())
    }

    fn start(&mut self, place: usize) -> Found<()> {
        let fresh = self.stream();
        let player = &mut self.players[place];
        if !player.agent.is_up() {
            player.agent.start(fresh)?;
        }
        Ok(())
    }

    fn reboot(&mut self, agent: u8) -> Found<()> {
        let (place, boot) = (self.place(agent), self.draw());
        self.crash_agent(place)?;
        self.players[place].machine.reboot(boot, self.now);
        Ok(())
    }

    fn restart(&mut self, agent: u8) -> Found<()> {
        let place = self.place(agent);
        self.players[place].machine.restart_group();
        Ok(())
    }

    fn backup(&mut self, agent: u8) -> Found<()> {
        let place = self.place(agent);
        let saved = self.players[place].saved(&mut self.folders)?;
        self.players[place].backup = Some(saved);
        Ok(())
    }

    fn restore(&mut self, agent: u8) -> Found<()> {
        let place = self.place(agent);
        let Self {
            players, folders, ..
        } = self;
        let player = &mut players[place];
        if let Some(saved) = player.backup.clone() {
            player.agent.restore(&saved.image, folders)?;
            player.durable = saved.durable;
            player.retired = saved.retired;
            player.die();
            self.saw("agent restored");
        }
        Ok(())
    }

    fn clone_agent(&mut self, agent: u8) -> Found<()> {
        let (place, boot) = (self.place(agent), self.draw());
        if self.players.len() >= AGENTS_MAX {
            return Ok(());
        }
        let saved = self.players[place].saved(&mut self.folders)?;
        let original = &self.players[place];
        let agent = original.agent.twin(&saved.image, &mut self.folders)?;
        let machine = Machine::new(original.node, boot, self.now);
        let mut twin = Player::new(agent, machine, original.node);
        twin.durable = saved.durable;
        twin.retired = saved.retired;
        twin.die();
        self.players.push(twin);
        Ok(())
    }

    async fn roll_up(&mut self, crash: Option<Crash>) -> Found<()> {
        if self.reconciler.roll_up(crash).await? {
            self.saw("reconciler died in rollups");
            self.crash_reconciler().await?;
        }
        Ok(())
    }

    pub(super) async fn crash_reconciler(&mut self) -> Found<()> {
        self.reconciler.crash(&mut self.folders).await?;
        self.forget_links();
        Ok(())
    }

    /// Connections stay: a node may be spoken to by one while its segments arrive at another.
    fn change_replica(&mut self) -> Found<()> {
        self.reconciler.change_replica();
        self.saw("replica changed");
        Ok(())
    }

    fn forget_links(&mut self) {
        for player in &mut self.players {
            player.link = None;
        }
    }

    fn backup_store(&mut self) -> Found<()> {
        let copy = self.reconciler.backup(&mut self.folders)?;
        self.store_backup = Some((copy, self.ledger.clone()));
        Ok(())
    }

    async fn restore_store(&mut self) -> Found<()> {
        let Some((copy, ledger)) = self.store_backup.clone() else {
            return Ok(());
        };
        let mut epoch = [0xe0; 16];
        epoch[..8].copy_from_slice(&self.draw().to_be_bytes());
        self.epoch = StoreEpoch(epoch);
        self.reconciler
            .restore(&copy, self.epoch, &mut self.folders)
            .await?;
        self.ledger = ledger;
        self.saw("store restored");
        self.forget_links();
        Ok(())
    }
}

impl Player {
    fn new(agent: Agent, machine: Machine, node: NodeId) -> Self {
        Self {
            agent,
            machine,
            node,
            link: None,
            meter: Meter::default(),
            durable: Meter::default(),
            retired: false,
            backup: None,
        }
    }

    /// The process is gone.
    fn die(&mut self) {
        self.link = None;
        self.meter.forget(&self.durable);
    }

    fn saved(&self, folders: &mut Folders) -> anyhow::Result<Saved> {
        Ok(Saved {
            image: self.agent.image(folders)?,
            durable: self.durable.clone(),
            retired: self.retired,
        })
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }
}

/// What a node signs with.
#[must_use]
pub fn key(node: NodeId) -> SecretKey {
    SecretKey::from_seed(&[node.0[0]; 32])
}

fn verified(stored: &StoredSegment) -> anyhow::Result<VerifiedSegment> {
    let sealed = SealedSegment::parse(stored.bytes.clone())?;
    let node = sealed.header().node;
    Ok(sealed.verify(&KeyRing::new(node, key(node).public()))?)
}

fn content(sealed: &SealedSegment, pending: Pending, last: bool, spoiled: bool) -> Content {
    let header = sealed.header();
    let previous = match header.previous {
        Previous::Opens { .. } => None,
        Previous::Follows(hash) => Some(hash),
    };
    Content {
        node: header.node,
        stream: header.stream,
        seq: header.seq,
        hash: sealed.hash(),
        previous,
        time: (pending.from, pending.through),
        used: pending.used,
        measured: pending.measured,
        last,
        spoiled,
    }
}

fn agrees(verdict: &Verdict, fate: Fate) -> bool {
    match verdict {
        Verdict::Accepted => fate == Fate::Counted,
        Verdict::Quarantined(_) => fate == Fate::Doubted,
        Verdict::Duplicate => fate == Fate::Known,
        Verdict::Ahead { .. } => fate == Fate::Early,
        Verdict::Fork { .. } => fate == Fate::Forked,
        Verdict::Held => fate == Fate::Held,
        Verdict::Refused(_) => fate == Fate::Refused,
    }
}

/// Which invariant a wrong verdict breaks.
fn cited(fate: Fate, content: &Content) -> &'static str {
    match fate {
        Fate::Forked | Fate::Held | Fate::Refused | Fate::Early => "I6",
        Fate::Known => "I1",
        Fate::Doubted if content.spoiled => "I3, I5",
        Fate::Counted | Fate::Doubted => "I7",
    }
}

impl From<anyhow::Error> for Finding {
    fn from(error: anyhow::Error) -> Self {
        Self {
            invariant: "it works",
            detail: format!("{error:#}"),
        }
    }
}
