//! Problems: what a failed request is answered with (RFC 9457).
//!
//! The one place where errors of the domain become HTTP.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::auth::AuthError;
use crate::billing::BillingError;
use crate::catalog::CatalogError;
use crate::catalog::change::ChangeError;
use crate::decision::DecisionError;
use crate::evidence::EvidenceError;
use crate::store::StoreError;

/// A problem document, `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:tallystick:problem:` and a word that programs can act on.
    #[serde(rename = "type")]
    #[schema(example = "urn:tallystick:problem:not-found")]
    pub kind: String,
    /// The same in words, always the same for one type.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What was attempted, on what, and what to do.
    pub detail: String,
    /// Each fault by itself, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

impl Problem {
    /// A problem of a kind.
    #[must_use]
    pub fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:tallystick:problem:{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// Nothing is there.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "no such thing", detail)
    }

    /// A value that cannot be used.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "a value is not usable",
            detail,
        )
    }

    /// A request that cannot be read.
    #[must_use]
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed",
            "the request cannot be read",
            detail,
        )
    }

    /// The state of things forbids it.
    #[must_use]
    pub fn conflict(kind: &str, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            kind,
            "the present state forbids it",
            detail,
        )
    }

    /// Nobody said who they are.
    #[must_use]
    pub fn unauthorized() -> Self {
        let detail = "give an API token as `Authorization: Bearer TOKEN`; `tallystick-reconciler init` printed the first";
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "who is asking is not known",
            detail,
        )
    }

    /// Our own failure. The detail goes to the log, not to the caller.
    #[must_use]
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        let detail = "the reconciler could not answer; its log says why";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "a failure of the reconciler",
            detail,
        )
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::internal(&error)
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        Self::internal(&error)
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        let detail = error.to_string();
        match error {
            CatalogError::Invalid { .. } | CatalogError::NotQuarterHour { .. } => {
                Self::invalid(detail)
            }
            CatalogError::Overlap { .. } => Self::conflict("overlap", detail),
            CatalogError::Invoiced { .. } => Self::conflict("invoiced", detail),
            CatalogError::Exists { .. } => Self::conflict("exists", detail),
            CatalogError::Unknown { .. } => Self::not_found(detail),
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Catalog(error) => error.into(),
            ChangeError::Store(error) => error.into(),
            ChangeError::Plan { problems, .. } => {
                let mut problem = Self::invalid("the plan cannot be used; errors says why");
                problem.errors = problems;
                problem
            }
        }
    }
}

impl From<BillingError> for Problem {
    fn from(error: BillingError) -> Self {
        let detail = error.to_string();
        match error {
            BillingError::Catalog(error) => error.into(),
            BillingError::Change(error) => error.into(),
            BillingError::Store(error) => error.into(),
            BillingError::Period(_) => Self::invalid(detail),
            BillingError::NotEnded { .. } => Self::conflict("period-not-ended", detail),
            BillingError::NoGaps { .. } => Self::conflict("no-gaps", detail),
            BillingError::Outstanding { .. } => Self::conflict("outstanding", detail),
            BillingError::Discrepancies { .. } => Self::conflict("discrepancies", detail),
            BillingError::Statement { .. } => Self::conflict("statement", detail),
            BillingError::NotIssued { .. } => Self::conflict("not-issued", detail),
            BillingError::Kind { .. } => Self::conflict("kind", detail),
            BillingError::OtherTerms { .. } => Self::conflict("other-terms", detail),
            BillingError::Money(_) | BillingError::Correction { .. } => Self::internal(&detail),
        }
    }
}

impl From<DecisionError> for Problem {
    fn from(error: DecisionError) -> Self {
        let detail = error.to_string();
        match error {
            DecisionError::Catalog(error) => error.into(),
            DecisionError::Change(error) => error.into(),
            DecisionError::Store(error) => error.into(),
            DecisionError::Period(_) => Self::internal(&detail),
            DecisionError::NoSegment { .. } => Self::not_found(detail),
            DecisionError::Counted { .. } | DecisionError::NotQuarantined { .. } => {
                Self::conflict("not-quarantined", detail)
            }
            DecisionError::Doubtful { .. } => Self::conflict("still-doubtful", detail),
            DecisionError::Revoked { .. } => Self::conflict("key-revoked", detail),
            DecisionError::NotForked { .. } => Self::conflict("not-forked", detail),
        }
    }
}

impl From<EvidenceError> for Problem {
    fn from(error: EvidenceError) -> Self {
        match error {
            EvidenceError::Unknown(_) => Self::not_found(error.to_string()),
            EvidenceError::Changed { .. } => Self::conflict("evidence-changed", error.to_string()),
            EvidenceError::Store(error) => error.into(),
        }
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let detail = rejection.body_text();
        match rejection.status() {
            StatusCode::UNPROCESSABLE_ENTITY => Self::invalid(detail),
            StatusCode::BAD_REQUEST => Self::malformed(detail),
            status => Self::new(status, "malformed", "the request cannot be read", detail),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::malformed(rejection.body_text())
    }
}
