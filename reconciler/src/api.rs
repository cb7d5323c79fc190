//! HTTP: `/v1` as JSON, its OpenAPI document, health and metrics.
//!
//! Owns routes, who may ask, and how answers and problems look. Decides nothing: every handler calls
//! the function that the command line calls. The console's pages are [`crate::console`].

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};

use crate::config::Rules;
use crate::ingest::Services;
use crate::store::Store;

pub mod audit;
pub mod catalog;
pub mod conservation;
pub mod corrections;
pub mod coverage;
pub mod decisions;
pub mod document;
pub mod error;
pub mod extract;
mod guard;
pub mod health;
pub mod invoices;
pub mod leakage;
pub mod nodes;
pub mod openapi;
pub mod page;
pub mod periods;
pub mod schema;
pub mod tokens;
pub mod usage;

pub use error::Problem;

/// What handlers work with. Cloning shares it.
#[derive(Debug, Clone)]
pub struct App {
    /// Store, authority, strangers.
    pub services: Arc<Services>,
    /// Who sells, as it stands on invoices.
    pub seller: Arc<str>,
    /// What is decided by rule.
    pub rules: Arc<Rules>,
    /// Where ingest listens; none when it does not.
    pub ingest: Option<SocketAddr>,
}

impl App {
    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.services.store
    }
}

/// One operation: method, path, handler.
pub(crate) type Operation = (Method, &'static str, MethodRouter<App>);

/// Operations that need an API token.
fn guarded() -> Vec<Operation> {
    let (read, write) = (Method::GET, Method::POST);
    vec![
        (read.clone(), "/v1/overview", get(usage::overview)),
        (read.clone(), "/v1/usage", get(usage::list)),
        (read.clone(), "/v1/usage/unassigned", get(usage::unassigned)),
        (read.clone(), "/v1/usage/recent", get(usage::recent)),
        (read.clone(), "/v1/coverage", get(coverage::list)),
        (read.clone(), "/v1/leakage", get(leakage::show)),
        (read.clone(), "/v1/nodes", get(nodes::list)),
        (read.clone(), "/v1/nodes/{node}", get(nodes::show)),
        (
            read.clone(),
            "/v1/nodes/{node}/streams",
            get(nodes::streams),
        ),
        (
            read.clone(),
            "/v1/nodes/{node}/workloads",
            get(nodes::workloads),
        ),
        (
            read.clone(),
            "/v1/nodes/{node}/segments",
            get(nodes::segments),
        ),
        (
            read.clone(),
            "/v1/nodes/{node}/quarantine",
            get(nodes::quarantine),
        ),
        (
            read.clone(),
            "/v1/nodes/{node}/refusals",
            get(nodes::refusals),
        ),
        (
            read.clone(),
            "/v1/nodes/{node}/conservation",
            get(conservation::list),
        ),
        (
            read.clone(),
            "/v1/nodes/{node}/decisions",
            get(decisions::list),
        ),
        (
            write.clone(),
            "/v1/nodes/{node}/quarantine/decide",
            post(decisions::decide),
        ),
        (
            write.clone(),
            "/v1/nodes/{node}/resolve",
            post(decisions::resolve),
        ),
        (
            write.clone(),
            "/v1/nodes/{node}/revoke",
            post(decisions::revoke),
        ),
        (write.clone(), "/v1/nodes/{node}/ban", post(nodes::ban)),
        (
            write.clone(),
            "/v1/nodes/{node}/retire",
            post(nodes::retire),
        ),
        (read.clone(), "/v1/refusals", get(nodes::all_refusals)),
        (write.clone(), "/v1/join-tokens", post(tokens::create)),
        (read.clone(), "/v1/accounts", get(catalog::accounts)),
        (write.clone(), "/v1/accounts", post(catalog::create_account)),
        (
            read.clone(),
            "/v1/accounts/{account}",
            get(catalog::account),
        ),
        (
            read.clone(),
            "/v1/accounts/{account}/draft",
            get(invoices::draft),
        ),
        (read.clone(), "/v1/periods", get(periods::list)),
        (
            read.clone(),
            "/v1/accounts/{account}/periods/{period}",
            get(periods::show),
        ),
        (
            write.clone(),
            "/v1/accounts/{account}/periods/{period}/close",
            post(periods::close),
        ),
        (read.clone(), "/v1/assignments", get(catalog::assignments)),
        (write.clone(), "/v1/assignments", post(catalog::assign)),
        (read.clone(), "/v1/plans", get(catalog::plans)),
        (write.clone(), "/v1/plans", post(catalog::apply_plan)),
        (write.clone(), "/v1/plans/check", post(catalog::check_plan)),
        (read.clone(), "/v1/plans/{plan}", get(catalog::plan)),
        (
            read.clone(),
            "/v1/subscriptions",
            get(catalog::subscriptions),
        ),
        (write.clone(), "/v1/subscriptions", post(catalog::subscribe)),
        (read.clone(), "/v1/invoices", get(invoices::list)),
        (write.clone(), "/v1/invoices", post(invoices::issue)),
        (read.clone(), "/v1/invoices/{number}", get(invoices::show)),
        (
            read.clone(),
            "/v1/invoices/{number}/evidence",
            get(invoices::evidence),
        ),
        (
            read.clone(),
            "/v1/accounts/{account}/correction",
            get(corrections::draft),
        ),
        (
            read.clone(),
            "/v1/accounts/{account}/correction-policy",
            get(corrections::policy),
        ),
        (
            write.clone(),
            "/v1/accounts/{account}/correction-policy",
            post(corrections::set_policy),
        ),
        (read.clone(), "/v1/corrections", get(corrections::list)),
        (write, "/v1/corrections", post(corrections::issue)),
        (
            read.clone(),
            "/v1/corrections/{number}",
            get(corrections::show),
        ),
        (
            read.clone(),
            "/v1/corrections/{number}/evidence",
            get(corrections::evidence),
        ),
        (read, "/v1/audit", get(audit::list)),
    ]
}

/// Operations that anybody may ask for.
fn open() -> Vec<Operation> {
    vec![
        (Method::GET, "/v1/openapi.json", get(openapi::document)),
        (Method::GET, "/healthz", get(health::healthz)),
        (Method::GET, "/readyz", get(health::readyz)),
        (Method::GET, "/metrics", get(crate::metrics::show)),
    ]
}

fn routes(operations: Vec<Operation>) -> Router<App> {
    operations
        .into_iter()
        .fold(Router::new(), |router, (_, path, handler)| {
            router.route(path, handler)
        })
}

/// Everything that HTTP answers: API and console.
pub fn router(app: App) -> Router {
    routes(guarded())
        .route_layer(from_fn_with_state(app.clone(), guard::guard))
        .merge(routes(open()))
        .merge(crate::console::routes(&app))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(map_response(secured))
        .with_state(app)
}

async fn not_found(uri: axum::http::Uri) -> Problem {
    Problem::not_found(format!(
        "nothing is at {}; GET /v1/openapi.json lists what there is",
        uri.path()
    ))
}

async fn wrong_method(method: Method, uri: axum::http::Uri) -> Problem {
    Problem::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "another method is needed",
        format!(
            "{} does not take {method}; see GET /v1/openapi.json",
            uri.path()
        ),
    )
}

/// Headers of every answer: nothing is cached, embedded elsewhere or run from elsewhere.
async fn secured(mut response: Response) -> Response {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                  connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
