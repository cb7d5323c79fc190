-- Whom usage belongs to, what it costs, what was invoiced, and who may ask.
--
-- Times are microseconds UTC. Hashes and digests are lower-case hexadecimal text. Amounts are
-- minor units of the currency beside them; inside documents, decimal text. Rows of plan_versions, subscriptions,
-- assignments and invoices are written once and never changed.

CREATE TABLE accounts (
    id          TEXT   NOT NULL PRIMARY KEY, -- slug
    name        TEXT   NOT NULL,
    currency    TEXT   NOT NULL,             -- ISO 4217
    time_zone   TEXT   NOT NULL,             -- IANA name, looked up in the bundled database
    anchor_day  BIGINT NOT NULL,             -- day of month on which a billing period begins
    created_at  BIGINT NOT NULL
);

-- The latest effective rule that matches a workload of a node wins.
CREATE TABLE assignments (
    id                BIGINT NOT NULL PRIMARY KEY, -- 1, 2, 3 in the order of making
    account           TEXT   NOT NULL REFERENCES accounts (id),
    node_selector     TEXT   NOT NULL,             -- node id, or pattern on the node's name
    workload_selector TEXT   NOT NULL,             -- pattern on the workload's name
    from_at           BIGINT NOT NULL,             -- a quarter-hour
    created_at        BIGINT NOT NULL
);
CREATE INDEX assignments_by_account ON assignments (account, from_at);

CREATE TABLE plan_versions (
    plan       TEXT   NOT NULL,
    version    BIGINT NOT NULL,
    digest     TEXT   NOT NULL, -- of the canonical document, not of its spelling
    currency   TEXT   NOT NULL,
    document   TEXT   NOT NULL, -- the canonical document
    source     TEXT   NOT NULL, -- the TOML text as it was applied
    applied_at BIGINT NOT NULL,
    PRIMARY KEY (plan, version)
);

-- An account has the plan version of its latest subscription that is effective.
CREATE TABLE subscriptions (
    id           BIGINT NOT NULL PRIMARY KEY,
    account      TEXT   NOT NULL REFERENCES accounts (id),
    plan         TEXT   NOT NULL,
    plan_version BIGINT NOT NULL,
    from_at      BIGINT NOT NULL, -- a quarter-hour
    created_at   BIGINT NOT NULL,
    UNIQUE (account, from_at),
    FOREIGN KEY (plan, plan_version) REFERENCES plan_versions (plan, version)
);

-- The next number of each year's series. Taken in the transaction that writes the invoice, so a
-- number exists exactly when its document does.
CREATE TABLE invoice_series (
    year         BIGINT NOT NULL PRIMARY KEY,
    next_ordinal BIGINT NOT NULL
);

CREATE TABLE invoices (
    number      TEXT   NOT NULL PRIMARY KEY, -- TS-2026-000001
    account     TEXT   NOT NULL REFERENCES accounts (id),
    period_from BIGINT NOT NULL,
    period_to   BIGINT NOT NULL,
    currency    TEXT   NOT NULL,
    total_minor BIGINT NOT NULL, -- in minor units of the currency
    digest      TEXT   NOT NULL, -- BLAKE3 of the bytes of document
    document    TEXT   NOT NULL, -- the frozen JSON document
    issued_at   BIGINT NOT NULL,
    UNIQUE (account, period_from)
);

-- Secrets are kept as BLAKE3 hashes only.
CREATE TABLE api_tokens (
    hash       TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    role       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE login_codes (
    hash       TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL, -- the actor that the session will be
    expires_at BIGINT NOT NULL,
    used_at    BIGINT
);

CREATE TABLE console_sessions (
    hash       TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- Answers to writes that carried an Idempotency-Key. status 0: still being worked on.
CREATE TABLE idempotency_keys (
    actor      TEXT   NOT NULL,
    key        TEXT   NOT NULL,
    request    TEXT   NOT NULL, -- BLAKE3 of method, path and body
    status     BIGINT NOT NULL,
    body       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (actor, key)
);
