//! The command line: `tallystick-reconciler`.
//!
//! Owns how commands are written and how answers are told; decides nothing. Every command but `init`,
//! `serve`, `restore`, `backup verify` and `plan check` works on the store directly, beside a running server, which sees the change
//! in its next transaction. Asking twice for the same thing changes nothing the second time.
//!
//! Exit codes: 0 done, 1 failed or refused (standard error says what, on what, and what to do; nothing
//! was changed), 2 the command line is wrong.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use tallystick_common::told::told;

use crate::config::{self, Config, ConfigError, DEFAULT_DATA};
use crate::store::{Location, Store};

mod account;
mod api_token;
mod assign;
mod audit;
mod authority;
mod backup;
mod conservation;
mod correction;
mod coverage;
mod evidence;
mod init;
mod instant;
mod invoice;
mod leakage;
mod login;
mod node;
mod output;
mod period;
mod plan;
mod quarantine;
mod restore;
mod rollup;
mod serve;
mod store;
mod subscribe;
#[cfg(test)]
mod tests;
mod token;
mod usage;

use output::Output;

/// Admits readings, keeps them, rates them, writes invoices.
#[derive(Debug, Parser)]
#[command(
    name = "tallystick-reconciler",
    version,
    after_help = "Instants are RFC 3339 (2026-11-01T00:00:00Z); `now` is the beginning of the present quarter-hour.\n\
        Exit codes: 0 done, 1 failed or refused (nothing was changed), 2 wrong command line."
)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Folder of authority and store.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "TALLYSTICK_RECONCILER_DATA",
        default_value = DEFAULT_DATA
    )]
    data: PathBuf,
    /// Configuration; reconciler.toml in the data folder, if it is there, when not given.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TALLYSTICK_RECONCILER_CONFIG"
    )]
    config: Option<PathBuf>,
    /// The store: postgres://USER@HOST/DATABASE, the folder of a server's socket, or a file. Overrides
    /// the configuration. A password is better kept in the environment, in a password file (PGPASSFILE)
    /// or in the configuration than on a command line.
    #[arg(
        long,
        global = true,
        value_name = "LOCATION",
        env = "TALLYSTICK_RECONCILER_STORE",
        hide_env_values = true
    )]
    store: Option<String>,
    /// JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    /// How log lines are written. What is logged is chosen by TALLYSTICK_LOG.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Logfmt)]
    log_format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `ts=… level=info msg="…" key=value`.
    #[value(alias = "text")]
    Logfmt,
    /// One object a line.
    Json,
}

impl Cli {
    /// How log lines are to be written.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        self.common.log_format
    }
}

impl Common {
    fn config_file(&self) -> PathBuf {
        let own = || self.data.join(config::FILE_NAME);
        self.config.clone().unwrap_or_else(own)
    }

    fn load(&self) -> anyhow::Result<Config> {
        crate::backup::refuse_half_restored(&self.data)?;
        let config = match &self.config {
            Some(file) => Config::load_file(&self.data, file),
            None => Config::load(&self.data),
        }?;
        Ok(self.with_store(config)?)
    }

    /// With the store that the command line names, if it names one.
    fn with_store(&self, mut config: Config) -> Result<Config, ConfigError> {
        if let Some(text) = &self.store {
            let path = PathBuf::from("--store");
            config.store = Location::parse(text, &self.data)
                .map_err(|source| ConfigError::Store { path, source })?;
        }
        Ok(config)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Serve(serve::Serve),
    #[command(subcommand)]
    Token(token::Token),
    #[command(subcommand)]
    Node(node::NodeCommand),
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    #[command(subcommand)]
    Account(account::AccountCommand),
    Assign(assign::Assign),
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    Subscribe(subscribe::Subscribe),
    #[command(subcommand)]
    Invoice(invoice::InvoiceCommand),
    #[command(subcommand)]
    Period(period::PeriodCommand),
    #[command(subcommand)]
    Correction(correction::CorrectionCommand),
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    Usage(usage::Usage),
    Coverage(coverage::Coverage),
    Leakage(leakage::Leakage),
    Conservation(conservation::Conservation),
    #[command(subcommand)]
    Rollup(rollup::RollupCommand),
    #[command(subcommand)]
    ApiToken(api_token::ApiTokenCommand),
    #[command(alias = "login")]
    LoginLink(login::LoginLink),
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    #[command(subcommand)]
    Authority(authority::AuthorityCommand),
    #[command(subcommand)]
    Store(store::StoreCommand),
    #[command(args_conflicts_with_subcommands = true)]
    Backup(backup::Backup),
    Restore(restore::Restore),
}

/// What commands work with.
struct Session {
    config: Config,
    /// Where the configuration is, if it is there.
    config_file: PathBuf,
    store: Store,
    output: Output,
    actor: String,
}

/// Runs a command line and says how it went.
pub async fn main(cli: Cli) -> ExitCode {
    match dispatch(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tallystick-reconciler: {}", told(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let common = cli.common;
    let output = Output { json: common.json };
    match cli.command {
        Command::Init(command) => command.run(&common).await,
        Command::Serve(command) => command.run(&common).await,
        Command::Restore(command) => command.run(&common).await,
        Command::Backup(backup::Backup {
            command: Some(command),
            ..
        }) => command.run(output).await,
        Command::Plan(plan::PlanCommand::Check { file }) => plan::check(output, &file),
        command => {
            let config = common.load()?;
            let store = Store::open(&config.store).await?;
            let store = store.with_bans(&config.data);
            let session = Session {
                config_file: common.config_file(),
                config,
                store,
                output,
                actor: actor(),
            };
            let done = on_store(command, &session).await;
            session.store.close().await;
            done
        }
    }
}

async fn on_store(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        // Those that need no store were run before.
        Command::Init(_) | Command::Serve(_) | Command::Restore(_) => Ok(()),
        Command::Token(command) => command.run(session).await,
        Command::Node(command) => command.run(session).await,
        Command::Quarantine(command) => command.run(session).await,
        Command::Account(command) => command.run(session).await,
        Command::Assign(command) => command.run(session).await,
        Command::Plan(command) => command.run(session).await,
        Command::Subscribe(command) => command.run(session).await,
        Command::Invoice(command) => command.run(session).await,
        Command::Period(command) => command.run(session).await,
        Command::Correction(command) => command.run(session).await,
        Command::Evidence(command) => command.run(session).await,
        Command::Usage(command) => command.run(session).await,
        Command::Coverage(command) => command.run(session).await,
        Command::Leakage(command) => command.run(session).await,
        Command::Conservation(command) => command.run(session).await,
        Command::Rollup(command) => command.run(session).await,
        Command::ApiToken(command) => command.run(session).await,
        Command::LoginLink(command) => command.run(session).await,
        Command::Audit(command) => command.run(session).await,
        Command::Authority(command) => command.run(session).await,
        Command::Store(command) => command.run(session).await,
        Command::Backup(command) => command.run(session).await,
    }
}

/// Who is at the keyboard, for the audit log.
fn actor() -> String {
    let name = std::env::var("USER").ok().filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    format!("cli:{name}")
}

/// Whether all that failed is that nobody reads on, as in `usage | head`.
fn reader_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
