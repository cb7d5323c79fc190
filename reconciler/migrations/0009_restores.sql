-- Lives of the store: each restore from a backup begins a new one.

-- In the numbers of documents, between year and ordinal: empty in a store that was never restored. Numbers that
-- the life before gave out after the backup are unknown, so a life continues no series but its own.
ALTER TABLE meta ADD COLUMN series TEXT NOT NULL DEFAULT '';

-- Appended to, never changed.
CREATE TABLE restores (
    number         BIGINT NOT NULL PRIMARY KEY, -- 1, 2, 3 in the order of restoring
    epoch_before   BLOB   NOT NULL,
    epoch          BLOB   NOT NULL,
    series         TEXT   NOT NULL UNIQUE,
    backup_made_at BIGINT NOT NULL,
    restored_at    BIGINT NOT NULL,
    restored_by    TEXT   NOT NULL
);
