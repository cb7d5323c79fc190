-- How nodes are to meter, as set centrally, and what they say is in force.

-- Written once and never changed: the newest version of a node holds. `number` rises over all nodes, so that
-- a running server sees a change made by another process.
CREATE TABLE node_settings (
    number   BIGINT NOT NULL PRIMARY KEY,
    node     BIGINT NOT NULL REFERENCES nodes (id),
    version  BIGINT NOT NULL, -- 1, 2, 3 of the node
    document TEXT   NOT NULL, -- TOML; empty: the node's own configuration
    set_at   BIGINT NOT NULL,
    set_by   TEXT   NOT NULL,
    UNIQUE (node, version)
);

-- The last word of each node.
CREATE TABLE node_in_force (
    node     BIGINT NOT NULL PRIMARY KEY REFERENCES nodes (id),
    settings BIGINT NOT NULL, -- version last heard of; 0: none
    digest   BLOB   NOT NULL, -- of its configuration, as in segment headers
    problem  TEXT,            -- why those settings are not in force
    told_at  BIGINT NOT NULL
);
