//! Group commit: everything that all sessions hand over, in one transaction after another.
//!
//! Owns the one task that admits and writes, and the cache of where streams stand. A verdict is
//! answered only after the transaction that holds it is on disk (I2). The cache holds nothing that the
//! store does not: after a failed transaction it is emptied and read again. It is of nodes that this process
//! owns ([`owners`]): what another process takes over is forgotten before the next verdict.

use std::net::SocketAddr;
use std::sync::Arc;

use tallystick_common::failpoint;
use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::seal::VerifiedSegment;
use tallystick_common::segment::{Header, Previous, Purpose};
use tallystick_common::time::{HOUR_US, Micros, Timestamp};
use tallystick_common::wire::{Position, RefusalReason};
use tokio::sync::{Notify, mpsc, oneshot};

use super::admit::{self, Doubt, Refusal, StreamStatus, Surroundings, Verdict};
use super::intake::{Intake, Later, RefusedBytes, Stopped};
use super::rivals::rivals;
use crate::audit::{self, Note};
use crate::store::again::{ATTEMPTS, Attempts};
use crate::store::decisions;
use crate::store::nodes::{self, NodeRow, NodeState};
use crate::store::owners::{self, Replica};
use crate::store::refusals::{self, NewRefusal};
use crate::store::streams::{self, NewSegment, StreamRow};
use crate::store::{Connection, Store, StoreError, Tx, compressed};

mod book;

use book::{Book, Extent};

/// Things that may wait for a transaction; a session that hands over more waits itself.
const QUEUE: usize = 4096;
/// Most things in one transaction.
const BATCH: usize = 2048;
/// Most sealed bytes in one transaction.
const BATCH_BYTES: usize = 32 << 20;
/// Processes that were silent for so long are forgotten; one that is still there makes itself known again.
pub(crate) const FORGOTTEN: Micros = Micros(24 * HOUR_US);

/// Hands things over to commit. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    jobs: mpsc::Sender<Job>,
    store: Store,
}

/// The task's half.
#[derive(Debug)]
pub struct Committer {
    jobs: mpsc::Receiver<Job>,
    store: Store,
    replica: Replica,
    clock: fn() -> Timestamp,
    book: Book,
    /// Segments admitted in the open transaction that are not written yet.
    pending: Vec<NewSegment>,
    committed: Arc<Notify>,
}

#[derive(Debug)]
enum Job {
    Segment {
        segment: Box<VerifiedSegment>,
        /// Its bytes as they are stored.
        packed: Arc<Vec<u8>>,
        peer: SocketAddr,
        answer: oneshot::Sender<Verdict>,
    },
    Refuse {
        refused: Box<RefusedBytes>,
        answer: oneshot::Sender<()>,
    },
}

impl Job {
    /// The node whose stream it is for.
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Segment { segment, .. } => Some(segment.header().node),
            Self::Refuse { .. } => None,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Segment { segment, .. } => segment.bytes().len(),
            Self::Refuse { refused, .. } => refused.bytes.len(),
        }
    }
}

/// Makes both halves. `clock` tells the server's time; `committed` is told after each transaction.
#[must_use]
pub fn channel(
    store: Store,
    clock: fn() -> Timestamp,
    committed: Arc<Notify>,
) -> (Handle, Committer) {
    let (sender, jobs) = mpsc::channel(QUEUE);
    let handle = Handle {
        jobs: sender,
        store: store.clone(),
    };
    (
        handle,
        Committer {
            jobs,
            replica: store.new_replica(),
            store,
            clock,
            book: Book::default(),
            pending: Vec::new(),
            committed,
        },
    )
}

impl Intake for Handle {
    fn position(&self, node: NodeId, stream: StreamId) -> Later<'_, Result<Position, StoreError>> {
        Box::pin(async move {
            let mut tx = self.store.read().await?;
            let beginning = Position {
                next: Seq::FIRST,
                head: None,
            };
            let Some(node) = nodes::by_id(&mut tx, node).await? else {
                return Ok(beginning);
            };
            let found = streams::find(&mut tx, node.row, stream).await?;
            Ok(found.map_or(beginning, |found| Position {
                next: found.next,
                head: (found.next > Seq::FIRST).then_some(found.head),
            }))
        })
    }

    fn segment(
        &self,
        segment: VerifiedSegment,
        peer: SocketAddr,
    ) -> Later<'_, Result<oneshot::Receiver<Verdict>, Stopped>> {
        Box::pin(async move {
            let (answer, verdict) = oneshot::channel();
            // Here, because sessions run side by side and commit does not.
            let packed = compressed::compress(segment.bytes()).map_err(|error| {
                tracing::error!(%error, "a segment could not be compressed; its session ends");
                Stopped
            })?;
            let job = Job::Segment {
                segment: Box::new(segment),
                packed: Arc::new(packed),
                peer,
                answer,
            };
            self.jobs.send(job).await.map_err(|_| Stopped)?;
            Ok(verdict)
        })
    }

    fn refuse(&self, refused: RefusedBytes) -> Later<'_, Result<oneshot::Receiver<()>, Stopped>> {
        Box::pin(async move {
            let (answer, done) = oneshot::channel();
            let job = Job::Refuse {
                refused: Box::new(refused),
                answer,
            };
            self.jobs.send(job).await.map_err(|_| Stopped)?;
            Ok(done)
        })
    }
}

impl Committer {
    /// Who it is among those that admit segments into the store.
    #[must_use]
    pub fn replica(&self) -> Replica {
        self.replica
    }

    /// Commits until every handle is gone and everything handed over is done.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        while let Some(first) = self.jobs.recv().await {
            let mut size = first.size();
            batch.push(first);
            while batch.len() < BATCH && size < BATCH_BYTES {
                let Ok(next) = self.jobs.try_recv() else {
                    break;
                };
                size += next.size();
                batch.push(next);
            }
            self.commit(&mut batch).await;
        }
    }

    /// One transaction. When it fails, the answers are dropped and the sessions end: agents send again.
    async fn commit(&mut self, batch: &mut Vec<Job>) {
        failpoint!("reconciler.commit.before");
        match self.write_again(batch).await {
            Ok(verdicts) => {
                failpoint!("reconciler.commit.done");
                for (job, verdict) in batch.drain(..).zip(verdicts) {
                    answer(job, verdict);
                }
                self.committed.notify_one();
            }
            Err(error) => {
                tracing::error!(%error, jobs = batch.len(), "a commit failed; its sessions end and agents send again");
                self.forget();
                batch.clear();
            }
        }
    }

    fn forget(&mut self) {
        self.book.clear();
        self.pending.clear();
    }

    /// Again with nothing remembered, for as long as what failed may pass.
    async fn write_again(&mut self, batch: &[Job]) -> Result<Vec<Option<Verdict>>, StoreError> {
        let mut attempts = Attempts::default();
        loop {
            let done = self.write(batch).await;
            let Some(pause) = attempts.pause_after(&done) else {
                return done;
            };
            self.forget();
            tokio::time::sleep(pause).await;
        }
    }

    /// A transaction to the end of which this process owns every node of the batch.
    async fn begin(&mut self, batch: &[Job], now: Timestamp) -> Result<Tx, StoreError> {
        for _ in 0..ATTEMPTS {
            let mut tx = self.store.ingest().await?;
            let known = self.book.refresh(&mut tx, self.replica).await?;
            let missing = self
                .book
                .not_owned(&mut tx, batch.iter().filter_map(Job::node));
            let missing = missing.await?;
            if known && missing.is_empty() {
                return Ok(tx);
            }
            drop(tx);
            let mut tx = self.store.ingest().await?;
            if !known {
                let forgotten = now.saturating_sub(FORGOTTEN);
                owners::renew(&mut tx, self.replica, now, forgotten).await?;
            }
            owners::take(
                &mut tx,
                self.replica,
                &missing.keys().copied().collect::<Vec<_>>(),
            )
            .await?;
            tx.commit().await?;
            self.book.own(missing);
        }
        Err(StoreError::Moved)
    }

    async fn write(&mut self, batch: &[Job]) -> Result<Vec<Option<Verdict>>, StoreError> {
        let now = (self.clock)();
        let mut tx = self.begin(batch, now).await?;
        let mut verdicts = Vec::with_capacity(batch.len());
        for job in batch {
            verdicts.push(match job {
                Job::Segment {
                    segment,
                    packed,
                    peer,
                    ..
                } => {
                    let packed = Arc::clone(packed);
                    Some(self.admit(&mut tx, segment, packed, *peer, now).await?)
                }
                Job::Refuse { refused, .. } => {
                    self.refuse(&mut tx, refused, now).await?;
                    None
                }
            });
        }
        self.flush(&mut tx).await?;
        self.book.settle(&mut tx).await?;
        failpoint!("reconciler.commit.written");
        tx.commit().await?;
        Ok(verdicts)
    }

    /// Writes the segments that wait for it.
    async fn flush(&mut self, conn: &mut Connection) -> Result<(), StoreError> {
        streams::insert_segments(conn, &self.pending).await?;
        self.pending.clear();
        Ok(())
    }

    async fn admit(
        &mut self,
        conn: &mut Connection,
        segment: &VerifiedSegment,
        packed: Arc<Vec<u8>>,
        peer: SocketAddr,
        now: Timestamp,
    ) -> Result<Verdict, StoreError> {
        let header = segment.header();
        let node = self.book.node(conn, header.node).await?;
        let (row, verdict) = match node {
            None => (
                None,
                refused(RefusalReason::UnknownNode, "this node is not enrolled here"),
            ),
            Some((row, NodeState::Banned { reason, .. })) => (
                Some(row),
                refused(
                    RefusalReason::Banned,
                    &format!("this node is banned: {reason}"),
                ),
            ),
            Some((row, NodeState::Retired { .. })) => (
                Some(row),
                refused(RefusalReason::Retired, "this node is retired"),
            ),
            Some((row, NodeState::Active)) => {
                let verdict = self.judge(conn, row, segment, packed, now).await?;
                (Some(row), verdict)
            }
        };
        if let Some((reason, detail)) = complaint(&verdict) {
            let refusal = NewRefusal {
                node: row,
                reason,
                detail: &detail,
                peer: &peer.to_string(),
                stream: Some(header.stream),
                seq: Some(header.seq),
                at: now,
                bytes: segment.bytes(),
            };
            refusals::insert(conn, &refusal).await?;
        }
        Ok(verdict)
    }

    async fn judge(
        &mut self,
        conn: &mut Connection,
        node: NodeRow,
        segment: &VerifiedSegment,
        packed: Arc<Vec<u8>>,
        now: Timestamp,
    ) -> Result<Verdict, StoreError> {
        let header = segment.header();
        let others = self.book.others(conn, node, header).await?;
        let lives = if others.is_empty() {
            Vec::new()
        } else {
            self.flush(conn).await?;
            rivals(conn, others.iter().map(Extent::stream), header).await?
        };
        let claims = self.book.claims(conn, self.replica, header).await?.to_vec();
        let known = self.known(conn, node, header).await?;
        let entry = self
            .book
            .entry(conn, node, header.node, header.stream)
            .await?;
        let around = Surroundings {
            known,
            claims: &claims,
            lives: &lives,
        };
        let verdict = admit::admit(&entry.state, segment, &around, now);
        // What was kept before its key was revoked stays kept, and is receipted again.
        if verdict != Verdict::Duplicate
            && let Some(revoked) = self.book.revoked(conn, node, header).await?
        {
            let detail = format!(
                "its key is revoked since {}: {}; enrol the host again",
                revoked.at, revoked.reason
            );
            return Ok(refused(RefusalReason::Signature, &detail));
        }
        let entry = self
            .book
            .entry(conn, node, header.node, header.stream)
            .await?;
        match &verdict {
            Verdict::Accepted | Verdict::Quarantined(_) => {
                self.keep(conn, node, segment, packed, &verdict, now)
                    .await?;
            }
            Verdict::Fork { known } => {
                // The first segment of the other branch; the rest of it is among the refusals, whose
                // budget bounds what a fork can cost. A branch that a person decided against does not
                // stop the stream again.
                if entry.state.status != StreamStatus::Frozen
                    && !is_resolved(conn, entry.row, segment).await?
                {
                    entry.state.status = StreamStatus::Frozen;
                    entry.touched = true;
                    let row = entry.row;
                    freeze(conn, row, segment, *known, now).await?;
                }
            }
            Verdict::Duplicate | Verdict::Ahead { .. } | Verdict::Held | Verdict::Refused(_) => {}
        }
        Ok(verdict)
    }

    /// The hash of the admitted segment with the same number, when there is one.
    async fn known(
        &mut self,
        conn: &mut Connection,
        node: NodeRow,
        header: &Header,
    ) -> Result<Option<Hash>, StoreError> {
        let entry = self
            .book
            .entry(conn, node, header.node, header.stream)
            .await?;
        match entry.row {
            Some(row) if header.seq < entry.state.next => {
                self.flush(conn).await?;
                streams::hash_at(conn, row, header.seq).await
            }
            _ => Ok(None),
        }
    }

    /// Writes a segment that advances its stream, counted or not.
    async fn keep(
        &mut self,
        conn: &mut Connection,
        node: NodeRow,
        segment: &VerifiedSegment,
        packed: Arc<Vec<u8>>,
        verdict: &Verdict,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let header = segment.header();
        let entry = self
            .book
            .entry(conn, node, header.node, header.stream)
            .await?;
        let row = entry.begin(conn, node, header, now).await?;
        let doubt = match verdict {
            Verdict::Quarantined(doubt) => Some((doubt.code(), doubt.to_string())),
            _ => None,
        };
        let counted = doubt.is_none();
        self.pending.push(NewSegment {
            stream: row,
            seq: header.seq,
            hash: segment.hash(),
            covered_from: header.from,
            covered_through: header.covered_through,
            received_at: now,
            doubt,
            intervals: segment.interval_count(),
            packed,
        });
        entry
            .state
            .advance(header, segment.blocks(), segment.hash());
        if !matches!(verdict, Verdict::Quarantined(Doubt::Future { .. })) {
            entry.state.prove(header.covered_through);
        }
        entry.boot = Some(header.boot);
        entry.touched = true;
        if let Some(key) = admit::rotation(header) {
            nodes::rotate(conn, node, header.stream, header.seq.next(), key).await?;
        }
        if counted {
            streams::insert_gaps(conn, node, row, &header.gaps).await?;
        }
        if counted && header.purpose == Purpose::Final {
            self.retire(conn, header, now).await?;
        }
        self.book.extend(node, row, header);
        self.book.claim(header, counted);
        Ok(())
    }

    /// Its final segment is in: the node takes leave by its own signature.
    async fn retire(
        &mut self,
        conn: &mut Connection,
        header: &Header,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (at, node) = (header.covered_through, header.node);
        let state = NodeState::Retired { at, lost: None };
        nodes::set_state(conn, node, &state, now).await?;
        let note = Note {
            at: now,
            actor: &format!("node:{node}"),
            action: "node.retire",
            subject: &node.to_string(),
            detail: serde_json::json!({
                "stream": header.stream, "seq": header.seq, "covered_through": at,
            }),
        };
        audit::append(conn, &note).await?;
        self.book.refresh_nodes(conn).await
    }

    async fn refuse(
        &mut self,
        conn: &mut Connection,
        refused: &RefusedBytes,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let node = self
            .book
            .node(conn, refused.node)
            .await?
            .map(|(row, _)| row);
        let refusal = NewRefusal {
            node,
            reason: refused.refused.reason,
            detail: &refused.refused.detail,
            peer: &refused.peer.to_string(),
            stream: refused.stream,
            seq: refused.seq,
            at: now,
            bytes: &refused.bytes,
        };
        refusals::insert(conn, &refusal).await
    }
}

/// Whether a segment is of a branch of its stream that a person decided against.
async fn is_resolved(
    conn: &mut Connection,
    row: Option<StreamRow>,
    segment: &VerifiedSegment,
) -> Result<bool, StoreError> {
    let Some(row) = row else { return Ok(false) };
    let previous = match segment.header().previous {
        Previous::Follows(hash) => Some(hash),
        Previous::Opens { .. } => None,
    };
    decisions::is_of_resolved_fork(conn, row, segment.hash(), previous).await
}

/// Keeps the segment that begins the other branch of a fork, and notes that the stream stops (I6, I12).
async fn freeze(
    conn: &mut Connection,
    row: Option<StreamRow>,
    segment: &VerifiedSegment,
    known: Hash,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(row) = row else { return Ok(()) };
    let (header, hash) = (segment.header(), segment.hash());
    streams::insert_fork(conn, row, header.seq, hash, now, segment.bytes()).await?;
    tracing::error!(
        node.id = %header.node, stream = %header.stream, seq = %header.seq,
        "a node forked its stream: it was cloned or rolled back; the stream stops until a person decides"
    );
    let note = Note {
        at: now,
        actor: "rule:fork",
        action: "stream.freeze",
        subject: &header.stream.to_string(),
        detail: serde_json::json!({
            "node": header.node, "seq": header.seq, "admitted": known, "other": hash,
        }),
    };
    audit::append(conn, &note).await.map(drop)
}

fn refused(reason: RefusalReason, detail: &str) -> Verdict {
    Verdict::Refused(Refusal {
        reason,
        detail: detail.to_owned(),
    })
}

/// What is wrong with a segment that is not kept in its stream, where something is.
fn complaint(verdict: &Verdict) -> Option<(RefusalReason, String)> {
    match verdict {
        // The node keeps what is held, and sends it again.
        Verdict::Accepted | Verdict::Quarantined(_) | Verdict::Duplicate | Verdict::Held => None,
        Verdict::Ahead { expected } => Some((
            RefusalReason::Ahead,
            format!("segment {expected} is the next one"),
        )),
        Verdict::Fork { known } => Some((
            RefusalReason::Fork,
            format!("this number was admitted with hash {known}"),
        )),
        Verdict::Refused(refusal) => Some((refusal.reason, refusal.detail.clone())),
    }
}

fn answer(job: Job, verdict: Option<Verdict>) {
    match (job, verdict) {
        (Job::Segment { answer, .. }, Some(verdict)) => drop(answer.send(verdict)),
        (Job::Refuse { answer, .. }, _) => drop(answer.send(())),
        (Job::Segment { .. }, None) => {}
    }
}

#[cfg(test)]
mod tests;
