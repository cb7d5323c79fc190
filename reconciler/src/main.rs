//! `tallystick-reconciler`: the command line of the reconciler.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tallystick_reconciler::cli::{self, Cli};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_env("TALLYSTICK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let command = Cli::parse();
    match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime.block_on(Box::pin(cli::main(command))),
        Err(error) => {
            eprintln!("tallystick-reconciler: start its threads: {error}");
            ExitCode::FAILURE
        }
    }
}
