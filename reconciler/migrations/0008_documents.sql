-- Corrections state quantities too: what is billed of a period is what its latest document says.

-- What each issued document, an invoice or a correction of one, holds of each meter, in base units: charged, and
-- named as not priced. Meter 0 says that the document was read. It is read again from the documents.
DROP TABLE invoice_usage;
CREATE TABLE document_usage (
    document TEXT   NOT NULL,
    meter    BIGINT NOT NULL,
    billed   BLOB   NOT NULL,
    unpriced BLOB   NOT NULL,
    PRIMARY KEY (document, meter)
);
