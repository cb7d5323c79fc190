//! `tallystick-agent`: the command line of the agent.
//!
//! Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not enrolled · 4 the configuration is wrong ·
//! 5 another agent has the data folder · 6 (`status`) enrolled, but no agent runs.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use tallystick_agent::config::Config;
use tallystick_agent::config::intake::AppUnit;
use tallystick_agent::durable;
use tallystick_agent::identity::Identity;
use tallystick_agent::intake::report::Report;
use tallystick_agent::lock::{DataLock, LockError};
use tallystick_agent::run::{self, RunError};
use tallystick_agent::ship::enroll::enroll;
use tallystick_agent::status::{Status, StatusError};
use tallystick_common::time::Timestamp;
use tallystick_common::told::told;
use tallystick_common::wire::JoinToken;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const DEFAULT_CONFIG: &str = "/etc/tallystick/agent.toml";

/// Meters this host, seals its readings, and keeps them until they are receipted.
#[derive(Debug, Parser)]
#[command(
    name = "tallystick-agent",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not enrolled, 4 configuration wrong, 5 another agent has the data folder, 6 no agent runs (status)."
)]
struct Cli {
    /// Configuration file; conf.d/*.toml beside it is read too. Without this option it is
    /// /etc/tallystick/agent.toml, which may be missing.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder, instead of the configured one.
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How log lines are written. What is logged is chosen by RUST_LOG.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this host a node, with a token of `tallystick-reconciler token create`.
    Enroll {
        /// The join token; `-` reads it from standard input.
        #[arg(env = "TALLYSTICK_JOIN_TOKEN", hide_env_values = true)]
        token: String,
        /// The name to be shown by; the host's name by default.
        #[arg(long)]
        name: Option<String>,
    },
    /// Meter until stopped by SIGTERM or SIGINT.
    Run,
    /// Show node, stream, buffer, last receipt and registers.
    Status {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Report usage of an application to the running agent; done when it is durable.
    Report {
        /// What is counted, for example `requests`.
        meter: String,
        /// How much, a whole number.
        value: String,
        /// Whose it is: a control group's path or another name; the caller's own group by default.
        #[arg(long)]
        workload: Option<String>,
        /// Name of this report: repeated under the same one it is counted once. Drawn by default.
        #[arg(long)]
        id: Option<String>,
        /// In which unit.
        #[arg(long, value_enum, default_value_t = Unit::Count)]
        unit: Unit,
    },
    /// The configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Unit {
    Count,
    Bytes,
    Seconds,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with it; nothing when it can be run with.
    Check,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.log_format);
    match act(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tallystick-agent: {}", told(error.as_ref()));
            exit_code(&error)
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,sled=warn,quinn=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder
            .compact()
            .with_ansi(std::io::stderr().is_terminal())
            .init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn act(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = load(cli.config, cli.data)?;
    match cli.command {
        Command::Enroll { token, name } => enroll_here(&config, &token, name),
        Command::Run => runtime()?.block_on(run_here(config)),
        Command::Status { json } => show_status(&config, json),
        Command::Report {
            meter,
            value,
            workload,
            id,
            unit,
        } => {
            let unit = match unit {
                Unit::Count => AppUnit::Count,
                Unit::Bytes => AppUnit::Bytes,
                Unit::Seconds => AppUnit::Seconds,
            };
            let report = Report {
                meter,
                value,
                workload,
                id,
                unit,
            };
            runtime()?.block_on(report_here(&config, &report))
        }
        Command::Config {
            command: ConfigCommand::Check,
        } => Ok(check_config(&config)),
    }
}

fn load(path: Option<PathBuf>, data: Option<PathBuf>) -> anyhow::Result<Config> {
    let mut config = match path {
        Some(path) => Config::load(&path)?,
        None => Config::load_if_there(DEFAULT_CONFIG.as_ref())?,
    };
    // Typed here, it is meant from here; in a file it has to be absolute.
    if let Some(data) = data {
        config.data = std::path::absolute(&data)
            .with_context(|| format!("find the data folder {} (--data)", data.display()))?;
    }
    Ok(config)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

fn enroll_here(config: &Config, token: &str, name: Option<String>) -> anyhow::Result<ExitCode> {
    let data = &config.data;
    let text = match token {
        "-" => std::io::read_to_string(std::io::stdin()).context("read the token")?,
        text => text.to_owned(),
    };
    let token: JoinToken = text.trim().parse()?;
    durable::create_private_dir(data).with_context(|| {
        format!(
            "create the data folder {}; choose another with --data",
            data.display()
        )
    })?;
    let _lock = DataLock::acquire(data)?;
    let keys = Identity::keys_to_enroll(data)?;
    let name = name.unwrap_or_else(host_name);
    let enrolment = runtime()?.block_on(enroll(&token, &name, keys))?;
    let identity = Identity::store(data, enrolment)?;
    println!("enrolled as node {} ({name})", identity.node());
    Ok(ExitCode::SUCCESS)
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

async fn run_here(config: Config) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let stopped = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run::run(config, stopped).await?;
    Ok(ExitCode::SUCCESS)
}

async fn report_here(config: &Config, report: &Report) -> anyhow::Result<ExitCode> {
    println!("{}", report.send(config).await?);
    Ok(ExitCode::SUCCESS)
}

fn show_status(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let status = Status::of(&config.data, config)?;
    let text = if json {
        format!("{}\n", serde_json::to_string(&status)?)
    } else {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        status
            .table(Timestamp::EPOCH.saturating_add(since.into()))
            .to_string()
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // `status | head` has read enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(if status.running {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(6)
    })
}

fn check_config(config: &Config) -> ExitCode {
    let problems = config.check();
    for problem in &problems {
        eprintln!("tallystick-agent: {problem}");
    }
    if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(4)
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let run = error.downcast_ref::<RunError>();
    let not_enrolled = matches!(run, Some(RunError::NotEnrolled(_)))
        || matches!(error.downcast_ref(), Some(StatusError::NotEnrolled(_)));
    let misconfigured = matches!(run, Some(RunError::Config(_)))
        || error.is::<tallystick_agent::config::ConfigError>();
    let locked = matches!(run, Some(RunError::Lock(LockError::Held(_))))
        || matches!(error.downcast_ref(), Some(LockError::Held(_)));
    ExitCode::from(match (not_enrolled, misconfigured, locked) {
        (true, ..) => 3,
        (_, true, _) => 4,
        (.., true) => 5,
        _ => 1,
    })
}
