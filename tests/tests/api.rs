//! What the API promises, asked of a running `tallystick up` over HTTP.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tallystick_tests::http::{Answer, Api};
use tallystick_tests::poll;
use tallystick_tests::process::Up;

const PATIENCE: Duration = Duration::from_secs(30);

/// Running, with usage and an amount to show.
fn up() -> (tempfile::TempDir, Up) {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data")).unwrap();
    poll::until(PATIENCE, "an amount", || {
        let overview = up.get("/v1/overview").unwrap();
        let lines = overview["accounts"][0]["lines"].as_array()?.len();
        (lines > 0 && !overview["usage"].as_array()?.is_empty()).then_some(())
    });
    (folder, up)
}

/// The values that a page shows as figures: of every `<data value="…">`.
fn figures(page: &str) -> Vec<String> {
    let after = |at: &str| at.split_once("value=\"").map(|(_, rest)| rest.to_owned());
    let data = page
        .split("<data ")
        .skip(1)
        .filter_map(|at| after(at.split('>').next()?));
    data.filter_map(|value| value.split('"').next().map(str::to_owned))
        .collect()
}

/// The text between tags.
fn texts(page: &str) -> Vec<String> {
    let pieces = page.split('<').filter_map(|piece| piece.split_once('>'));
    let texts = pieces.map(|(_, text)| text.trim().to_owned());
    texts.filter(|text| !text.is_empty()).collect()
}

/// A console session by the one-time link: its cookie.
fn cookie(up: &Up) -> String {
    let answer = ureq::get(&up.console).call().unwrap();
    let cookie = answer
        .headers()
        .get("set-cookie")
        .unwrap()
        .to_str()
        .unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

fn page(up: &Up, cookie: &str) -> String {
    let url = format!("{}/", up.api.base);
    let mut answer = ureq::get(url).header("Cookie", cookie).call().unwrap();
    answer.body_mut().read_to_string().unwrap()
}

/// The figures of an overview that the first page shows as they are.
fn shown(overview: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut shown = BTreeSet::new();
    for account in list(&overview["accounts"]) {
        shown.extend(text(&account["unrounded_total"]));
    }
    shown.extend(
        list(&overview["usage"])
            .iter()
            .filter_map(|usage| text(&usage["quantity"])),
    );
    for node in list(&overview["nodes"]) {
        shown.insert(node["last_segment"]["seq"].to_string());
    }
    shown
}

#[test]
fn every_figure_of_the_first_page_is_in_the_api() {
    let (_folder, up) = up();
    let cookie = cookie(&up);
    // The page is computed between two overviews, a moment apart: the one of the same instant has it all.
    let missing = poll::until(PATIENCE, "an overview of the page's own instant", || {
        let before = up.get("/v1/overview").unwrap();
        let page = page(&up, &cookie);
        let after = up.get("/v1/overview").unwrap();
        let steady = before["nodes"][0]["last_segment"] == after["nodes"][0]["last_segment"];
        let known: BTreeSet<String> = shown(&before).union(&shown(&after)).cloned().collect();
        let figures = figures(&page);
        assert!(figures.len() > 10, "{page}");
        let missing: Vec<_> = figures
            .into_iter()
            .filter(|figure| !known.contains(figure))
            .collect();
        steady.then_some(missing)
    });
    assert_eq!(missing, [] as [String; 0]);

    let overview = up.get("/v1/overview").unwrap();
    let texts = texts(&page(&up, &cookie));
    let on_page = |value: &Value| {
        let text = value.as_str().unwrap();
        assert!(
            texts.iter().any(|shown| shown.contains(text)),
            "{text} is not on the page"
        );
    };
    for account in overview["accounts"].as_array().unwrap() {
        on_page(&account["name"]);
        on_page(&account["currency"]);
        account["lines"]
            .as_array()
            .unwrap()
            .iter()
            .for_each(|line| on_page(&line["title"]));
    }
    for usage in overview["usage"].as_array().unwrap() {
        on_page(&usage["workload"]);
    }
    for node in overview["nodes"].as_array().unwrap() {
        on_page(&node["name"]);
        on_page(&node["state"]);
        let coverage = node["coverage"].as_object().unwrap();
        let parts: Vec<_> = coverage.keys().map(String::as_str).collect();
        let classes = [
            "exact",
            "interpolated",
            "missing",
            "quarantined",
            "unmeasured",
        ];
        assert_eq!(parts, classes);
        assert!(node["lag"].is_u64(), "{node}");
    }
    assert!(!overview["chart"]["series"].as_array().unwrap().is_empty());
    up.terminate().unwrap();
}

/// Every operation of the document: method and path.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            operations.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    operations
}

/// A path with something there for each of its parameters.
fn filled(path: &str, node: &str) -> String {
    path.replace("{node}", node)
        .replace("{account}", "this-host")
        .replace("{plan}", "starter")
        .replace("{period}", "2026-11")
        .replace("{number}", "TS-2026-000001")
}

#[test]
fn every_documented_operation_answers_as_it_is_documented() {
    let (_folder, up) = up();
    let document = up.get("/v1/openapi.json").unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let node = up.api.all("/v1/nodes").unwrap()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let operations = operations(&document);
    assert!(operations.len() >= 30, "{}", operations.len());
    for (method, path, operation) in &operations {
        let path = filled(path, &node);
        // A write without a body is a fault of the asker's.
        let answer = up.api.ask(method, &path, None).unwrap();
        let documented = &operation["responses"][answer.status.to_string()];
        let documented = if documented.is_null() {
            &operation["responses"]["default"]
        } else {
            documented
        };
        assert!(documented.is_object(), "{method} {path}: {}", answer.status);
        assert!(answer.status < 500, "{method} {path}: {}", answer.body);
        // Nothing was issued or corrected yet.
        let of_documents = ["/v1/invoices/", "/v1/corrections/"];
        let gone =
            answer.status == 404 && !of_documents.iter().any(|start| path.starts_with(start));
        assert!(
            !gone && answer.status != 405,
            "{method} {path} is documented, not served"
        );
        if answer.status >= 400 {
            problem(&answer);
        } else if let Some(kinds) = documented["content"].as_object() {
            assert!(
                kinds.keys().any(|kind| answer.kind.starts_with(kind)),
                "{method} {path}: {}",
                answer.kind
            );
        }
    }
    let retire = format!("/v1/nodes/{node}/retire");
    assert_eq!(
        up.api.ask("GET", &retire, None).unwrap().status,
        405,
        "it is served, by POST"
    );
    up.terminate().unwrap();
}

/// The kind of an answer that is a problem (RFC 9457), after checking that it is one.
fn problem(answer: &Answer) -> String {
    assert_eq!(answer.kind, "application/problem+json", "{}", answer.body);
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status);
    for key in ["type", "title", "detail"] {
        assert!(!problem[key].as_str().unwrap().is_empty(), "{problem}");
    }
    problem["type"]
        .as_str()
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn what_cannot_be_done_is_a_problem_that_says_what_to_do() {
    let (_folder, up) = up();
    let api = &up.api;
    let stranger = Api::new(api.base.clone(), String::new());
    let guessed = Api::new(api.base.clone(), "tsk_guessed".to_owned());
    for (asker, who) in [(&stranger, "no token"), (&guessed, "a guessed token")] {
        let answer = asker.ask("GET", "/v1/overview", None).unwrap();
        assert_eq!(
            (answer.status, problem(&answer).as_str()),
            (401, "unauthorized"),
            "{who}"
        );
    }
    let again = json!({ "id": "this-host", "name": "Another", "currency": "EUR" });
    let early = json!({ "account": "this-host", "period": this_month(&up) });
    let wrong = json!({ "toml": "name = 1" });
    for (method, path, body, status, kind) in [
        ("GET", "/v1/nothing", None, 404, "not-found"),
        ("GET", "/v1/nodes/nobody", None, 404, "not-found"),
        ("GET", "/v1/accounts/nobody/draft", None, 404, "not-found"),
        (
            "GET",
            "/v1/usage?from=2026-11-01T00:00:01Z",
            None,
            422,
            "invalid",
        ),
        ("GET", "/v1/usage?nothing=1", None, 400, "malformed"),
        ("DELETE", "/v1/nodes", None, 405, "method-not-allowed"),
        ("POST", "/v1/accounts", Some(&again), 409, "exists"),
        (
            "POST",
            "/v1/invoices",
            Some(&early),
            409,
            "period-not-ended",
        ),
        ("POST", "/v1/plans", Some(&wrong), 422, "invalid"),
    ] {
        let answer = api.ask(method, path, body).unwrap();
        let told = (answer.status, problem(&answer));
        assert_eq!(
            told,
            (status, kind.to_owned()),
            "{method} {path}: {}",
            answer.body
        );
    }
    up.terminate().unwrap();
}

fn this_month(up: &Up) -> String {
    let overview = up.get("/v1/overview").unwrap();
    overview["at"].as_str().unwrap()[..7].to_owned()
}
