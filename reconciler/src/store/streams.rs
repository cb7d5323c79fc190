//! Streams, their segments, forks and kernel claims, as commit writes them and readers find them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tallystick_common::failpoint::is_removed;
use tallystick_common::ids::{BootId, Hash, NodeId, RegisterId, Seq, StreamId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::reading::Gap;
use tallystick_common::seal::SealedSegment;
use tallystick_common::segment::{Block, Header, Previous};
use tallystick_common::time::Timestamp;

use super::bulk::{Bulk, Values};
use super::column::{self, bytes, id, instant, number, reading, unsigned};
use super::nodes::NodeRow;
use super::owners::Replica;
use super::sql::{self, Row};
use super::{Connection, StoreError, compressed};
use crate::ingest::admit::{Claim, OpenRegister, StreamState, StreamStatus};
use crate::rollup::Advance;

/// The short name of a stream inside the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamRow(pub i64);

/// A stream as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Its short name.
    pub row: StreamRow,
    /// Whose it is, inside the store.
    pub node_row: NodeRow,
    /// Whose it is.
    pub node: NodeId,
    /// Which.
    pub stream: StreamId,
    /// The next sequence number.
    pub next: Seq,
    /// The hash before it.
    pub head: Hash,
    /// First instant it accounts for.
    pub covered_from: Timestamp,
    /// First instant it does not account for.
    pub covered_through: Timestamp,
    /// The same without segments ahead of the server's clock.
    pub proved_through: Option<Timestamp>,
    /// Whether it goes on.
    pub status: StreamStatus,
    /// The first number that rollups and registers do not hold.
    pub rolled: Seq,
    /// The lowest number of a register never opened.
    pub next_register: RegisterId,
}

/// A segment as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSegment {
    /// Its number.
    pub seq: Seq,
    /// Whether it counts.
    pub counted: bool,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
}

/// A segment to be stored.
#[derive(Debug)]
pub struct NewSegment {
    /// Its stream.
    pub stream: StreamRow,
    /// Its number.
    pub seq: Seq,
    /// Its hash.
    pub hash: Hash,
    /// First instant it accounts for.
    pub covered_from: Timestamp,
    /// First instant after it.
    pub covered_through: Timestamp,
    /// When it arrived.
    pub received_at: Timestamp,
    /// Code and words of the doubt, when it does not count.
    pub doubt: Option<(&'static str, String)>,
    /// Number of its intervals.
    pub intervals: usize,
    /// The sealed bytes, compressed. Shared, because a transaction may be carried out again.
    pub packed: Arc<Vec<u8>>,
}

/// Where a stream moves.
#[derive(Debug)]
pub struct Move<'a> {
    /// Which.
    pub stream: StreamRow,
    /// Where it stands.
    pub from: Seq,
    /// Where it will.
    pub to: &'a StreamState,
    /// The boot of its last segment, when that is new.
    pub boot: Option<BootId>,
}

const STREAM: &str = "SELECT s.*, n.node AS node_id FROM streams s JOIN nodes n ON n.id = s.node";

/// One stream.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn find(
    conn: &mut Connection,
    node: NodeRow,
    stream: StreamId,
) -> Result<Option<Stream>, StoreError> {
    let query = sql::query(sqlx::AssertSqlSafe(format!(
        "{STREAM} WHERE s.node = $1 AND s.stream = $2"
    )));
    let row = query
        .bind(node.0)
        .bind(stream.0.as_slice())
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(read_stream).transpose()
}

/// Every stream, in the order of their beginning.
///
/// # Errors
/// As [`find`].
pub async fn all(conn: &mut Connection) -> Result<Vec<Stream>, StoreError> {
    let query = sql::query(sqlx::AssertSqlSafe(format!("{STREAM} ORDER BY s.id")));
    query
        .fetch_all(conn)
        .await?
        .iter()
        .map(read_stream)
        .collect()
}

/// Streams whose rollups do not hold everything that was admitted: with `of`, only those of nodes that this
/// process owns or whose owner was silent since that instant.
///
/// # Errors
/// As [`find`].
pub async fn behind(
    conn: &mut Connection,
    of: Option<(Replica, Timestamp)>,
) -> Result<Vec<Stream>, StoreError> {
    let query = sql::query(sqlx::AssertSqlSafe(format!(
        "{STREAM} LEFT JOIN owners o ON o.node = s.node LEFT JOIN replicas r ON r.id = o.replica \
         WHERE s.rolled_seq < s.next_seq \
         AND ($1 < 0 OR o.replica = $1 OR r.seen_at IS NULL OR r.seen_at < $2) ORDER BY s.id"
    )));
    query
        .bind(of.map_or(-1, |(replica, _)| replica.0))
        .bind(of.map_or(0, |(_, silent)| silent.as_i64()))
        .fetch_all(conn)
        .await?
        .iter()
        .map(read_stream)
        .collect()
}

fn read_stream(row: &Row) -> Result<Stream, StoreError> {
    let status: String = row.try_get("state")?;
    Ok(Stream {
        row: StreamRow(row.try_get("id")?),
        node_row: NodeRow(row.try_get("node")?),
        node: NodeId(id(row, "node_id", "nodes.node")?),
        stream: StreamId(id(row, "stream", "streams.stream")?),
        next: Seq(unsigned(row, "next_seq", "streams.next_seq")?),
        head: Hash(bytes(row, "head", "streams.head")?),
        covered_from: instant(row, "covered_from", "streams.covered_from")?,
        covered_through: instant(row, "covered_through", "streams.covered_through")?,
        proved_through: column::optional_instant(row, "proved_through", "streams.proved_through")?,
        status: StreamStatus::from_name(&status)
            .ok_or_else(|| StoreError::damaged("streams.state", status))?,
        rolled: Seq(unsigned(row, "rolled_seq", "streams.rolled_seq")?),
        next_register: RegisterId(unsigned(row, "next_register", "streams.next_register")?),
    })
}

/// The open registers of a stream as of its `rolled` position.
///
/// # Errors
/// As [`find`].
pub async fn open_registers(
    conn: &mut Connection,
    stream: StreamRow,
) -> Result<BTreeMap<RegisterId, OpenRegister>, StoreError> {
    let rows = sql::query(
        "SELECT r.*, w.name AS workload_name FROM registers r JOIN workloads w ON w.id = r.workload \
         WHERE r.stream = $1 AND r.closed IS NULL",
    )
    .bind(stream.0)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let register = RegisterId(unsigned(row, "register", "registers.register")?);
            let open = OpenRegister {
                workload: std::sync::Arc::new(workload(row)?),
                meter: meter(row)?,
                reading: reading(row, "last_reading", "registers.last_reading")?,
                end: instant(row, "last_at", "registers.last_at")?,
            };
            Ok((register, open))
        })
        .collect()
}

/// A row's `workload_name`.
///
/// # Errors
/// When it is no workload name.
pub(crate) fn workload(row: &Row) -> Result<WorkloadName, StoreError> {
    let name: String = row.try_get("workload_name")?;
    WorkloadName::new(name).map_err(|error| StoreError::damaged("workloads.name", error))
}

/// A row's `meter`.
///
/// # Errors
/// When there is no such meter.
pub(crate) fn meter(row: &Row) -> Result<Meter, StoreError> {
    let code: i64 = row.try_get("meter")?;
    u16::try_from(code)
        .ok()
        .and_then(Meter::from_code)
        .ok_or_else(|| StoreError::damaged("meter", code))
}

/// Segments of a stream from `first` on, in order, at most `most`.
///
/// # Errors
/// As [`find`], and when bytes do not decompress.
pub async fn segments_from(
    conn: &mut Connection,
    stream: StreamRow,
    first: Seq,
    most: u32,
) -> Result<Vec<StoredSegment>, StoreError> {
    let rows = sql::query(
        "SELECT seq, verdict, bytes FROM segments WHERE stream = $1 AND seq >= $2 ORDER BY seq LIMIT $3",
    )
    .bind(stream.0)
    .bind(column::seq(first)?)
    .bind(i64::from(most))
    .fetch_all(conn)
    .await?;
    rows.iter().map(read_segment).collect()
}

/// The segment of a stream that accounts for the instant `at`, if one does.
///
/// # Errors
/// As [`segments_from`].
pub async fn segment_at(
    conn: &mut Connection,
    stream: StreamRow,
    at: Timestamp,
) -> Result<Option<StoredSegment>, StoreError> {
    let row = sql::query(
        "SELECT seq, verdict, bytes FROM segments \
         WHERE stream = $1 AND covered_through > $2 AND covered_from <= $2 ORDER BY seq LIMIT 1",
    )
    .bind(stream.0)
    .bind(at.as_i64())
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(read_segment).transpose()
}

pub(crate) fn read_segment(row: &Row) -> Result<StoredSegment, StoreError> {
    let verdict: &str = row.try_get("verdict")?;
    let packed: &[u8] = row.try_get("bytes")?;
    let bytes = compressed::decompress(packed)?;
    Ok(StoredSegment {
        seq: Seq(unsigned(row, "seq", "segments.seq")?),
        counted: verdict == "counted",
        bytes,
    })
}

/// The hash of a stored segment.
///
/// # Errors
/// As [`find`].
pub async fn hash_at(
    conn: &mut Connection,
    stream: StreamRow,
    seq: Seq,
) -> Result<Option<Hash>, StoreError> {
    let row = sql::query("SELECT hash FROM segments WHERE stream = $1 AND seq = $2")
        .bind(stream.0)
        .bind(column::seq(seq)?)
        .fetch_optional(conn)
        .await?;
    row.map(|row| bytes(&row, "hash", "segments.hash").map(Hash))
        .transpose()
}

/// Makes the row of a stream whose first segment is admitted in the same transaction.
///
/// # Errors
/// When the database fails.
pub async fn begin(
    conn: &mut Connection,
    node: NodeRow,
    header: &Header,
    now: Timestamp,
) -> Result<StreamRow, StoreError> {
    super::take_turn(conn).await?;
    let after = match header.previous {
        Previous::Opens { after } => after,
        Previous::Follows(_) => None,
    };
    let row: i64 = sql::query_scalar(
        "INSERT INTO streams (id, node, stream, next_seq, head, covered_from, covered_through, state, boot, \
         predecessor_stream, predecessor_seq, predecessor_hash, opened_at) \
         SELECT COALESCE(MAX(id), 0) + 1, $1, $2, 0, $3, $4, $4, 'open', $5, $6, $7, $8, $9 FROM streams RETURNING id",
    )
    .bind(node.0)
    .bind(header.stream.0.as_slice())
    .bind(Hash::ZERO.0.as_slice())
    .bind(header.from.as_i64())
    .bind(header.boot.0.as_slice())
    .bind(after.map(|after| after.stream.0.to_vec()))
    .bind(after.map(|after| column::seq(after.seq)).transpose()?)
    .bind(after.map(|after| after.hash.0.to_vec()))
    .bind(now.as_i64())
    .fetch_one(conn)
    .await?;
    Ok(StreamRow(row))
}

/// Stores segments.
///
/// # Errors
/// When the database fails.
pub async fn insert_segments(
    conn: &mut Connection,
    segments: &[NewSegment],
) -> Result<(), StoreError> {
    let bulk = Bulk {
        before: "INSERT INTO segments (stream, seq, hash, covered_from, covered_through, received_at, verdict, \
                 doubt_code, doubt, interval_count, bytes)",
        columns: 11,
        after: "",
    };
    bulk.execute(conn, segments, bind_segment).await.map(drop)
}

fn bind_segment(values: &mut Values, new: &NewSegment) -> Result<(), StoreError> {
    let (code, words) = new
        .doubt
        .as_ref()
        .map(|(code, words)| (*code, words.as_str()))
        .unzip();
    values.add(new.stream.0)?;
    values.add(column::seq(new.seq)?)?;
    values.add(new.hash.0.as_slice())?;
    values.add(new.covered_from.as_i64())?;
    values.add(new.covered_through.as_i64())?;
    values.add(new.received_at.as_i64())?;
    values.add(if new.doubt.is_none() {
        "counted"
    } else {
        "quarantined"
    })?;
    values.add(code)?;
    values.add(words)?;
    values.add(number(new.intervals as u64, "intervals")?)?;
    values.add(new.packed.as_slice())
}

/// Keeps the other branch of a fork.
///
/// # Errors
/// When the database fails.
pub async fn insert_fork(
    conn: &mut Connection,
    stream: StreamRow,
    seq: Seq,
    hash: Hash,
    now: Timestamp,
    bytes: &[u8],
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO forks (stream, seq, hash, received_at, bytes) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (stream, seq, hash) DO NOTHING",
    )
    .bind(stream.0)
    .bind(column::seq(seq)?)
    .bind(hash.0.as_slice())
    .bind(now.as_i64())
    .bind(compressed::compress(bytes)?)
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves streams on, each if nobody else moved it. `false` when somebody did: then the transaction
/// must not be committed.
///
/// # Errors
/// When the database fails.
pub async fn advance(conn: &mut Connection, moves: &[Move<'_>]) -> Result<bool, StoreError> {
    let bulk = Bulk {
        before: "UPDATE streams SET next_seq = v.column3, head = v.column4, covered_through = v.column5, \
                 state = v.column6, next_register = v.column7, boot = COALESCE(v.column8, streams.boot), \
                 proved_through = v.column9 FROM (",
        columns: 9,
        after: ") AS v WHERE streams.id = v.column1 AND streams.next_seq = v.column2",
    };
    let moved = bulk.execute(conn, moves, bind_move).await?;
    Ok(moved == moves.len() as u64)
}

fn bind_move(values: &mut Values, of: &Move<'_>) -> Result<(), StoreError> {
    let to = of.to;
    values.add(of.stream.0)?;
    values.add(column::seq(of.from)?)?;
    values.add(column::seq(to.next)?)?;
    values.add(to.head.unwrap_or(Hash::ZERO).0.as_slice())?;
    values.add(to.covered_through.unwrap_or(Timestamp::EPOCH).as_i64())?;
    values.add(to.status.as_str())?;
    values.add(number(to.next_register.0, "a register")?)?;
    values.add(of.boot.map(|boot| boot.0.to_vec()))?;
    values.add(to.proved_through.map(Timestamp::as_i64))
}

/// Which nodes claim a boot.
///
/// # Errors
/// As [`find`].
pub async fn claims(conn: &mut Connection, boot: BootId) -> Result<Vec<Claim>, StoreError> {
    let rows = sql::query(
        "SELECT b.*, n.node AS node_id FROM boots b JOIN nodes n ON n.id = b.node WHERE b.boot = $1 ORDER BY b.claim",
    )
    .bind(boot.0.as_slice())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let at = |name| instant(row, name, "boots");
            Ok(Claim {
                boot,
                node: NodeId(id(row, "node_id", "nodes.node")?),
                order: row.try_get("claim")?,
                seen: (at("seen_from")?, at("seen_through")?),
                counted: (at("counted_from")?, at("counted_through")?),
            })
        })
        .collect()
}

/// Keeps others from changing claims to a boot before this transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn hold_claims(conn: &mut Connection, boot: BootId) -> Result<(), StoreError> {
    if let Connection::Postgres(_) = conn {
        sql::query("SELECT 1 FROM boots WHERE boot = $1 ORDER BY node FOR UPDATE")
            .bind(boot.0.as_slice())
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Writes nodes' claims to boots.
///
/// # Errors
/// When the database fails.
pub async fn put_claims(
    conn: &mut Connection,
    claims: &[(NodeRow, Claim)],
) -> Result<(), StoreError> {
    let bulk = Bulk {
        before: "INSERT INTO boots (boot, node, claim, seen_from, seen_through, counted_from, counted_through)",
        columns: 7,
        after: "ON CONFLICT (boot, node) DO UPDATE SET \
                seen_from = excluded.seen_from, seen_through = excluded.seen_through, \
                counted_from = excluded.counted_from, counted_through = excluded.counted_through",
    };
    let bind = |values: &mut Values, (node, claim): &(NodeRow, Claim)| {
        values.add(claim.boot.0.as_slice())?;
        values.add(node.0)?;
        values.add(claim.order)?;
        values.add(claim.seen.0.as_i64())?;
        values.add(claim.seen.1.as_i64())?;
        values.add(claim.counted.0.as_i64())?;
        values.add(claim.counted.1.as_i64())
    };
    bulk.execute(conn, claims, bind).await.map(drop)
}

/// Notes the whole-node gaps that a counted segment names.
///
/// # Errors
/// When the database fails.
pub async fn insert_gaps(
    conn: &mut Connection,
    node: NodeRow,
    stream: StreamRow,
    gaps: &[Gap],
) -> Result<(), StoreError> {
    for gap in gaps {
        sql::query(
            "INSERT INTO gaps (node, from_at, to_at, stream, cause) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (node, from_at, to_at, stream) DO NOTHING",
        )
        .bind(node.0)
        .bind(gap.from.as_i64())
        .bind(gap.to.as_i64())
        .bind(stream.0)
        .bind(gap.cause.to_string())
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Every stream of a node.
///
/// # Errors
/// As [`find`].
pub async fn of_node(conn: &mut Connection, node: NodeRow) -> Result<Vec<Stream>, StoreError> {
    let query = sql::query(sqlx::AssertSqlSafe(format!(
        "{STREAM} WHERE s.node = $1 ORDER BY s.id"
    )));
    query
        .bind(node.0)
        .fetch_all(conn)
        .await?
        .iter()
        .map(read_stream)
        .collect()
}

/// Segments of a stream that account for time in `[from, to)`, in order.
///
/// # Errors
/// As [`segments_from`].
pub async fn segments_between(
    conn: &mut Connection,
    stream: StreamRow,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<StoredSegment>, StoreError> {
    let rows = sql::query(
        "SELECT seq, verdict, bytes FROM segments \
         WHERE stream = $1 AND covered_through > $2 AND covered_from < $3 ORDER BY seq",
    )
    .bind(stream.0)
    .bind(from.as_i64())
    .bind(to.as_i64())
    .fetch_all(conn)
    .await?;
    rows.iter().map(read_segment).collect()
}

/// Moves the positions up to which rollups and registers hold, each if nobody else moved it. `false`
/// when somebody did: then the transaction must not be committed.
///
/// # Errors
/// When the database fails.
pub async fn roll(conn: &mut Connection, advances: &[Advance]) -> Result<bool, StoreError> {
    if is_removed("I1 rollups") {
        return Ok(true);
    }
    let bulk = Bulk {
        before: "UPDATE streams SET rolled_seq = v.column3 FROM (",
        columns: 3,
        after: ") AS v WHERE streams.id = v.column1 AND streams.rolled_seq = v.column2",
    };
    let bind = |values: &mut Values, advance: &Advance| {
        values.add(advance.stream.row.0)?;
        values.add(column::seq(advance.stream.rolled)?)?;
        values.add(column::seq(advance.to)?)
    };
    let rolled = bulk.execute(conn, advances, bind).await?;
    Ok(rolled == advances.len() as u64)
}

impl StoredSegment {
    /// Envelope and header, read again.
    ///
    /// # Errors
    /// When the stored bytes are damaged.
    pub fn sealed(self) -> Result<SealedSegment, StoreError> {
        SealedSegment::parse(self.bytes)
            .map_err(|error| StoreError::damaged("segments.bytes", error))
    }

    /// The segment, read again. It was verified before it was stored.
    ///
    /// # Errors
    /// When the stored bytes are damaged.
    pub fn read(self) -> Result<(SealedSegment, Vec<Block>), StoreError> {
        let damaged = |error| StoreError::damaged("segments.bytes", error);
        let sealed = SealedSegment::parse(self.bytes).map_err(damaged)?;
        let blocks = sealed.kept_blocks().map_err(damaged)?;
        Ok((sealed, blocks))
    }
}
