//! The OpenAPI 3.1 document, generated from the handlers.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, ObjectBuilder, Ref, RefOr, ResponseBuilder, schema::Type};
use utoipa::{Modify, OpenApi};

use super::{
    audit, catalog, conservation, corrections, coverage, decisions, error, health, invoices,
    leakage, nodes, periods, tokens, usage,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Tallystick reconciler", description = "Metered usage, and bills that can be proved. \
        Amounts and quantities are text: decimals with their currency beside them, whole numbers of the meter's base unit."),
    paths(
        usage::overview, usage::list, usage::unassigned, usage::recent, coverage::list, conservation::list, leakage::show,
        nodes::list, nodes::show, nodes::streams, nodes::workloads, nodes::segments, nodes::quarantine, nodes::refusals,
        decisions::list, decisions::decide, decisions::resolve, decisions::revoke,
        nodes::ban, nodes::retire, nodes::all_refusals, tokens::create,
        catalog::accounts, catalog::create_account, catalog::account,
        catalog::assignments, catalog::assign,
        catalog::plans, catalog::apply_plan, catalog::check_plan, catalog::plan,
        catalog::subscriptions, catalog::subscribe,
        invoices::draft, invoices::list, invoices::issue, invoices::show, invoices::evidence,
        periods::list, periods::show, periods::close,
        corrections::draft, corrections::policy, corrections::set_policy, corrections::list, corrections::issue,
        corrections::show, corrections::evidence,
        audit::list, document, health::healthz, health::readyz, crate::metrics::show,
    ),
    components(schemas(error::Problem)),
    security(("token" = [])),
    modifiers(&Common),
)]
pub(super) struct Document;

/// What every operation has: the bearer token, problems, and for writes the idempotency key.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("token", scheme);
        for item in document.paths.paths.values_mut() {
            for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
                add_problems(operation);
                describe_answers(operation);
                name(operation);
            }
            if let Some(operation) = &mut item.post {
                operation
                    .parameters
                    .get_or_insert_default()
                    .push(idempotency_key().into());
            }
        }
    }
}

fn add_problems(operation: &mut Operation) {
    let content = |description: &str| {
        let problem = Ref::from_schema_name("Problem");
        ResponseBuilder::new()
            .description(description)
            .content(
                "application/problem+json",
                Content::new(Some(RefOr::Ref(problem))),
            )
            .build()
    };
    let statuses: Vec<String> = operation.responses.responses.keys().cloned().collect();
    for status in statuses
        .iter()
        .filter(|status| status.starts_with(['4', '5']))
    {
        operation
            .responses
            .responses
            .insert(status.clone(), content("a problem").into());
    }
    let open = operation.security.is_some();
    if !open {
        let security = SecurityRequirement::new("token", Vec::<String>::new());
        operation.security = Some(vec![security]);
        operation
            .responses
            .responses
            .insert("401".to_owned(), content("no known token").into());
    }
    operation
        .responses
        .responses
        .insert("default".to_owned(), content("any other problem").into());
}

/// OpenAPI wants words for every answer; what it holds is in its schema.
fn describe_answers(operation: &mut Operation) {
    for (status, answer) in &mut operation.responses.responses {
        if let RefOr::T(answer) = answer
            && answer.description.is_empty()
        {
            let words = if status == "201" { "made" } else { "done" };
            words.clone_into(&mut answer.description);
        }
    }
}

/// Handlers of several modules have one name, operations must not.
fn name(operation: &mut Operation) {
    let tag = operation.tags.as_ref().and_then(|tags| tags.first());
    if let (Some(tag), Some(handler)) = (tag, &operation.operation_id) {
        operation.operation_id = Some(format!("{tag}_{handler}"));
    }
}

fn idempotency_key() -> Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "1 to 255 characters: the request is carried out once and answered the same for a day",
        ))
        .schema(Some(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .pattern(Some("^[!-~]{1,255}$")),
        ))
        .build()
}

static JSON: LazyLock<String> = LazyLock::new(|| Document::openapi().to_json().unwrap_or_default());

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "health", security(()),
    responses((status = 200, body = Object)))]
pub(super) async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str()).into_response()
}
