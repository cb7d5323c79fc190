//! `tallystick`: agent and reconciler of one host in one process.
//!
//! Owns the command line, the order of starting and stopping, and what is printed. Metering, shipping,
//! admission and billing are the two libraries', over the same QUIC path as between hosts.

mod catalog;
mod report;
mod up;

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tallystick_common::told::told;

/// Meters this host and bills it.
#[derive(Parser)]
#[command(version)]
struct Call {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs agent and reconciler of this host until Ctrl-C or SIGTERM.
    ///
    /// A second run on the same folder goes on with the same registers and the same bill.
    /// Exit codes: 0 stopped in good order; 1 something failed (said on standard error); 2 usage.
    Up(Up),
}

/// How `up` runs.
#[derive(clap::Args, Clone)]
struct Up {
    /// Folder of everything that is kept.
    #[arg(long, value_name = "DIR", default_value = "tallystick-data")]
    data: PathBuf,
    /// Address of API and console; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8620")]
    listen: SocketAddr,
    /// Print one JSON object a line; the one with "event":"ready" carries api, token and console.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Command::Up(call) = Call::parse().command;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(up::up(call)),
        Err(error) => Err(anyhow::Error::from(error).context("start the runtime")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tallystick: {}", told(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
