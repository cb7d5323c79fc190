-- What corrects issued invoices, and rules that end what is an account's.
--
-- Rows of corrections, carried_corrections and correction_policies are written once and never changed.

-- 1: from its instant on, what the rule selects of the account's is nobody's.
ALTER TABLE assignments ADD COLUMN ends BIGINT NOT NULL DEFAULT 0;

-- Documents that correct an invoice. Each names the one before it of the same period as its base, which has
-- one successor at most: two that correct at once do not both succeed.
CREATE TABLE corrections (
    number      TEXT   NOT NULL PRIMARY KEY, -- CN-2026-000001, CI-2026-000001, CL-2026-000001
    kind        TEXT   NOT NULL CHECK (kind IN ('credit_note', 'correction_invoice', 'next_invoice')),
    account     TEXT   NOT NULL REFERENCES accounts (id),
    invoice     TEXT   NOT NULL REFERENCES invoices (number),
    base        TEXT   NOT NULL UNIQUE,      -- number of the invoice or of another correction of it
    period_from BIGINT NOT NULL,
    period_to   BIGINT NOT NULL,
    currency    TEXT   NOT NULL,
    total_minor BIGINT NOT NULL, -- in minor units of the currency; negative on credit notes
    digest      TEXT   NOT NULL, -- BLAKE3 of the bytes of document
    document    TEXT   NOT NULL, -- the frozen JSON document
    issued_at   BIGINT NOT NULL
);
CREATE INDEX corrections_by_invoice ON corrections (invoice);
CREATE INDEX corrections_by_account ON corrections (account, issued_at);

CREATE INDEX corrections_by_issue ON corrections (issued_at);

-- When the newest document was issued, and which invoices reach beyond an instant: asked for by every assignment.
CREATE INDEX invoices_by_issue ON invoices (issued_at);
CREATE INDEX invoices_by_end ON invoices (period_to);

-- Which invoice carries the lines of a correction of the kind next_invoice.
CREATE TABLE carried_corrections (
    correction TEXT NOT NULL PRIMARY KEY REFERENCES corrections (number),
    invoice    TEXT NOT NULL REFERENCES invoices (number)
);

-- The next number of each kind's and year's series, taken in the transaction that writes the document.
CREATE TABLE correction_series (
    kind         TEXT   NOT NULL,
    year         BIGINT NOT NULL,
    next_ordinal BIGINT NOT NULL,
    PRIMARY KEY (kind, year)
);

-- How an account is corrected; its latest version holds.
CREATE TABLE correction_policies (
    account TEXT   NOT NULL REFERENCES accounts (id),
    version BIGINT NOT NULL, -- 1, 2, 3 of the account
    policy  TEXT   NOT NULL CHECK (policy IN ('own_document', 'next_invoice')),
    set_at  BIGINT NOT NULL,
    set_by  TEXT   NOT NULL,
    PRIMARY KEY (account, version)
);
