//! `tallystick-reconciler`: the command line of the reconciler.

use std::process::ExitCode;

use clap::Parser;
use tallystick_common::logfmt::Logfmt;
use tallystick_reconciler::cli::{self, Cli};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_env("TALLYSTICK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let command = Cli::parse();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match command.log_format() {
        cli::LogFormat::Logfmt => builder.event_format(Logfmt).init(),
        cli::LogFormat::Json => builder.json().flatten_event(true).init(),
    }
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
