-- Whether all that was received is accounted for, and which periods were closed with gaps.

-- Which process does a job that is done once for all, until when unless it goes on.
CREATE TABLE turns (
    job    TEXT   NOT NULL PRIMARY KEY,
    holder BIGINT NOT NULL,
    until  BIGINT NOT NULL
);

-- Hours (since 1970) of the leakage account. `marked` rises whenever a segment with time in the hour was
-- admitted; the hour is due while `tallied` is less.
CREATE TABLE leakage_hours (
    hour       BIGINT NOT NULL PRIMARY KEY,
    marked     BIGINT NOT NULL,
    tallied    BIGINT NOT NULL DEFAULT 0,
    tallied_at BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX leakage_due ON leakage_hours (hour) WHERE tallied < marked;
CREATE INDEX leakage_by_age ON leakage_hours (tallied_at);

-- Up to which segment of each stream hours were marked.
CREATE TABLE leakage_positions (
    stream   BIGINT NOT NULL PRIMARY KEY REFERENCES streams (id),
    next_seq BIGINT NOT NULL
);

-- What an hour came to when it was tallied, over all nodes, in base units (16 bytes big-endian): received
-- by sealed registers, counted by rollups, quarantined, written off.
CREATE TABLE leakage (
    hour        BIGINT NOT NULL,
    meter       BIGINT NOT NULL,
    received    BLOB   NOT NULL,
    counted     BLOB   NOT NULL,
    quarantined BLOB   NOT NULL,
    written_off BLOB   NOT NULL,
    differs     BIGINT NOT NULL CHECK (differs IN (0, 1)),
    PRIMARY KEY (hour, meter)
) WITHOUT ROWID;
CREATE INDEX leakage_differing ON leakage (hour, meter) WHERE differs = 1;

-- What an issued invoice holds of each meter, in base units: charged, and named as not priced. Meter 0 says
-- that the invoice was read.
CREATE TABLE invoice_usage (
    invoice  TEXT   NOT NULL REFERENCES invoices (number),
    meter    BIGINT NOT NULL,
    billed   BLOB   NOT NULL,
    unpriced BLOB   NOT NULL,
    PRIMARY KEY (invoice, meter)
);

-- Hours of nodes in which the host's total is not what its workloads and `host/other` come to (I4). The
-- difference is a whole number with its sign.
CREATE TABLE imbalances (
    hour       BIGINT NOT NULL,
    node       BIGINT NOT NULL REFERENCES nodes (id),
    meter      BIGINT NOT NULL,
    difference TEXT   NOT NULL,
    PRIMARY KEY (hour, node, meter)
);

-- Periods that were closed although nodes were outstanding. Written once and never changed.
CREATE TABLE closings (
    account     TEXT   NOT NULL REFERENCES accounts (id),
    period_from BIGINT NOT NULL,
    period_to   BIGINT NOT NULL,
    reason      TEXT   NOT NULL,
    actor       TEXT   NOT NULL,
    closed_at   BIGINT NOT NULL,
    PRIMARY KEY (account, period_from)
);
