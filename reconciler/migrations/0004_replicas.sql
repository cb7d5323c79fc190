-- Who admits what, where several processes share a store.

-- A process that admits segments, by a number that it drew. `taken` rises whenever another takes a node from
-- it, or claims a kernel that a node of it claimed: what it remembers may be out of date. Its transactions
-- hold this row while they last, so that neither happens in the middle of one. `seen_at` is renewed on servers
-- only: the rollups of whoever falls silent are for all others.
CREATE TABLE replicas (
    id      BIGINT NOT NULL PRIMARY KEY,
    seen_at BIGINT NOT NULL,
    taken   BIGINT NOT NULL DEFAULT 0
);

-- Which of them admits the segments of a node, in all its streams. `epoch` rises with every change of owner.
CREATE TABLE owners (
    node    BIGINT NOT NULL PRIMARY KEY REFERENCES nodes (id),
    replica BIGINT NOT NULL,
    epoch   BIGINT NOT NULL
);

-- Two that claim one kernel at the same time are not both the first.
CREATE UNIQUE INDEX boots_in_order ON boots (boot, claim);
