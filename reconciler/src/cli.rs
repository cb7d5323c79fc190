//! The command line: `tallystick-reconciler`.
//!
//! Every command but `serve` works on the store directly, beside a running server, which sees the
//! change in its next transaction. Exit codes: 0 done (also when it had been done before), 1 it
//! failed, 2 the command line is wrong, 3 a rule refuses it, 4 not yet (the period has not ended or
//! nodes are outstanding).

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::authority::Authority;
use crate::billing::BillingError;
use crate::catalog::CatalogError;
use crate::catalog::change::ChangeError;
use crate::config::{Config, DEFAULT_DATA};
use crate::store::Store;
use crate::{clock, init};

mod catalog;
mod invoice;
mod node;
mod output;
mod serve;
mod token;
mod usage;

use output::Output;

/// Admits readings, keeps them, rates them, writes invoices.
#[derive(Debug, Parser)]
#[command(
    name = "tallystick-reconciler",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong command line, 3 refused by a rule, 4 not yet."
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
    #[arg(long, global = true, env = "TALLYSTICK_RECONCILER_DATA", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a data folder ready: authority, store, the first API token.
    Init,
    /// Serve agents, API and console.
    Serve(serve::Serve),
    /// Join tokens for nodes.
    #[command(subcommand)]
    Token(token::Token),
    /// A one-time login link for the console.
    Login(token::Login),
    /// Enrolled hosts.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Who is billed.
    #[command(subcommand)]
    Account(catalog::AccountCommand),
    /// Assign workloads of nodes to an account, or list assignments.
    Assign(catalog::Assign),
    /// What usage costs.
    #[command(subcommand)]
    Plan(catalog::PlanCommand),
    /// Let a plan price an account's usage.
    Subscribe(catalog::Subscribe),
    /// Drafts and issued invoices.
    #[command(subcommand)]
    Invoice(invoice::InvoiceCommand),
    /// What was used.
    Usage(usage::Usage),
}

/// What commands work with.
struct Session {
    config: Config,
    store: Store,
    output: Output,
    actor: String,
}

/// Runs a command line and says how it went.
pub async fn main(cli: Cli) -> ExitCode {
    match dispatch(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tallystick-reconciler: {}", told(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let output = Output {
        json: cli.common.json,
    };
    let data = cli.common.data;
    match cli.command {
        Command::Init => return init_command(&data, output).await,
        Command::Serve(command) => return command.run(Config::load(&data)?).await,
        _ => {}
    }
    let config = Config::load(&data)?;
    let store = Store::open(&config.store()).await?;
    let context = Session {
        config,
        store,
        output,
        actor: actor(),
    };
    let done = match cli.command {
        Command::Init | Command::Serve(_) => Ok(()),
        Command::Token(command) => command.run(&context).await,
        Command::Login(command) => command.run(&context).await,
        Command::Node(command) => command.run(&context).await,
        Command::Account(command) => command.run(&context).await,
        Command::Assign(command) => command.run(&context).await,
        Command::Plan(command) => command.run(&context).await,
        Command::Subscribe(command) => command.run(&context).await,
        Command::Invoice(command) => command.run(&context).await,
        Command::Usage(command) => command.run(&context).await,
    };
    context.store.close().await;
    done
}

async fn init_command(data: &std::path::Path, output: Output) -> anyhow::Result<()> {
    let token = init::init(data, &actor(), clock::now())
        .await
        .with_context(|| format!("make {} ready", data.display()))?;
    let fingerprint = Authority::open(data, clock::now())?
        .ca_fingerprint()
        .to_string();
    if output.json {
        return output.value(&serde_json::json!({
            "data": data, "api_token": token.reveal(), "ca_fingerprint": fingerprint,
        }));
    }
    println!("data folder     {}", data.display());
    println!("CA fingerprint  {fingerprint}");
    println!("API token       {}", token.reveal());
    println!(
        "The token is told only now. Next: tallystick-reconciler serve --data {}",
        data.display()
    );
    Ok(())
}

/// Who is at the keyboard, for the audit log.
fn actor() -> String {
    let name = std::env::var("USER").ok().filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    format!("cli:{name}")
}

/// The chain of causes; a cause that the error above it tells already is not told twice.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() {
                cause
            } else {
                format!("{text}: {cause}")
            };
        }
    }
    text
}

/// What scripts can act on.
fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<BillingError>() {
        Some(
            BillingError::NotEnded { .. }
            | BillingError::Outstanding { .. }
            | BillingError::RollupsBehind { .. },
        ) => return 4,
        Some(BillingError::Store(_)) => return 1,
        Some(_) => return 3,
        None => {}
    }
    match error.downcast_ref::<ChangeError>() {
        Some(ChangeError::Store(_)) => 1,
        Some(_) => 3,
        None if error.is::<CatalogError>() || error.is::<crate::api::Problem>() => 3,
        None => 1,
    }
}
