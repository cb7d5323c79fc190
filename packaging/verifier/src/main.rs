//! `tallystick-verify`: checks the evidence of an invoice, or a stream of sealed segments, offline.
//!
//! Owns the command line and the file reading; every check is [`tallystick_common::verify`]'s.
//!
//! Exit codes: 0 everything stands · 1 something differs, and it is named · 2 the call or a file cannot be
//! used · 9 (`evidence`) the file agrees with itself, but nothing that was given bears it out.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tallystick_common::ids::NodeId;
use tallystick_common::keys::{KeyRing, PublicKey};
use tallystick_common::told::told;
use tallystick_common::verify::evidence::{Answer, Tally, Trust};
use tallystick_common::verify::{Report, verify_frames};

/// Checks what metered usage is billed by, with no access to the reconciler.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 everything stands; 1 something differs (the first difference is named); \
        2 the call or a file cannot be used; 9 the evidence agrees with itself, but nothing that was given bears it out."
)]
struct Call {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Check the evidence of an invoice, and compute the invoice again.
    Evidence(Evidence),
    /// Check a stream of sealed segments and receipts, and print what each register measured.
    Stream(Stream),
}

#[derive(Args)]
struct Evidence {
    /// The file, of `tallystick-reconciler evidence export`.
    file: PathBuf,
    /// What you trust, not had from whoever gave you the file: a node's signing key (`tallystick-agent
    /// status`), the authority's fingerprint (in every join token), or an audit checkpoint that you kept;
    /// the text itself or a file that holds it. May be given several times.
    #[arg(long, value_name = "KEY|FINGERPRINT|CHECKPOINT")]
    trust: Vec<String>,
    /// What the node itself kept, to be held against the file: a file with the output of
    /// `tallystick-agent tally --json`.
    #[arg(long, value_name = "FILE")]
    tally: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// FILE holds what the wire carries (common/PROTOCOL.md, frames): segments of one stream in order, and
/// receipts.
#[derive(Args)]
struct Stream {
    /// The file.
    file: PathBuf,
    /// The node's id, 32 hexadecimal digits.
    #[arg(long)]
    node: NodeId,
    /// The key the node signs with, 64 hexadecimal digits, had from the node itself
    /// (`tallystick-agent status`), not from whoever gave you the file.
    #[arg(long)]
    trust: PublicKey,
    /// The key that signs receipts, 64 hexadecimal digits; without it receipts are not checked.
    #[arg(long)]
    receipt_key: Option<PublicKey>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let done = match Call::parse().what {
        What::Evidence(call) => evidence(&call),
        What::Stream(call) => stream(&call),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tallystick-verify: {}", told(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn evidence(call: &Evidence) -> anyhow::Result<ExitCode> {
    let file = read(&call.file)?;
    let trust = call.trust.iter().map(|text| trust(text));
    let trust: Vec<Trust> = trust.collect::<anyhow::Result<_>>()?;
    let tally = match &call.tally {
        Some(path) => {
            let text = String::from_utf8_lossy(&read(path)?).into_owned();
            Some(Tally::from_json(&text).with_context(|| format!("read {}", path.display()))?)
        }
        None => None,
    };
    let answer = Answer::of(&file, &trust, tally.as_ref());
    say(&if call.json {
        format!("{}\n", answer.json())
    } else {
        answer.to_string()
    })?;
    Ok(ExitCode::from(answer.exit_code()))
}

/// From the text itself, or from a file that holds it.
fn trust(text: &str) -> anyhow::Result<Trust> {
    let path = Path::new(text);
    if !path.is_file() {
        return Ok(text.parse()?);
    }
    let held = String::from_utf8_lossy(&read(path)?).into_owned();
    held.parse().with_context(|| format!("read {text}"))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Whoever reads may have read enough.
fn say(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn stream(call: &Stream) -> anyhow::Result<ExitCode> {
    let bytes = read(&call.file)?;
    let ring = KeyRing::new(call.node, call.trust);
    let (text, code) = match verify_frames(&bytes, ring, call.receipt_key) {
        Ok(report) => (stands(&report, call.json)?, ExitCode::SUCCESS),
        Err(error) if call.json => {
            let told = serde_json::json!({ "verified": false, "error": error.to_string() });
            (format!("{told}\n"), ExitCode::FAILURE)
        }
        Err(error) => (format!("differs: {error}\n"), ExitCode::FAILURE),
    };
    say(&text)?;
    Ok(code)
}

fn stands(report: &Report, json: bool) -> anyhow::Result<String> {
    if json {
        let report = serde_json::to_value(report)?;
        let told = serde_json::json!({ "verified": true, "report": report });
        return Ok(format!("{told}\n"));
    }
    let mut text = format!(
        "stands: {} segments, {} to {}, stream {}\n  from {} through {}, head {}\n",
        report.segments,
        report.first,
        report.last,
        report.stream,
        report.from,
        report.through,
        report.head
    );
    text.push_str(&match report.receipted {
        Some(seq) => format!("  receipted up to {seq}\n"),
        None => "  no receipt was checked\n".to_owned(),
    });
    for gap in &report.gaps {
        text.push_str(&format!(
            "  gap {} to {}: {}\n",
            gap.from, gap.to, gap.cause
        ));
    }
    for register in &report.registers {
        text.push_str(&format!(
            "  {:>5}  {:<14} {:<32} {} → {} {}\n",
            register.register,
            register.meter.name(),
            register.workload,
            register.opening,
            register.closing,
            register.meter.unit()
        ));
    }
    Ok(text)
}
