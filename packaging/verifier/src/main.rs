//! `tallystick-verify`: checks a stream of sealed segments offline, with nothing but a node's key.
//!
//! Owns the command line and the file reading; every check is [`tallystick_common::verify`]'s.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use tallystick_common::ids::NodeId;
use tallystick_common::keys::{KeyRing, PublicKey};
use tallystick_common::told::told;
use tallystick_common::verify::{Report, verify_frames};

/// Checks sealed segments and receipts, and prints what each register measured.
///
/// FILE holds what the wire carries (common/PROTOCOL.md, frames): segments of one stream in order, and
/// receipts.
///
/// Exit codes: 0 everything stands; 1 something differs (the first difference is named);
/// 2 the call or the file cannot be used.
#[derive(Parser)]
#[command(version)]
struct Call {
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
    match run(&Call::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tallystick-verify: {}", told(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn run(call: &Call) -> anyhow::Result<ExitCode> {
    let bytes =
        std::fs::read(&call.file).with_context(|| format!("read {}", call.file.display()))?;
    match verify_frames(
        &bytes,
        KeyRing::new(call.node, call.trust),
        call.receipt_key,
    ) {
        Ok(report) => {
            print(&report, call.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            if call.json {
                println!(
                    "{}",
                    serde_json::json!({ "verified": false, "error": error.to_string() })
                );
            } else {
                println!("differs: {error}");
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        println!(
            "{}",
            serde_json::json!({ "verified": true, "report": serde_json::to_value(report)? })
        );
        return Ok(());
    }
    println!(
        "stands: {} segments, {} to {}, stream {}",
        report.segments, report.first, report.last, report.stream
    );
    println!(
        "  from {} through {}, head {}",
        report.from, report.through, report.head
    );
    match report.receipted {
        Some(seq) => println!("  receipted up to {seq}"),
        None => println!("  no receipt was checked"),
    }
    for gap in &report.gaps {
        println!("  gap {} to {}: {}", gap.from, gap.to, gap.cause);
    }
    for register in &report.registers {
        println!(
            "  {:>5}  {:<14} {:<32} {} → {} {}",
            register.register,
            register.meter.name(),
            register.workload,
            register.opening,
            register.closing,
            register.meter.unit()
        );
    }
    Ok(())
}
