//! The console: pages for people, server-rendered, nothing loaded from elsewhere.
//!
//! Owns routes, login and the session's cookie. How pages look is [`pages`]; their figures come from
//! the functions that the API calls. Works without JavaScript by reloading.

use axum::Router;
use axum::extract::{Form, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use crate::api::{App, Problem};
use crate::auth::{self, COOKIE, SESSION_LIFE, Secret};
use crate::billing::draft::{Which, draft};
use crate::{clock, overview, store};

pub mod pages;
pub(crate) mod view;

const CSS: &str = include_str!("../assets/console.css");
const HTMX: &str = include_str!("../assets/htmx-2.0.11.min.js");
const ICON: &str = include_str!("../assets/icon.svg");

/// The console's routes. Pages need a session; without one the browser is sent to the login page.
pub fn routes(app: &App) -> Router<App> {
    Router::new()
        .route("/", get(first_page))
        .route("/live", get(live))
        .route("/accounts/{account}/draft", get(draft_page))
        .route("/invoices/{number}", get(invoice_page))
        .route_layer(from_fn_with_state(app.clone(), session))
        .route("/login", get(login_page).post(login))
        .route("/logout", post(logout))
        .route(
            "/assets/console.css",
            get(|| asset("text/css; charset=utf-8", CSS)),
        )
        .route(
            "/assets/htmx.js",
            get(|| asset("text/javascript; charset=utf-8", HTMX)),
        )
        .route("/assets/icon.svg", get(|| asset("image/svg+xml", ICON)))
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=3600"),
    ];
    (headers, text).into_response()
}

async fn session(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let actor = match cookie(request.headers()) {
        Some(cookie) => auth::session_actor(app.store(), cookie, clock::now()).await?,
        None => None,
    };
    if actor.is_some() {
        return Ok(next.run(request).await);
    }
    if request.headers().contains_key("hx-request") {
        // A fragment cannot log in: send the whole page to the login.
        let headers = [("hx-redirect", "/login")];
        return Ok((StatusCode::UNAUTHORIZED, headers).into_response());
    }
    Ok(Redirect::to("/login").into_response())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

fn rendered(page: askama::Result<String>) -> Result<Response, Problem> {
    page.map(|text| Html(text).into_response())
        .map_err(|error| Problem::internal(&error))
}

async fn first_page(State(app): State<App>) -> Result<Response, Problem> {
    rendered(pages::first_page(&figures(&app).await?))
}

async fn live(State(app): State<App>) -> Result<Response, Problem> {
    rendered(pages::first_page_fragment(&figures(&app).await?))
}

async fn figures(app: &App) -> Result<overview::Overview, Problem> {
    let mut tx = app.store().read().await?;
    Ok(overview::overview(&mut tx, &app.seller, &app.rules, clock::now()).await?)
}

async fn draft_page(
    State(app): State<App>,
    Path(account): Path<String>,
) -> Result<Response, Problem> {
    let now = clock::now();
    let mut tx = app.store().read().await?;
    let draft = draft(&mut tx, &account, Which::At(now), &app.seller, now).await?;
    rendered(pages::invoice_page(&view::of_statement(&draft.statement)))
}

async fn invoice_page(
    State(app): State<App>,
    Path(number): Path<String>,
) -> Result<Response, Problem> {
    let mut tx = app.store().read().await?;
    let row = store::corrections::document(&mut tx, &number).await?;
    let row = row.ok_or_else(|| {
        Problem::not_found(format!("no invoice or correction has the number {number}"))
    })?;
    let by = store::corrections::of_invoice(&mut tx, &number).await?;
    let view = view::of_invoice(&row, &by).map_err(|error| Problem::internal(&error))?;
    rendered(pages::invoice_page(&view))
}

/// A login link carries its code.
#[derive(Debug, Deserialize)]
struct LoginLink {
    code: Option<String>,
}

async fn login_page(
    State(app): State<App>,
    Query(link): Query<LoginLink>,
) -> Result<Response, Problem> {
    let Some(code) = link.code else {
        return rendered(pages::login_page(None));
    };
    match auth::login_by_code(app.store(), &code, clock::now()).await? {
        Some(session) => Ok(logged_in(&session)),
        None => refused(
            "This link was used before, or is too old. Paste an API token, or make a new link.",
        ),
    }
}

/// The login form.
#[derive(Debug, Deserialize)]
struct LoginForm {
    token: String,
}

async fn login(State(app): State<App>, Form(form): Form<LoginForm>) -> Result<Response, Problem> {
    match auth::login_by_token(app.store(), form.token.trim(), clock::now()).await? {
        Some(session) => Ok(logged_in(&session)),
        None => refused(
            "This API token is not known. `tallystick-reconciler init` printed the first one.",
        ),
    }
}

fn refused(problem: &str) -> Result<Response, Problem> {
    let page = rendered(pages::login_page(Some(problem)))?;
    Ok((StatusCode::UNAUTHORIZED, page).into_response())
}

async fn logout(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(cookie) = cookie(&headers) {
        auth::logout(app.store(), cookie).await?;
    }
    Ok(with_cookie(Redirect::to("/login").into_response(), "", 0))
}

/// The first page comes by a page that the console itself sent, so that the browser gives it the
/// `SameSite=Strict` cookie also when the link was followed from elsewhere.
fn logged_in(session: &Secret) -> Response {
    let page = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url=/\">\
                <link rel=\"icon\" href=\"/assets/icon.svg\"><title>Tallystick</title></head><body><a href=\"/\">Go on to the console</a></body></html>";
    with_cookie(
        Html(page).into_response(),
        session.reveal(),
        SESSION_LIFE.0 / 1_000_000,
    )
}

fn with_cookie(mut response: Response, value: &str, seconds: u64) -> Response {
    let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}");
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}
