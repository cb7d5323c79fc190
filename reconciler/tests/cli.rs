//! The command line as a person meets it: the real binary on a real store.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const PLAN: &str = r#"
name = "starter"
title = "Starter"
currency = "EUR"
[[prices]]
id = "cpu"
title = "CPU time"
meter = "cpu.time"
per = "cpu-hour"
model = "per_unit"
price = "0.012"
"#;

/// Arguments of a command line, split at spaces: none here holds one.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// A data folder in a temporary one, which also holds plans.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// After `init`.
    fn ready() -> Self {
        let folder = Self::new();
        folder.done("init --address tally.example:8621");
        folder
    }

    /// Ready, with account `acme` and plan `starter`.
    fn with_catalog() -> Self {
        let folder = Self::ready();
        let plan = folder.file("starter.toml", PLAN);
        folder.done("account create acme --name Acme --currency EUR");
        folder.done(&format!("plan apply {plan}"));
        folder
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallystick-reconciler"));
        command
            .args(words(line))
            .env("TALLYSTICK_RECONCILER_DATA", self.data())
            .env_remove("TALLYSTICK_RECONCILER_CONFIG")
            .env("TALLYSTICK_LOG", "warn")
            .env("USER", "anna");
        command
    }

    /// Runs what must work; its standard output.
    fn done(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, line: &str) -> Value {
        let text = self.done(&format!("{line} --json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error} in\n{text}"))
    }

    /// Runs what must be refused with a code, telling all of these words on standard error alone.
    fn refused(&self, code: i32, line: &str, expected: &[&str]) {
        let output = self.command(line).output().unwrap();
        let told = told(&output);
        assert_eq!(output.status.code(), Some(code), "{line}: {told}");
        assert!(output.stdout.is_empty(), "{line} wrote to standard output");
        for word in expected {
            assert!(told.contains(word), "{line}: {word:?} in\n{told}");
        }
    }

    /// Where the audit log stands: every change moves it.
    fn checkpoint(&self) -> String {
        text(&self.json("audit verify"), "checkpoint").to_owned()
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is text in {value}"))
}

/// Whether any file below a folder holds these bytes.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        let content = std::fs::read(&path).unwrap();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn from_an_empty_folder_to_a_draft() {
    let folder = Folder::new();
    let plan = folder.file("starter.toml", PLAN);
    folder.done(&format!("plan check {plan}"));
    assert!(!folder.data().exists(), "a check needs no data folder");

    let made = folder.json("init --address tally.example:8621");
    assert!(text(&made, "api_token").starts_with("tsk_"));
    folder.done(
        "account create acme --name Acme --currency EUR --time-zone Europe/Berlin --anchor-day 15",
    );
    assert!(folder.done("account list").contains("Europe/Berlin"));

    assert_eq!(folder.json("plan list"), json!([]));
    let apply = format!("plan apply {plan}");
    let applied = folder.json(&apply);
    let again = folder.json(&apply);
    assert_eq!(applied, again, "the same meaning is the same version");
    let shown = folder.done("plan show starter --version 1");
    assert!(shown.contains("price = \"0.012\""), "{shown}");

    folder.done("subscribe acme starter --from 2026-11-01T00:00:00Z");
    let rule = "assign acme --node web-* --workload cgroup/* --from 2026-11-01T00:00:00Z";
    assert_eq!(folder.json(rule)["id"], 1);
    assert!(folder.done("assign list").contains("cgroup/*"));
    let shown = folder.json("account show acme");
    assert_eq!(shown["subscriptions"][0]["plan"], "starter");
    assert_eq!(shown["assignments"][0]["workload"], "cgroup/*");

    let token = folder.done("token create --expires 1h");
    assert_eq!(token.lines().count(), 1, "alone, to be piped: {token}");
    let told = folder.json("token create --address other.example:1");
    assert_eq!(told["addresses"], json!(["other.example:1"]));
    assert!(folder.done("node list").starts_with("ID"));
    assert_eq!(folder.json("node list"), json!([]));

    let draft = folder.done("invoice draft acme --period 2026-11");
    assert!(draft.contains("Acme (acme), 2026-11-14T23:00:00Z to 2026-12-14T23:00:00Z"));
    assert!(draft.contains("0.00 EUR"), "{draft}");
    let draft = folder.json("invoice draft acme --period 2026-11");
    assert_eq!(draft["statement"]["total"]["amount"], "0.00");
    assert!(folder.done("usage").contains("QUANTITY"));
    assert_eq!(folder.json("usage --account acme"), json!([]));
    assert_eq!(folder.json("invoice list"), json!([]));
}

#[test]
fn a_period_that_ended_is_issued_once() {
    let folder = Folder::with_catalog();
    let issue = "invoice issue acme --period 2020-01";
    let first = folder.json(issue);
    assert_eq!(first["already_issued"], false);
    let number = text(&first["invoice"], "number").to_owned();
    let again = folder.json(issue);
    assert_eq!(again["already_issued"], true);
    assert_eq!(text(&again["invoice"], "number"), number);
    let shown = folder.json(&format!("invoice show {number}"));
    assert_eq!(text(&shown, "number"), number);
    let shown = folder.done(&format!("invoice show {number}"));
    assert!(shown.contains(&format!("Invoice {number}")), "{shown}");
    assert!(folder.done("invoice list").contains(&number));
    let expected = ["acme", "ends at 9998-02-01T00:00:00Z", "wait"];
    folder.refused(1, "invoice issue acme --period 9998-01", &expected);
}

#[test]
fn now_is_the_beginning_of_the_present_quarter_hour() {
    let folder = Folder::with_catalog();
    let before = tallystick_reconciler::clock::now();
    let made = folder.json("subscribe acme starter --from now");
    let after = tallystick_reconciler::clock::now();
    let from: tallystick_common::time::Timestamp = text(&made, "from").parse().unwrap();
    let beginning = |at: tallystick_common::time::Timestamp| {
        at.floor_to(tallystick_common::time::QUARTER_HOUR_US)
    };
    assert!([beginning(before), beginning(after)].contains(&from));
}

#[test]
fn a_wrong_input_is_named_with_its_remedy_and_changes_nothing() {
    let folder = Folder::with_catalog();
    let torn = folder.file("torn.toml", "name = \"torn\"\n[[prices");
    let poor = folder.file("poor.toml", &PLAN.replace("cpu.time", "cpu.tide"));
    let dollars = PLAN.replace("EUR", "USD").replace("starter", "dollars");
    let dollars = folder.file("dollars.toml", &dollars);
    folder.done(&format!("plan apply {dollars}"));
    let before = folder.checkpoint();
    let off = "2026-11-01T00:07:00Z";
    let on = "2026-11-01T00:00:00Z";
    let neighbours = [off, "2026-11-01T00:00:00Z", "2026-11-01T00:15:00Z"];
    let account = |id: &str, currency: &str, zone: &str| {
        format!("account create {id} --name X --currency {currency} --time-zone {zone}")
    };
    let assign = |id: &str, workload: &str, from: &str| {
        format!("assign {id} --node * --workload {workload} --from {from}")
    };
    let subscribe = |plan: &str, from: &str| format!("subscribe acme {plan} --from {from}");
    let stream = "0102030405060708090a0b0c0d0e0f10";
    let refusals: [(String, &[&str]); 24] = [
        (account("x", "EURO", "UTC"), &["EURO", "ISO 4217"]),
        (account("x", "EUR", "Mars/Base"), &["Mars/Base", "IANA"]),
        (account("X!", "EUR", "UTC"), &["X!", "a-z"]),
        (account("acme", "CHF", "UTC"), &["acme", "another id"]),
        ("account show nobody".into(), &["nobody", "account list"]),
        (assign("nobody", "*", on), &["nobody", "account create"]),
        (assign("acme", "*", off), &neighbours),
        (assign("acme", "host", on), &["host", "never billed"]),
        (subscribe("starter", off), &neighbours),
        (subscribe("gold", on), &["gold", "plan apply"]),
        (subscribe("starter@9", on), &["starter@9"]),
        (subscribe("dollars", on), &["USD", "EUR"]),
        (format!("plan apply {torn}"), &["torn.toml", "line 2"]),
        (format!("plan apply {poor}"), &["poor.toml", "cpu.tide"]),
        ("plan check /absent.toml".into(), &["/absent.toml"]),
        ("node show web-9".into(), &["web-9", "node list"]),
        (
            format!("quarantine accept web-9 {stream} 0 --reason x"),
            &["web-9", "node list"],
        ),
        (
            format!("node resolve web-9 {stream} --keep other --reason x"),
            &["web-9", "node list"],
        ),
        (
            format!("node revoke web-9 --stream {stream} --from-seq 0 --reason x"),
            &["web-9", "node list"],
        ),
        ("quarantine list --node web-9".into(), &["web-9"]),
        ("invoice draft nobody".into(), &["nobody"]),
        ("invoice show TS-1".into(), &["TS-1", "invoice list"]),
        ("usage --account nobody".into(), &["nobody"]),
        (format!("usage --from {off}"), &neighbours),
    ];
    for (line, expected) in refusals {
        folder.refused(1, &line, expected);
    }
    assert_eq!(folder.json("quarantine list"), json!([]));
    assert_eq!(folder.json("quarantine decisions"), json!([]));
    folder.refused(2, "assign list extra", &["extra"]);
    folder.refused(2, &subscribe("starter", "soon"), &["soon", "now"]);
    folder.refused(2, "frobnicate", &["frobnicate", "--help"]);
    assert_eq!(folder.checkpoint(), before, "nothing was changed");
}

#[test]
fn a_folder_is_made_ready_once() {
    let folder = Folder::new();
    folder.refused(1, "node list", &["there is none", "init"]);
    assert!(!folder.data().exists(), "a refused command leaves nothing");
    let made = folder.json("init");
    let before = folder.checkpoint();
    let ca = std::fs::read(folder.data().join("authority/ca.crt")).unwrap();
    let data = folder.data().display().to_string();
    folder.refused(1, "init", &[&data, "nothing was changed", "--data"]);
    folder.refused(1, "init --address a.example:1", &[&data]);
    assert_eq!(folder.checkpoint(), before);
    let still = std::fs::read(folder.data().join("authority/ca.crt")).unwrap();
    assert_eq!(ca, still);
    assert!(!folder.data().join("reconciler.toml").exists());
    let secret = text(&made, "api_token");
    assert!(
        !holds(&folder.data(), secret.as_bytes()),
        "the token is kept as a hash only"
    );
    let expected = ["host:port", "listen.addresses", "reconciler.toml"];
    folder.refused(1, "token create", &expected);
}

#[test]
fn the_configuration_may_be_elsewhere_but_must_be_there() {
    let folder = Folder::ready();
    let elsewhere = folder.file("b.toml", "[listen]\naddresses = [\"b.example:1\"]\n");
    let told = folder.json(&format!("token create --config {elsewhere}"));
    assert_eq!(told["addresses"], json!(["b.example:1"]));
    let told = folder.json("token create");
    assert_eq!(
        told["addresses"],
        json!(["tally.example:8621"]),
        "as init wrote"
    );
    folder.refused(1, "node list --config /absent.toml", &["/absent.toml"]);
    let wrong = folder.file("wrong.toml", "listn = 1\n");
    folder.refused(1, &format!("node list --config {wrong}"), &["listn"]);
}

#[test]
fn the_audit_log_tells_who_did_what_and_notices_another_past() {
    let folder = Folder::ready();
    let kept = folder.checkpoint();
    folder.done("api-token create export");
    folder.done(&format!("audit verify --checkpoint {kept}"));
    let last = folder.json("audit list --limit 1");
    assert_eq!(text(&last[0], "action"), "api_token.create");
    assert_eq!(text(&last[0], "actor"), "cli:anna");
    let (entries, _) = kept.split_once(':').unwrap();
    let other = format!("{entries}:{}", "ab".repeat(32));
    let verify = format!("audit verify --checkpoint {other}");
    folder.refused(1, &verify, &[&other, "backup"]);
}

/// A running `serve`. Killed when dropped.
struct Server {
    child: Child,
    http: String,
}

impl Server {
    fn start(folder: &Folder) -> Self {
        let mut child = folder
            .command("serve --listen 127.0.0.1:0 --ingest 127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let console = out
            .lines()
            .map(|line| line.unwrap())
            .find(|line| line.contains("http://"))
            .expect("it says where the console is");
        let (_, address) = console.split_once("http://").unwrap();
        Self {
            child,
            http: address.trim_end_matches('/').to_owned(),
        }
    }

    /// Status and whole answer of `GET path`.
    fn get(&self, path: &str, token: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: tally\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    fn terminate(mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_running_server_sees_what_the_command_line_changes() {
    let folder = Folder::ready();
    let server = Server::start(&folder);
    let token = folder.done("api-token create export");
    let token = token.trim();
    let expected = ["export", "api-token revoke export"];
    folder.refused(1, "api-token create export", &expected);
    assert_eq!(server.get("/v1/accounts/acme", token).0, 404);
    folder.done("account create acme --name Acme --currency EUR");
    let (status, body) = server.get("/v1/accounts/acme", token);
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"name\":\"Acme\""), "{body}");

    folder.done("api-token revoke export");
    assert_eq!(server.get("/v1/accounts/acme", token).0, 401);
    folder.done("api-token revoke export");
    folder.refused(1, "api-token revoke exprot", &["exprot", "api-token list"]);
    let listed = folder.json("api-token list");
    assert_eq!(text(&listed[1], "name"), "export");
    assert!(listed[1]["revoked_at"].is_string());

    let base = format!("http://{}", server.http);
    let link = folder.done(&format!("login-link --base {base}/"));
    let path = link.trim().strip_prefix(&base).unwrap();
    let (status, answer) = server.get(path, "");
    assert!(answer.contains("tallystick_session="), "{status}: {answer}");
    let (_, again) = server.get(path, "");
    assert!(!again.contains("tallystick_session="), "once: {again}");
    assert_eq!(server.terminate(), Some(0));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::ready();
    let mut child = folder
        .command("audit list --json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(told(&output), "");
}

#[test]
fn the_past_is_corrected_only_by_saying_so() {
    let folder = Folder::with_catalog();
    let rule = "assign acme --node * --workload cgroup/* --from 2020-01-10T00:00:00Z";
    folder.refused(
        1,
        "correction draft acme --period 2020-01",
        &["not issued", "invoice issue"],
    );
    folder.done("invoice issue acme --period 2020-01");
    let before = folder.checkpoint();
    folder.refused(1, rule, &["--correct", "correction draft"]);
    assert_eq!(folder.checkpoint(), before);
    let made = folder.json(&format!("{rule} --correct"));
    assert!(made["ends"].is_null());
    let end = "assign end acme --node * --workload * --from 2020-01-20T00:00:00Z --correct";
    assert_eq!(folder.json(end)["ends"], true);
    folder.refused(
        1,
        "assign end acme --node * --workload * --from 2019-01-20T00:00:00Z --correct",
        &["nothing of it was assigned"],
    );

    let draft = folder.done("correction draft acme --period 2020-01");
    assert!(draft.contains("Nothing differs from TS-"), "{draft}");
    let after = folder.checkpoint();
    let issued = folder.done("correction issue acme --period 2020-01");
    assert!(issued.contains("nothing differs"), "{issued}");
    assert_eq!(folder.checkpoint(), after);
    assert_eq!(folder.json("correction list"), json!([]));
    folder.refused(1, "correction show CN-2020-000001", &["correction list"]);

    assert_eq!(
        folder.json("correction policy acme")["policy"],
        "own_document"
    );
    folder.done("correction policy acme next-invoice");
    let policy = folder.done("correction policy acme");
    assert!(policy.contains("next_invoice"), "{policy}");
    assert_ne!(folder.checkpoint(), after);
}

#[test]
fn a_backup_is_made_verified_and_restored() {
    let folder = Folder::with_catalog();
    let backup = folder.0.path().join("backup");
    let to = backup.display();
    let made = folder.json(&format!("backup --to {to}"));
    let verified = folder.json(&format!("backup verify {to}"));
    assert_eq!(made, verified);
    folder.refused(1, &format!("backup --to {to}"), &["there already"]);
    folder.refused(2, "backup", &["--to"]);

    let restore = format!("restore {to}");
    folder.refused(1, &restore, &["there already", "--data"]);
    let new = folder.0.path().join("new");
    let elsewhere = format!("{restore} --data {}", new.display());
    folder.refused(
        1,
        &elsewhere,
        &["banned", "--bans", "--accept-unknown-bans"],
    );
    assert!(!new.exists());
    let bans = folder.data().join("bans.log");
    let restored = folder.json(&format!("{elsewhere} --bans {}", bans.display()));
    assert_eq!(
        restored["restored"]["epoch_before"],
        made["manifest"]["epoch"]
    );
    let data = new.display();
    assert_eq!(
        folder.json(&format!("account list --data {data}"))[0]["id"],
        "acme"
    );
    let listed = folder.json(&format!("audit list --data {data}"));
    let actions = listed.as_array().unwrap().iter();
    assert!(
        actions
            .clone()
            .any(|entry| entry["action"] == "store.restore")
    );
    folder.done(&format!("audit verify --data {data}"));

    std::fs::create_dir(new.join("restoring")).unwrap();
    let refused = format!("account list --data {data}");
    folder.refused(1, &refused, &["a restore was cut off", "again"]);
}
