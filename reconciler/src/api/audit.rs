//! The audit log.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::Problem;
use super::extract::Params;
use super::page::{Page, PageParams, cursor};
use crate::audit;

/// An entry of the audit log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Its number, from 1 without a hole.
    pub seq: u64,
    /// When.
    #[schema(format = DateTime)]
    pub at: String,
    /// Who.
    pub actor: String,
    /// What was done.
    #[schema(example = "invoice.issue")]
    pub action: String,
    /// To what.
    pub subject: String,
    /// More: the JSON text as hashed.
    pub detail: String,
    /// Random, hashed with it.
    pub salt: String,
    /// The hash of the entry before, zeros for the first.
    pub previous: String,
    /// Its hash.
    pub hash: String,
}

impl From<audit::Entry> for AuditEntry {
    fn from(entry: audit::Entry) -> Self {
        Self {
            seq: entry.seq,
            at: entry.at.to_string(),
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            detail: entry.detail,
            salt: entry.salt.to_string(),
            previous: entry.previous.to_string(),
            hash: entry.hash.to_string(),
        }
    }
}

/// Every change, oldest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(PageParams),
    responses((status = 200, body = Page<AuditEntry>)))]
pub(super) async fn list(
    State(app): State<App>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<AuditEntry>>, Problem> {
    let limit = page.limit()?;
    let mut tx = app.store().read().await?;
    let more = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let mut entries = audit::entries(&mut tx, page.after_number()?, more).await?;
    let rest = entries.len() > limit;
    entries.truncate(limit);
    let next = entries
        .last()
        .filter(|_| rest)
        .map(|entry| cursor(&entry.seq.to_string()));
    Ok(Json(Page {
        items: entries.into_iter().map(AuditEntry::from).collect(),
        next,
    }))
}
