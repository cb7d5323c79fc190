//! How commands are written.

use clap::{CommandFactory, Parser};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["tallystick-reconciler"].into_iter().chain(line.split(' ')))
}

#[test]
fn the_commands_fit_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_documented_command_is_understood() {
    for line in [
        "init",
        "init --address a.example:8621 --address [::1]:8621 --data /d",
        "serve --listen 127.0.0.1:0 --ingest 127.0.0.1:0 --config /c",
        "token create",
        "token create --address a.example:8621 --expires 24h --json",
        "node list --json",
        "node show web-1",
        "node ban web-1 --reason stolen",
        "node retire web-1",
        "node resolve web-1 0102030405060708090a0b0c0d0e0f10 --keep admitted --reason cloned",
        "node revoke web-1 --stream 0102030405060708090a0b0c0d0e0f10 --from-seq 7 --reason stolen --dry-run",
        "quarantine list",
        "quarantine list --node web-1 --json",
        "quarantine decisions --node web-1",
        "quarantine accept web-1 0102030405060708090a0b0c0d0e0f10 12 --reason checked",
        "quarantine reject web-1 0102030405060708090a0b0c0d0e0f10 12 --through 40 --reason clock",
        "account create acme --name Acme --currency EUR --time-zone Europe/Berlin --anchor-day 15",
        "account list",
        "account show acme",
        "assign acme --node web-* --workload cgroup/* --from 2026-11-01T00:00:00Z",
        "assign acme --node web-* --workload cgroup/* --from now",
        "assign acme --node web-* --workload cgroup/* --from now --correct",
        "assign end acme --node * --workload * --from now",
        "assign end acme --node * --workload * --from 2026-11-01T00:00:00Z --correct --json",
        "correction draft acme --period 2026-11 --json",
        "correction issue acme --period 2026-11",
        "correction issue acme --period 2026-11 --as credit-note",
        "correction issue acme --period 2026-11 --as own-document",
        "correction issue acme --period 2026-11 --as next-invoice",
        "correction show CN-2026-000001",
        "correction list --account acme",
        "correction policy acme",
        "correction policy acme next-invoice",
        "evidence export --correction CN-2026-000001 --out f",
        "assign list",
        "assign list --account acme --json",
        "plan check p.toml",
        "plan apply p.toml",
        "plan show starter",
        "plan show starter --version 2",
        "plan show starter@2",
        "plan list",
        "subscribe acme starter --from now",
        "invoice draft acme",
        "invoice draft acme --period 2026-11 --json",
        "invoice show TS-2026-000001",
        "invoice issue acme --period 2026-11",
        "invoice issue acme --period 2026-11 --accept-gaps burnt",
        "invoice list",
        "backup --to /b",
        "backup --to /b --json",
        "backup verify /b",
        "restore /b",
        "restore /b --data /d --store postgres:///usage --bans /o/bans.log --bans /p/bans.log",
        "restore /b --ban web-1 --ban web-2 --check-rollups",
        "restore /b --accept-unknown-bans --json",
        "period list",
        "period list --account acme --json",
        "period show acme 2026-11",
        "period close acme 2026-11 --accept-gaps burnt",
        "usage",
        "usage --account acme --node web-1 --workload cgroup/* --meter cpu.time --from now --to 2026-11-22T12:00:00Z",
        "usage --unassigned",
        "leakage",
        "conservation web-1 --from 2026-11-22T00:00:00Z --to now",
        "coverage",
        "coverage --node web-1 --workload cgroup/* --from 2026-11-22T12:00:00Z --to now",
        "coverage --account acme --period 2026-11 --json",
        "api-token create export",
        "api-token list",
        "api-token revoke export",
        "login-link",
        "login",
        "audit verify",
        "audit list --limit 5 --after 3",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn what_is_missing_or_misspelt_is_refused_before_anything_happens() {
    for (line, expected) in [
        ("assign", "Usage"),
        ("assign acme --node web-*", "--workload"),
        ("assign list --from now", "--from"),
        (
            "assign acme --node x --workload y --from yesterday",
            "2026-11-22T12:00:00Z",
        ),
        ("subscribe acme starter", "--from"),
        ("account create acme --name Acme", "--currency"),
        ("invoice issue acme", "--period"),
        ("assign end acme --node x --workload y", "--from"),
        ("correction issue acme", "--period"),
        (
            "correction issue acme --period 2026-11 --as refund",
            "credit-note",
        ),
        ("invoice draft acme --period 2026-13", "2026-11"),
        ("token create --address nohost", "host:port"),
        ("token create --expires 1w", "24h"),
        ("token create --expires 0h", "from 1 on"),
        ("node ban web-1", "--reason"),
        (
            "quarantine accept web-1 0102030405060708090a0b0c0d0e0f10 12",
            "--reason",
        ),
        ("quarantine accept web-1 short 12 --reason x", "short"),
        (
            "node resolve web-1 0102030405060708090a0b0c0d0e0f10 --reason x",
            "--keep",
        ),
        (
            "node resolve web-1 0102030405060708090a0b0c0d0e0f10 --keep both --reason x",
            "both",
        ),
        (
            "node revoke web-1 --stream 0102030405060708090a0b0c0d0e0f10 --reason x",
            "--from-seq",
        ),
        ("usage --account acme --unassigned", "cannot be used with"),
        ("coverage --period 2026-11", "--account"),
        (
            "coverage --account acme --period 2026-11 --from now",
            "cannot be used with",
        ),
        ("period close acme 2026-11", "--accept-gaps"),
        ("period show acme november", "2026-11"),
        ("plan show", "<PLAN>"),
        ("audit verify --checkpoint 12", "ENTRIES:HASH"),
        ("serve --listen 8620", "--listen"),
        ("frobnicate", "frobnicate"),
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        let text = error.to_string();
        assert!(text.contains(expected), "{line}: {expected:?} in\n{text}");
    }
}

#[test]
fn a_cause_is_not_told_twice() {
    let error = anyhow::anyhow!("no such file").context("read plan p.toml: no such file");
    assert_eq!(told(error.as_ref()), "read plan p.toml: no such file");
    let error = anyhow::anyhow!("no such file").context("read plan p.toml");
    assert_eq!(told(error.as_ref()), "read plan p.toml: no such file");
}
