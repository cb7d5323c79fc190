use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use utoipa::OpenApi;

use super::{App, guarded, open, openapi, router, schema};
use crate::auth;
use crate::authority::Authority;
use crate::billing::leakage;
use crate::billing::testing::{acme, at, cpu, node};
use crate::clock;
use crate::config::Rules;
use crate::ingest::{Services, strangers::Strangers};
use crate::store::Store;
use crate::store::sql;
use crate::store::testing::{ENGINES, Engine, Home, store};

/// A server on a port of its own, and a client of a few lines.
struct Server {
    address: String,
    token: String,
    store: Store,
    _folder: Home,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|_| panic!("{}: {}", self.status, self.body))
    }

    /// The problem's kind, after checking that it is one.
    fn problem(&self) -> String {
        assert!(
            self.head.contains("application/problem+json"),
            "{}",
            self.head
        );
        let problem: super::Problem = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        problem.kind.rsplit(':').next().unwrap().to_owned()
    }
}

impl Server {
    async fn start(engine: Engine) -> Self {
        Self::with(engine, Rules::default()).await
    }

    async fn with(engine: Engine, rules: Rules) -> Self {
        let (folder, store) = store(engine).await;
        let now = clock::now();
        let services = Services {
            authority: Authority::create(folder.path(), now).unwrap(),
            store: store.clone(),
            intake: Arc::new(
                crate::ingest::commit::channel(store.clone(), crate::clock::now, Arc::default()).0,
            ),
            strangers: Strangers::default(),
            addresses: vec![],
            connections_max: 10,
            changes: crate::ingest::bulletin::Changes::default(),
        };
        let app = App {
            services: Arc::new(services),
            seller: "Seller".into(),
            rules: Arc::new(rules),
            ingest: Some("127.0.0.1:1".parse().unwrap()),
        };
        let token = auth::create_token(&store, "admin", "test", now)
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router(app)).await });
        Self {
            address,
            token: token.reveal().to_owned(),
            store,
            _folder: folder,
        }
    }

    async fn raw(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer {
            status,
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.raw(
            "GET",
            path,
            &format!("authorization: Bearer {}\r\n", self.token),
            "",
        )
        .await
    }

    async fn post_with(&self, path: &str, more: &str, body: &Value) -> Answer {
        let headers = format!(
            "authorization: Bearer {}\r\ncontent-type: application/json\r\n{more}",
            self.token
        );
        self.raw("POST", path, &headers, &body.to_string()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, "", body).await
    }
}

#[test]
fn every_route_is_in_the_document_and_the_reverse() {
    let document = serde_json::to_value(openapi::Document::openapi()).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            described.insert((method.to_uppercase(), path.clone()));
        }
    }
    let served: BTreeSet<(String, String)> = guarded()
        .into_iter()
        .chain(open())
        .map(|(method, path, _)| (method.to_string(), path.to_owned()))
        .collect();
    assert_eq!(described, served);
}

#[test]
fn the_document_is_complete() {
    let document = serde_json::to_value(openapi::Document::openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(
        document["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name} is not defined"
        );
    }
    let open: BTreeSet<&str> = open().into_iter().map(|(_, path, _)| path).collect();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "two operations are {name}");
            let problem = &operation["responses"]["default"]["content"]["application/problem+json"];
            assert!(
                problem["schema"].is_object(),
                "{method} {path} names no problem"
            );
            for (status, answer) in operation["responses"].as_object().unwrap() {
                assert!(
                    answer["description"].is_string(),
                    "{method} {path} does not describe its {status}: not valid OpenAPI"
                );
            }
            let needs_token = operation["security"][0]["token"].is_array();
            assert_eq!(
                needs_token,
                !open.contains(path.as_str()),
                "{method} {path}"
            );
            let success = operation["responses"]
                .as_object()
                .unwrap()
                .iter()
                .find(|(status, _)| status.starts_with('2'));
            assert!(
                success.is_some_and(|(_, answer)| answer["content"].is_object()),
                "{method} {path}"
            );
            let has_body = method == "post";
            assert_eq!(
                operation["requestBody"].is_object(),
                has_body,
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn nothing_is_told_to_nobody() {
    for engine in ENGINES {
        let server = Server::start(engine).await;
        for (method, path, _) in guarded() {
            for headers in [
                "",
                "authorization: Bearer tsk_guess\r\n",
                "authorization: Basic x\r\n",
            ] {
                let answer = server.raw(method.as_str(), path, headers, "").await;
                assert_eq!(
                    (answer.status, answer.problem().as_str()),
                    (401, "unauthorized"),
                    "{path}"
                );
            }
        }
        assert_eq!(server.raw("GET", "/healthz", "", "").await.status, 200);
        assert_eq!(server.raw("GET", "/readyz", "", "").await.status, 200);
        assert!(
            server
                .raw("GET", "/metrics", "", "")
                .await
                .body
                .contains("tallystick_rollup_lag_segments 0")
        );
    }
}

#[tokio::test]
async fn the_leakage_account_is_told_and_a_changed_row_shows_everywhere() {
    for engine in ENGINES {
        let server = Server::start(engine).await;
        let hour = at("2026-11-22T12:00:00Z");
        node(&server.store, at("2026-11-22T13:00:00Z")).await;
        acme(&server.store, hour).await;
        cpu(&server.store, 1, hour, [9, 9, 9, 9]).await;
        cpu(&server.store, 3, hour, [1, 2, 3, 4]).await;
        let told = server.get("/v1/leakage").await.json();
        let expected = json!([{
            "meter": "cpu.time", "unit": "microseconds", "received": "10", "billed": "0",
            "unbilled": "10", "unpriced": "0", "quarantined": "0", "written_off": "0", "difference": "0",
        }]);
        assert_eq!(told["meters"], expected);
        let mut tx = server.store.write().await.unwrap();
        sql::query("UPDATE rollups SET quantity1 = 1 WHERE workload = 3")
            .execute(&mut tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        while leakage::follow(&server.store, clock::now())
            .await
            .unwrap()
            .is_some()
        {}
        let told = server.get("/v1/leakage").await.json();
        assert_eq!(told["meters"][0]["difference"], "1");
        assert_eq!(told["differing"][0]["from"], "2026-11-22T12:00:00Z");
        let metrics = server.raw("GET", "/metrics", "", "").await.body;
        let line = "tallystick_leakage_difference{meter=\"cpu.time\"} 1";
        assert!(metrics.contains(line), "{metrics}");
        let overview = server.get("/v1/overview").await.json();
        assert_eq!(overview["leakage"]["differing"], 1);
        // The node's segments are of 22 November.
        let nodes = server.get("/v1/nodes").await.json();
        assert!(nodes["items"][0]["silent_since"].is_string(), "{nodes}");
        assert!(metrics.contains("tallystick_node_silent{"), "{metrics}");
    }
}

#[tokio::test]
async fn usage_of_nobody_is_worth_its_list_price() {
    for engine in ENGINES {
        let rules = Rules {
            list_plan: Some("starter".to_owned()),
            ..Rules::default()
        };
        let server = Server::with(engine, rules).await;
        let hour = at("2026-11-22T12:00:00Z");
        node(&server.store, at("2026-11-22T13:00:00Z")).await;
        cpu(&server.store, 3, hour, [3_600_000_000, 0, 0, 0]).await;
        let path = "/v1/usage/unassigned?from=2026-11-22T12:00:00Z&to=2026-11-22T13:00:00Z";
        assert_eq!(server.get(path).await.status, 404, "no such plan");
        assert_eq!(server.get("/v1/overview").await.status, 200);
        acme(&server.store, at("2026-11-22T13:00:00Z")).await;
        let told = server.get(path).await.json();
        let value = json!({ "amount": "0.01", "currency": "EUR" });
        assert_eq!(told["items"][0]["value"], value, "{told}");
    }
}

#[tokio::test]
async fn a_period_is_closed_with_gaps_by_a_person_who_says_why() {
    for engine in ENGINES {
        let server = Server::start(engine).await;
        node(&server.store, at("2026-10-20T00:00:00Z")).await;
        acme(&server.store, at("2026-10-01T00:00:00Z")).await;
        let path = "/v1/accounts/acme/periods/2026-10";
        let told = server.get(path).await.json();
        assert_eq!(told["nodes"][0]["standing"], "outstanding", "{told}");
        let list = server.get("/v1/periods?account=acme&limit=1").await.json();
        assert_eq!(list["items"][0], told);
        assert!(list["next"].is_string());
        let close = format!("{path}/close");
        let refused = server.post(&close, &json!({ "accept_gaps": "" })).await;
        assert_eq!(refused.status, 422);
        let closed = server.post(&close, &json!({ "accept_gaps": "lost" })).await;
        assert_eq!(
            (closed.status, &closed.json()["state"]),
            (200, &json!("closed"))
        );
        assert_eq!(server.get(path).await.json()["closed_by"], "api:admin");
        let order = json!({ "account": "acme", "period": "2026-10" });
        let issued = server.post("/v1/invoices", &order).await.json();
        let number = issued["invoice"]["number"].as_str().unwrap();
        let document = server.get(&format!("/v1/invoices/{number}")).await.json();
        assert_eq!(document["accepted_gaps"]["reason"], "lost");
        let close = "/v1/accounts/acme/periods/2900-01/close";
        let open = server.post(close, &json!({ "accept_gaps": "x" })).await;
        assert_eq!(open.problem(), "period-not-ended");
        for (status, path) in [
            (404, "/v1/accounts/nobody/periods/2026-10"),
            (422, "/v1/accounts/acme/periods/october"),
            (404, "/v1/periods?account=nobody"),
        ] {
            assert_eq!(server.get(path).await.status, status, "{path}");
        }
    }
}

#[tokio::test]
async fn coverage_tells_of_a_node_and_of_what_an_account_has_on_it() {
    for engine in ENGINES {
        let server = Server::start(engine).await;
        let hour = at("2026-11-22T12:00:00Z");
        node(&server.store, at("2026-11-22T13:00:00Z")).await;
        acme(&server.store, hour).await;
        cpu(&server.store, 1, hour, [1, 2, 3, 4]).await;
        cpu(&server.store, 3, hour, [1, 2, 3, 4]).await;
        let span = "from=2026-11-22T12:00:00Z&to=2026-11-22T14:00:00Z";
        let told = server.get(&format!("/v1/coverage?{span}")).await.json();
        assert_eq!(told["items"].as_array().unwrap().len(), 1, "{told}");
        let node = &told["items"][0];
        assert_eq!(node["workload"], Value::Null);
        assert_eq!(node["coverage"]["exact"], 3_600_000_000_u64);
        assert_eq!(node["coverage"]["missing"], 3_600_000_000_u64);
        assert_eq!(node["reasons"][0]["why"], "unspoken");
        assert_eq!(node["reasons"][0]["from"], "2026-11-22T13:00:00Z");
        let of_account = format!("/v1/coverage?account=acme&{span}");
        let told = server.get(&of_account).await.json();
        assert_eq!(told["items"][1]["workload"], "cgroup/acme");
        let path = "/v1/coverage?account=acme&period=2026-11&limit=1";
        let told = server.get(path).await.json();
        assert!(told["next"].is_string(), "{told}");
        for (status, path) in [
            (422, "/v1/coverage?period=2026-11"),
            (
                422,
                "/v1/coverage?account=acme&period=2026-11&from=2026-11-01T00:00:00Z",
            ),
            (404, "/v1/coverage?account=nobody"),
            (404, "/v1/coverage?node=nobody"),
        ] {
            assert_eq!(server.get(path).await.status, status, "{path}");
        }
    }
}

#[tokio::test]
async fn every_fault_is_a_problem() {
    for engine in ENGINES {
        let server = Server::start(engine).await;
        let account = json!({ "id": "a", "name": "A", "currency": "EUR" });
        for (status, kind, answer) in [
            (404, "not-found", server.get("/v1/nothing").await),
            (404, "not-found", server.get("/nothing").await),
            (404, "not-found", server.get("/v1/accounts/none").await),
            (404, "not-found", server.get("/v1/invoices/TS-1").await),
            (
                405,
                "method-not-allowed",
                server.raw("DELETE", "/v1/accounts", "", "").await,
            ),
            (400, "malformed", server.get("/v1/accounts?limit=x").await),
            (400, "malformed", server.get("/v1/accounts?sort=x").await),
            (422, "invalid", server.get("/v1/accounts?limit=0").await),
            (422, "invalid", server.get("/v1/usage?meter=cpu").await),
            (
                422,
                "invalid",
                server.get("/v1/usage?from=2026-11-01T00:00:01Z").await,
            ),
            (
                422,
                "invalid",
                server.post("/v1/accounts", &json!({ "id": "a" })).await,
            ),
            (
                422,
                "invalid",
                server
                    .post(
                        "/v1/accounts",
                        &json!({ "id": "A", "name": "A", "currency": "EUR" }),
                    )
                    .await,
            ),
            (
                422,
                "invalid",
                server
                    .post(
                        "/v1/accounts",
                        &json!({ "id": "a", "name": "A", "currency": "EURO" }),
                    )
                    .await,
            ),
            (
                422,
                "invalid",
                server
                    .post("/v1/plans", &json!({ "toml": "name = 1" }))
                    .await,
            ),
            (
                415,
                "malformed",
                server
                    .raw(
                        "POST",
                        "/v1/accounts",
                        &format!("authorization: Bearer {}\r\n", server.token),
                        &account.to_string(),
                    )
                    .await,
            ),
        ] {
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (status, kind),
                "{}",
                answer.body
            );
        }
    }
}

#[tokio::test]
async fn pages_together_are_the_list_once() {
    for engine in ENGINES {
        let server = Server::start(engine).await;
        for number in 0..5 {
            let account = json!({ "id": format!("a{number}"), "name": "A", "currency": "EUR" });
            assert_eq!(server.post("/v1/accounts", &account).await.status, 201);
        }
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = server
                .get(&format!("/v1/accounts?limit=2{cursor}"))
                .await
                .json();
            let ids = page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["id"].as_str().unwrap().to_owned());
            seen.extend(ids);
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen, ["a0", "a1", "a2", "a3", "a4"]);
        let audit = server.get("/v1/audit?limit=3").await.json();
        assert_eq!(audit["items"][1]["actor"], "api:admin");
        let rest = server
            .get(&format!(
                "/v1/audit?cursor={}",
                audit["next"].as_str().unwrap()
            ))
            .await
            .json();
        assert_eq!(rest["items"][0]["seq"], 4);
    }
}

#[tokio::test]
async fn a_write_with_a_key_is_carried_out_once() {
    for engine in ENGINES {
        let server = Server::start(engine).await;
        let key = "idempotency-key: k1\r\n";
        let token = json!({ "addresses": ["127.0.0.1:1"] });
        let plan = json!({ "toml": crate::billing::testing::PLAN });
        let first = server.post_with("/v1/plans", key, &plan).await;
        let second = server.post_with("/v1/plans", key, &plan).await;
        assert_eq!((first.status, &first.body), (second.status, &second.body));
        assert!(
            second.head.contains("idempotency-replayed: true") && !first.head.contains("replayed")
        );
        let other = server.post_with("/v1/join-tokens", key, &token).await;
        assert_eq!(
            (other.status, other.problem().as_str()),
            (422, "key-reused")
        );

        let key = "idempotency-key: k2\r\n";
        let told = server.post_with("/v1/join-tokens", key, &token).await;
        assert_eq!(told.status, 201);
        let again = server.post_with("/v1/join-tokens", key, &token).await;
        assert_eq!(
            again.problem(),
            "told-once",
            "a secret is not kept, so it cannot be told again"
        );
    }
}

#[tokio::test]
async fn an_overlap_of_two_accounts_is_refused_by_name() {
    for engine in ENGINES {
        let server = Server::start(engine).await;
        for id in ["acme", "other"] {
            let account = json!({ "id": id, "name": id, "currency": "EUR" });
            server.post("/v1/accounts", &account).await;
        }
        let rule = |account: &str, workload: &str, from: &str| json!({ "account": account, "node": "*", "workload": workload, "from": from });
        let (from, later) = ("2026-10-01T00:00:00Z", "2026-10-01T00:15:00Z");
        assert_eq!(
            server
                .post("/v1/assignments", &rule("acme", "cgroup/*", from))
                .await
                .status,
            201
        );
        let clash = server
            .post("/v1/assignments", &rule("other", "cgroup/x", from))
            .await;
        assert_eq!((clash.status, clash.problem().as_str()), (409, "overlap"));
        assert_eq!(
            server
                .post("/v1/assignments", &rule("other", "cgroup/x", later))
                .await
                .status,
            201
        );
        for (workload, from) in [("host", from), ("cgroup/y", "2026-10-01T00:01:00Z")] {
            let answer = server
                .post("/v1/assignments", &rule("other", workload, from))
                .await;
            assert_eq!((answer.status, answer.problem().as_str()), (422, "invalid"));
        }
        let unknown = server
            .post("/v1/assignments", &rule("nobody", "cgroup/y", from))
            .await;
        assert_eq!(unknown.status, 404);
    }
}

/// A node that used CPU time in October and today.
async fn metered(engine: Engine) -> Server {
    let server = Server::start(engine).await;
    let now = clock::now();
    node(&server.store, now).await;
    acme(&server.store, at("2026-10-01T00:00:00Z")).await;
    cpu(
        &server.store,
        3,
        at("2026-10-03T10:00:00Z"),
        [3_600_000_000, 0, 0, 7],
    )
    .await;
    let hour = now.floor_to(tallystick_common::time::HOUR_US);
    cpu(&server.store, 3, hour, [5_000_000, 0, 0, 0]).await;
    cpu(&server.store, 1, hour, [9_000_000, 0, 0, 0]).await;
    server
}

#[tokio::test]
async fn drafts_and_invoices_are_as_the_document_says() {
    for engine in ENGINES {
        let server = metered(engine).await;
        let draft = server.get("/v1/accounts/acme/draft?period=2026-10").await;
        let shape: schema::Draft = serde_json::from_str(&draft.body).unwrap();
        assert_eq!(shape.statement.lines[0].quantity, "3600000007");
        assert_eq!(shape.statement.total.amount, "0.01");

        let order = json!({ "account": "acme", "period": "2026-10" });
        let issued = server.post("/v1/invoices", &order).await;
        assert_eq!(
            (issued.status, issued.json()["already_issued"].clone()),
            (201, json!(false)),
            "{}",
            issued.body
        );
        let number = issued.json()["invoice"]["number"]
            .as_str()
            .unwrap()
            .to_owned();
        let again = server.post("/v1/invoices", &order).await;
        assert_eq!(
            (again.status, again.json()["already_issued"].clone()),
            (200, json!(true))
        );
        assert_eq!(again.json()["invoice"]["number"], number.as_str());

        let shown = server.get(&format!("/v1/invoices/{number}")).await;
        let _: schema::Invoice = serde_json::from_str(&shown.body).unwrap();
        let digest = blake3::hash(shown.body.as_bytes()).to_hex().to_string();
        assert_eq!(issued.json()["invoice"]["digest"], digest.as_str());

        let running = json!({ "account": "acme", "period": "9000-01" });
        assert_eq!(
            server.post("/v1/invoices", &running).await.problem(),
            "period-not-ended"
        );
    }
}

#[tokio::test]
async fn a_browser_logs_in_once_with_a_link_and_sees_the_figures_of_the_api() {
    for engine in ENGINES {
        let server = metered(engine).await;
        let page = server.raw("GET", "/", "", "").await;
        assert_eq!(
            (page.status, page.head.contains("location: /login")),
            (303, true)
        );
        let fragment = server.raw("GET", "/live", "hx-request: true\r\n", "").await;
        assert_eq!(
            (
                fragment.status,
                fragment.head.contains("hx-redirect: /login")
            ),
            (401, true)
        );

        let code = auth::create_login(&server.store, "console", clock::now())
            .await
            .unwrap();
        let link = format!("/login?code={}", code.reveal());
        let login = server.raw("GET", &link, "", "").await;
        assert!(
            login.head.contains("httponly; samesite=strict"),
            "{}",
            login.head
        );
        assert_eq!(
            server.raw("GET", &link, "", "").await.status,
            401,
            "a link works once"
        );
        let cookie = login
            .head
            .split("set-cookie: ")
            .nth(1)
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        // Header names were lowered for comparison; the secret in it must not be.
        assert!(cookie.starts_with(auth::COOKIE));
    }
}

#[tokio::test]
async fn the_first_page_shows_what_the_overview_says() {
    for engine in ENGINES {
        let server = metered(engine).await;
        let session = auth::login_by_token(&server.store, &server.token, clock::now())
            .await
            .unwrap()
            .unwrap();
        let cookie = format!("cookie: other=1; {}={}\r\n", auth::COOKIE, session.reveal());
        let overview = server.get("/v1/overview").await.json();
        let page = server.raw("GET", "/", &cookie, "").await;
        assert_eq!(page.status, 200);
        let cost = overview["accounts"][0]["unrounded_total"].as_str().unwrap();
        assert!(page.body.contains(cost), "{cost}");
        for row in overview["usage"].as_array().unwrap() {
            assert!(
                page.body.contains(row["quantity"].as_str().unwrap()),
                "{row}"
            );
        }
        assert_eq!(overview["usage"].as_array().unwrap().len(), 2);
        assert!(
            page.head
                .contains("content-security-policy: default-src 'none'")
        );
        assert!(
            !page.body.contains("http://") && !page.body.contains("https://"),
            "nothing from elsewhere"
        );
        for path in [
            "/accounts/acme/draft",
            "/live",
            "/assets/htmx.js",
            "/assets/console.css",
            "/assets/icon.svg",
        ] {
            assert_eq!(
                server.raw("GET", path, &cookie, "").await.status,
                200,
                "{path}"
            );
        }
        let api = server.raw("GET", "/v1/nodes", &cookie, "").await;
        assert_eq!(api.status, 401, "the API does not take the cookie");
        let out = server.raw("POST", "/logout", &cookie, "").await;
        assert!(out.head.contains("max-age=0"));
        assert_eq!(server.raw("GET", "/", &cookie, "").await.status, 303);
    }
}

#[tokio::test]
async fn workloads_have_the_labels_of_their_newest_counted_segment() {
    for engine in ENGINES {
        use tallystick_common::reading::{Cause, Quality};
        use tallystick_common::time::Micros;

        use crate::ingest::admit::Verdict;
        use crate::ingest::testing::{Agent, committing, send};

        let server = Server::start(engine).await;
        let mut agent = Agent::new(1, 2).enrolled(&server.store).await;
        let commit = committing(&server.store, || crate::ingest::testing::at(1_000_000));
        let label = |text: &str| vec![("rack".to_owned(), text.to_owned())];
        for (text, doubtful) in [("b7", false), ("c1", false), ("zz", true)] {
            let mut draft = agent.draft(60, 1);
            draft.labels = label(text);
            draft.part(1).opening += u128::from(doubtful);
            assert!(send(&commit, agent.seal(&draft)).await.advances());
        }
        // An older stream that comes late says nothing new.
        let mut older = agent.beside(3, 0);
        let mut late = older.draft(1, 0);
        late.labels = label("a0");
        late.parts.retain(|part| part.workload == "host");
        let interval = &mut late.part(0).intervals[0];
        interval.quantity = 0;
        interval.quality = Quality::Unmeasured(Cause::NewStream);
        interval.measured = Micros(0);
        assert_eq!(send(&commit, older.seal(&late)).await, Verdict::Accepted);
        crate::rollup::catch_up(&server.store).await.unwrap();
        let page = server.get("/v1/nodes/node-1/workloads").await.json();
        let items = page["items"].as_array().unwrap();
        let names: Vec<&str> = items
            .iter()
            .map(|item| item["workload"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["cgroup/web", "host"]);
        for item in items {
            assert_eq!(item["labels"], json!({ "rack": "c1" }));
        }
        // Labels that are gone are gone.
        let bare = agent.draft(60, 1);
        assert!(send(&commit, agent.seal(&bare)).await.advances());
        crate::rollup::catch_up(&server.store).await.unwrap();
        let page = server
            .get("/v1/nodes/node-1/workloads?limit=1")
            .await
            .json();
        assert_eq!(page["items"][0]["labels"], json!({}));
        assert!(page["next"].is_string());
    }
}

/// Two streams of a node measured one time; the key of the one that counts turns out to be stolen.
#[tokio::test]
async fn a_person_decides_over_http() {
    use crate::ingest::testing::{Agent, at as instant, committing, send};
    for engine in ENGINES {
        let server = Server::start(engine).await;
        let commit = committing(&server.store, || instant(100_000));
        let mut one = Agent::new(1, 2).enrolled(&server.store).await;
        let mut other = one.beside(3, 30);
        send(&commit, one.next(60, 10)).await;
        send(&commit, other.next(60, 20)).await;
        let decide = |judgement: &str, seq: u64| json!({ "stream": other.stream.to_string(), "seq": seq, "judgement": judgement, "reason": "looked" });
        let path = "/v1/nodes/node-1/quarantine/decide";
        let blank = json!({ "stream": "x", "seq": 0, "judgement": "accept", "reason": "looked" });
        let ownerless =
            json!({ "stream": one.stream.to_string(), "keep": "admitted", "reason": " " });
        for (status, kind, answer) in [
            (
                409,
                "still-doubtful",
                server.post(path, &decide("accept", 0)).await,
            ),
            (
                404,
                "not-found",
                server.post(path, &decide("accept", 1)).await,
            ),
            (
                422,
                "invalid",
                server.post(path, &decide("perhaps", 0)).await,
            ),
            (422, "invalid", server.post(path, &blank).await),
            (
                422,
                "invalid",
                server.post("/v1/nodes/node-1/resolve", &ownerless).await,
            ),
            (
                404,
                "not-found",
                server
                    .post("/v1/nodes/web-9/quarantine/decide", &decide("accept", 0))
                    .await,
            ),
        ] {
            assert_eq!(
                (answer.status, answer.problem().as_str()),
                (status, kind),
                "{}",
                answer.body
            );
        }
        let resolve =
            json!({ "stream": one.stream.to_string(), "keep": "other", "reason": "looked" });
        let answer = server.post("/v1/nodes/node-1/resolve", &resolve).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (409, "not-forked")
        );
        let mut revoke = json!({ "stream": one.stream.to_string(), "from_seq": 0, "reason": "stolen", "dry_run": true });
        let asked = server.post("/v1/nodes/node-1/revoke", &revoke).await;
        assert_eq!(asked.status, 200);
        assert_eq!(asked.json()["segments_changed"], 1);
        assert_eq!(asked.json()["decision"], Value::Null);
        revoke["dry_run"] = false.into();
        let revoked = server.post("/v1/nodes/node-1/revoke", &revoke).await;
        assert_eq!(revoked.status, 201, "{}", revoked.body);
        assert_eq!(revoked.json()["decision"]["kind"], "revoke");
        let key = "idempotency-key: once\r\n";
        let accepted = server.post_with(path, key, &decide("accept", 0)).await;
        assert_eq!(accepted.status, 201, "{}", accepted.body);
        let again = server.post_with(path, key, &decide("accept", 0)).await;
        assert_eq!((again.status, &again.body), (201, &accepted.body));
        let anew = server.post(path, &decide("accept", 0)).await;
        assert_eq!(
            (anew.status, anew.json()["already_decided"].clone()),
            (200, true.into())
        );
        let kept = server
            .get("/v1/nodes/node-1/decisions?limit=1")
            .await
            .json();
        assert_eq!(kept["items"][0]["by"], "api:admin");
        let rest = format!(
            "/v1/nodes/node-1/decisions?cursor={}",
            kept["next"].as_str().unwrap()
        );
        let rest = server.get(&rest).await.json();
        assert_eq!(
            (rest["items"][0]["kind"].as_str(), &rest["next"]),
            (Some("accept"), &Value::Null)
        );
        let streams = server.get("/v1/nodes/node-1/streams").await.json();
        let states: Vec<_> = streams["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|held| held["state"].as_str())
            .collect();
        assert_eq!(states, [Some("ended"), Some("open")]);
        let quarantine = server.get("/v1/nodes/node-1/quarantine").await.json();
        assert_eq!(quarantine["items"][0]["doubt"], "revoked");
        assert_eq!(quarantine["items"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn corrections_are_as_the_document_says() {
    for engine in ENGINES {
        let server = metered(engine).await;
        let order = json!({ "account": "acme", "period": "2026-10" });
        assert_eq!(
            server.post("/v1/corrections", &order).await.problem(),
            "not-issued"
        );
        server.post("/v1/invoices", &order).await;
        let nothing = server.post("/v1/corrections", &order).await;
        assert_eq!(
            (nothing.status, nothing.json()["correction"].clone()),
            (200, Value::Null)
        );

        cpu(
            &server.store,
            3,
            at("2026-10-05T10:00:00Z"),
            [9_000_000_000; 4],
        )
        .await;
        let draft = server
            .get("/v1/accounts/acme/correction?period=2026-10")
            .await;
        let shape: schema::CorrectionDraft = serde_json::from_str(&draft.body).unwrap();
        assert_eq!(shape.correction.differences.total.amount, "0.12");
        assert_eq!(shape.correction.reasons[0]["reason"], "late");
        let credit = json!({ "account": "acme", "period": "2026-10", "as": "credit_note" });
        assert_eq!(
            server.post("/v1/corrections", &credit).await.problem(),
            "kind"
        );

        let issued = server.post("/v1/corrections", &order).await;
        assert_eq!(issued.status, 201, "{}", issued.body);
        let issued = issued.json()["correction"].clone();
        assert_eq!(issued["kind"], "correction_invoice");
        let number = issued["number"].as_str().unwrap();
        let again = server.post("/v1/corrections", &order).await;
        assert_eq!(
            (again.status, again.json()["already_issued"].clone()),
            (200, json!(true))
        );
        assert_eq!(again.json()["correction"], issued);
        let listed = server.get("/v1/corrections").await.json();
        assert_eq!(listed["items"], json!([issued]));
        let shown = server.get(&format!("/v1/corrections/{number}")).await;
        let _: schema::Invoice = serde_json::from_str(&shown.body).unwrap();
        let digest = blake3::hash(shown.body.as_bytes()).to_hex().to_string();
        assert_eq!(issued["digest"], digest.as_str());
        assert_eq!(
            server.get("/v1/corrections/CN-2026-000001").await.status,
            404
        );
    }
}

#[tokio::test]
async fn the_past_is_assigned_otherwise_only_by_saying_so() {
    for engine in ENGINES {
        let server = metered(engine).await;
        let order = json!({ "account": "acme", "period": "2026-10" });
        server.post("/v1/invoices", &order).await;
        let end = |correct: bool| {
            json!({ "account": "acme", "node": "*", "workload": "cgroup/*", "from": "2026-10-02T00:00:00Z",
                "ends": true, "correct": correct })
        };
        let refused = server.post("/v1/assignments", &end(false)).await;
        assert_eq!(refused.problem(), "invoiced");
        assert_eq!(server.post("/v1/assignments", &end(true)).await.status, 201);
        let path = "/v1/accounts/acme/correction-policy";
        assert_eq!(server.get(path).await.json()["policy"], "own_document");
        let policy = json!({ "policy": "next_invoice" });
        assert_eq!(server.post(path, &policy).await.json(), policy);
        assert_eq!(server.get(path).await.json(), policy);
        // Less is a credit note whatever the policy.
        let issued = server.post("/v1/corrections", &order).await.json();
        let correction = &issued["correction"];
        assert_eq!(correction["kind"], "credit_note");
        assert_eq!(correction["total"]["amount"], "-0.01");
    }
}
