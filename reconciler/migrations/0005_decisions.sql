-- What persons decided about stored segments, and keys that no longer sign any.

-- Appended to, never changed: of two that name a segment the later one holds. `last_seq` null: everything from
-- `first_seq` on. `id` is 1, 2, 3 in the order of deciding, and the highest one is the version of all verdicts: whoever
-- remembers which segments count reads them again when it has risen.
CREATE TABLE decisions (
    id         BIGINT NOT NULL PRIMARY KEY,
    kind       TEXT   NOT NULL CHECK (kind IN ('accept', 'reject', 'keep_admitted', 'keep_other', 'revoke')),
    stream     BIGINT NOT NULL REFERENCES streams (id),
    first_seq  BIGINT NOT NULL,
    last_seq   BIGINT,
    reason     TEXT   NOT NULL,
    decided_by TEXT   NOT NULL,
    decided_at BIGINT NOT NULL,
    signed     BLOB   NOT NULL -- the statement, signed by the receipt key
);
CREATE INDEX decisions_by_stream ON decisions (stream, id);

-- Keys of a node that sign nothing new any more. Of the stream named, nothing from `from_seq` on counts.
CREATE TABLE revocations (
    node       BIGINT NOT NULL REFERENCES nodes (id),
    stream     BLOB   NOT NULL,
    from_seq   BIGINT NOT NULL,
    key        BLOB   NOT NULL,
    reason     TEXT   NOT NULL,
    revoked_at BIGINT NOT NULL,
    PRIMARY KEY (node, stream, from_seq)
);
