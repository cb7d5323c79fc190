-- What ingest keeps. Instants and durations are BIGINT microseconds (instants UTC), identifiers
-- and hashes BLOB, readings 16 bytes big-endian. Surrogate ids are drawn by the inserting
-- statement. `WITHOUT ROWID` is the one SQLite variant in this file.

CREATE TABLE meta (
    single      BIGINT NOT NULL PRIMARY KEY CHECK (single = 1),
    store_epoch BLOB   NOT NULL,
    created_at  BIGINT NOT NULL,
    -- Rises with every change of a node's state, so that ingest sees one made by another process.
    node_states BIGINT NOT NULL DEFAULT 0
);

-- Enrolled hosts. A node is never deleted: its state changes.
CREATE TABLE nodes (
    id              BIGINT NOT NULL PRIMARY KEY,
    node            BLOB   NOT NULL UNIQUE,
    name            TEXT   NOT NULL,
    state           TEXT   NOT NULL CHECK (state IN ('active', 'banned', 'retired')),
    state_at        BIGINT NOT NULL,
    state_reason    TEXT,
    labels          TEXT   NOT NULL DEFAULT '{}',
    signing_key     BLOB   NOT NULL,
    tls_fingerprint BLOB   NOT NULL,
    enrolled_at     BIGINT NOT NULL
);
CREATE INDEX nodes_by_name ON nodes (name);

-- The signed history of a node's keys: appended to, never changed.
CREATE TABLE node_records (
    node      BIGINT NOT NULL REFERENCES nodes (id),
    number    BIGINT NOT NULL,
    record    BLOB   NOT NULL,
    added_at  BIGINT NOT NULL,
    PRIMARY KEY (node, number)
);

-- Keys that rotation segments named, each from a position of its stream on.
CREATE TABLE rotations (
    node       BIGINT NOT NULL REFERENCES nodes (id),
    stream     BLOB   NOT NULL,
    from_seq   BIGINT NOT NULL,
    key        BLOB   NOT NULL,
    PRIMARY KEY (node, stream, from_seq)
);

-- One-time join tokens, hashed.
CREATE TABLE join_tokens (
    hash       BLOB   NOT NULL PRIMARY KEY,
    note       TEXT   NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    uses_left  BIGINT NOT NULL CHECK (uses_left >= 0)
);

-- Lives of agent buffers. `next_seq`, `head` and `covered_through` are the admitted position;
-- `proved_through` leaves out segments that account for time ahead of the server's clock;
-- `rolled_seq` is the first sequence number that rollups and registers do not hold yet.
CREATE TABLE streams (
    id                 BIGINT NOT NULL PRIMARY KEY,
    node               BIGINT NOT NULL REFERENCES nodes (id),
    stream             BLOB   NOT NULL,
    next_seq           BIGINT NOT NULL,
    head               BLOB   NOT NULL,
    covered_from       BIGINT NOT NULL,
    covered_through    BIGINT NOT NULL,
    proved_through     BIGINT,
    state              TEXT   NOT NULL CHECK (state IN ('open', 'frozen', 'ended')),
    rolled_seq         BIGINT NOT NULL DEFAULT 0,
    next_register      BIGINT NOT NULL DEFAULT 0,
    boot               BLOB   NOT NULL,
    predecessor_stream BLOB,
    predecessor_seq    BIGINT,
    predecessor_hash   BLOB,
    owner_epoch        BIGINT NOT NULL DEFAULT 0,
    opened_at          BIGINT NOT NULL,
    UNIQUE (node, stream)
);

-- Sealed segments as received, compressed. `verdict` says whether they count.
CREATE TABLE segments (
    stream          BIGINT NOT NULL REFERENCES streams (id),
    seq             BIGINT NOT NULL,
    hash            BLOB   NOT NULL,
    covered_from    BIGINT NOT NULL,
    covered_through BIGINT NOT NULL,
    received_at     BIGINT NOT NULL,
    verdict         TEXT   NOT NULL CHECK (verdict IN ('counted', 'quarantined')),
    doubt_code      TEXT,
    doubt           TEXT,
    interval_count  BIGINT NOT NULL,
    bytes           BLOB   NOT NULL,
    PRIMARY KEY (stream, seq)
);
CREATE INDEX segments_by_end ON segments (stream, covered_through);
CREATE INDEX segments_in_doubt ON segments (stream, seq) WHERE verdict = 'quarantined';

-- The other branch of a fork: verified segments that do not continue the admitted chain.
CREATE TABLE forks (
    stream      BIGINT NOT NULL REFERENCES streams (id),
    seq         BIGINT NOT NULL,
    hash        BLOB   NOT NULL,
    received_at BIGINT NOT NULL,
    bytes       BLOB   NOT NULL,
    PRIMARY KEY (stream, seq, hash)
);

-- Which node claimed a kernel first, and for which time: two nodes with one boot at overlapping
-- times are one kernel. `counted_*` spans what was counted of it (empty: both equal).
CREATE TABLE boots (
    boot            BLOB   NOT NULL,
    node            BIGINT NOT NULL REFERENCES nodes (id),
    claim           BIGINT NOT NULL,
    seen_from       BIGINT NOT NULL,
    seen_through    BIGINT NOT NULL,
    counted_from    BIGINT NOT NULL,
    counted_through BIGINT NOT NULL,
    PRIMARY KEY (boot, node)
) WITHOUT ROWID;

-- Whole-node gaps that counted segments name.
CREATE TABLE gaps (
    node    BIGINT NOT NULL REFERENCES nodes (id),
    from_at BIGINT NOT NULL,
    to_at   BIGINT NOT NULL,
    stream  BIGINT NOT NULL REFERENCES streams (id),
    cause   TEXT   NOT NULL,
    PRIMARY KEY (node, from_at, to_at, stream)
) WITHOUT ROWID;

-- Bytes that were not counted, whole, with the reason. `node` is null for strangers.
CREATE TABLE refusals (
    id          BIGINT NOT NULL PRIMARY KEY,
    node        BIGINT REFERENCES nodes (id),
    reason      TEXT   NOT NULL,
    detail      TEXT   NOT NULL,
    peer        TEXT   NOT NULL DEFAULT '',
    stream      BLOB,
    seq         BIGINT,
    received_at BIGINT NOT NULL,
    byte_count  BIGINT NOT NULL,
    bytes       BLOB   NOT NULL
);
CREATE INDEX refusals_by_node ON refusals (node, id);

-- Every refusal ever, counted; `kept_*` says what `refusals` holds of them. `node` 0: strangers.
CREATE TABLE refusal_counts (
    node       BIGINT NOT NULL,
    reason     TEXT   NOT NULL,
    count      BIGINT NOT NULL,
    byte_count BIGINT NOT NULL,
    kept_count BIGINT NOT NULL,
    kept_bytes BIGINT NOT NULL,
    first_at   BIGINT NOT NULL,
    last_at    BIGINT NOT NULL,
    PRIMARY KEY (node, reason)
);

-- What is metered on a node, by name. `labels` is a JSON object, as counted segments had it that end
-- at `labelled_at`.
CREATE TABLE workloads (
    id            BIGINT NOT NULL PRIMARY KEY,
    node          BIGINT NOT NULL REFERENCES nodes (id),
    name          TEXT   NOT NULL,
    labels        TEXT   NOT NULL DEFAULT '{}',
    labelled_at   BIGINT NOT NULL DEFAULT 0,
    first_seen_at BIGINT NOT NULL,
    UNIQUE (node, name)
);

-- Derived, as of each stream's `rolled_seq`: registers and their last reading.
CREATE TABLE registers (
    stream       BIGINT NOT NULL REFERENCES streams (id),
    register     BIGINT NOT NULL,
    workload     BIGINT NOT NULL REFERENCES workloads (id),
    meter        BIGINT NOT NULL,
    basis        TEXT   NOT NULL,
    opened_at    BIGINT NOT NULL,
    last_at      BIGINT NOT NULL,
    last_reading BLOB   NOT NULL,
    closed       TEXT,
    PRIMARY KEY (stream, register)
) WITHOUT ROWID;
CREATE INDEX registers_by_workload ON registers (workload, meter);

-- Derived, as of each stream's `rolled_seq`: counted usage by UTC hour (hours since 1970), with
-- its four quarter-hours. Sums over rows are made by the reader, never by SQL.
CREATE TABLE rollups (
    hour          BIGINT NOT NULL,
    workload      BIGINT NOT NULL,
    meter         BIGINT NOT NULL,
    quantity0     BIGINT NOT NULL, quantity1     BIGINT NOT NULL, quantity2     BIGINT NOT NULL, quantity3     BIGINT NOT NULL,
    max0          BIGINT NOT NULL, max1          BIGINT NOT NULL, max2          BIGINT NOT NULL, max3          BIGINT NOT NULL,
    measured0     BIGINT NOT NULL, measured1     BIGINT NOT NULL, measured2     BIGINT NOT NULL, measured3     BIGINT NOT NULL,
    exact0        BIGINT NOT NULL, exact1        BIGINT NOT NULL, exact2        BIGINT NOT NULL, exact3        BIGINT NOT NULL,
    interpolated0 BIGINT NOT NULL, interpolated1 BIGINT NOT NULL, interpolated2 BIGINT NOT NULL, interpolated3 BIGINT NOT NULL,
    unmeasured0   BIGINT NOT NULL, unmeasured1   BIGINT NOT NULL, unmeasured2   BIGINT NOT NULL, unmeasured3   BIGINT NOT NULL,
    last_at       BIGINT NOT NULL,
    last_reading  BLOB   NOT NULL,
    PRIMARY KEY (hour, workload, meter)
) WITHOUT ROWID;

-- What persons and rules changed: appended to, each entry naming the hash of the one before.
CREATE TABLE audit (
    seq      BIGINT NOT NULL PRIMARY KEY,
    at       BIGINT NOT NULL,
    actor    TEXT   NOT NULL,
    action   TEXT   NOT NULL,
    subject  TEXT   NOT NULL,
    detail   TEXT   NOT NULL,
    salt     BLOB   NOT NULL, -- random: hides the content from who is shown its hash alone
    previous BLOB   NOT NULL,
    hash     BLOB   NOT NULL
);
