//! `tallystick-agent`: the command line of the agent.
//!
//! Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not enrolled · 4 the configuration is wrong ·
//! 5 another agent has the data folder · 6 (`status`) enrolled, but no agent runs ·
//! 7 (`buffer verify`) damaged, nothing lost · 8 (`buffer verify`) something sealed is lost ·
//! 9 (`verify`) the evidence agrees with itself, but nothing held here bears it out ·
//! 10 to 17 (`doctor`) what is at fault, see [`doctor::Subject`].

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tallystick_agent::config::intake::AppUnit;
use tallystick_agent::config::{Config, ConfigError};
use tallystick_agent::identity::Identity;
use tallystick_agent::inspect::{self, Verdict};
use tallystick_agent::intake::report::Report;
use tallystick_agent::lock::{DataLock, LockError};
use tallystick_agent::run::{self, RunError};
use tallystick_agent::sample::{Note, Sampler};
use tallystick_agent::service::{Notifier, Service};
use tallystick_agent::ship::enroll::enroll;
use tallystick_agent::status::{Status, StatusError};
use tallystick_agent::tally::Days;
use tallystick_agent::top;
use tallystick_agent::{doctor, durable};
use tallystick_common::logfmt::Logfmt;
use tallystick_common::time::Timestamp;
use tallystick_common::told::told;
use tallystick_common::verify::evidence::{Answer, Tally, Trust};
use tallystick_common::wire::JoinToken;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

const DEFAULT_CONFIG: &str = "/etc/tallystick/agent.toml";

/// Meters this host, seals its readings, and keeps them until they are receipted.
#[derive(Debug, Parser)]
#[command(
    name = "tallystick-agent",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not enrolled, 4 configuration wrong, 5 another agent has the data folder, 6 no agent runs (status), 7 damaged but nothing lost, 8 something sealed is lost (buffer verify), 9 consistent, not authenticated (verify; 1 there: something differs). doctor, by what is at fault first: 3 enrolment, 4 configuration, 10 permission, 11 cgroup, 12 DNS, 13 UDP, 14 TCP, 15 TLS, 16 the node's standing, 17 clock."
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
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Logfmt)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// `ts=… level=info msg="…" key=value`.
    #[value(alias = "text")]
    Logfmt,
    /// One object a line.
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
    /// Meter until stopped by SIGTERM or SIGINT. SIGHUP checks the configuration and puts it in force.
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
    /// What is sealed and waits for its receipt. Reads only, and beside a running agent too.
    Buffer {
        #[command(subcommand)]
        command: BufferCommand,
    },
    /// The customer's half: what registers stood at when each UTC day was over, and its receipt.
    Tally {
        /// Only this day, with its registers: 2026-11-22.
        #[arg(long, value_name = "DAY")]
        day: Option<String>,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// End this node for good: a last sample, every register closed in one final segment, and its receipt.
    /// No agent may run. Nothing is metered afterwards, and it cannot be taken back.
    Retire {
        /// Really.
        #[arg(long)]
        yes: bool,
        /// How long to wait for the receipt.
        #[arg(long, default_value = "60", value_name = "SECONDS")]
        wait: u64,
    },
    /// Check the evidence of an invoice and compute the invoice again, trusting only what this node holds: the
    /// authority it enrolled with and its own key. On a host that is not enrolled, only what --trust names.
    Verify {
        /// The file, of `tallystick-reconciler evidence export`.
        file: PathBuf,
        /// What else is trusted: a node's signing key, an authority's fingerprint or an audit checkpoint, the
        /// text itself or a file that holds it. May be given several times.
        #[arg(long, value_name = "KEY|FINGERPRINT|CHECKPOINT")]
        trust: Vec<String>,
        /// Hold this node's tally against it, too.
        #[arg(long)]
        tally: bool,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Find out what keeps this host from being metered and shipped, and say what to do.
    Doctor {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Show the same again and again, with rates; until Ctrl-C.
    Top {
        /// Seconds between two looks, at most 20.
        #[arg(long, default_value = "2", value_name = "SECONDS")]
        interval: NonZeroU64,
        /// Stop after so many looks.
        #[arg(long, value_name = "N")]
        count: Option<NonZeroU64>,
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
    /// Say what is wrong with it, by itself and with the control groups that are here now; nothing when
    /// it can be run with.
    Check,
}

#[derive(Debug, Subcommand)]
enum BufferCommand {
    /// Show what it holds.
    Show {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Check hash, signature and place of every segment without a receipt.
    Verify {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
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
        LogFormat::Logfmt => builder.event_format(Logfmt).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

fn act(cli: Cli) -> anyhow::Result<ExitCode> {
    let source = Source {
        path: cli.config,
        data: cli.data,
    };
    let config = match (source.load(), &cli.command) {
        // What a running agent says of itself can be read whatever its file has become.
        (Err(error), Command::Status { .. } | Command::Top { .. }) if source.data.is_some() => {
            tracing::warn!(%error, "the configuration is not read");
            source.place(Config::default())?
        }
        (config, _) => config?,
    };
    match cli.command {
        Command::Enroll { token, name } => enroll_here(&config, &token, name),
        Command::Run => runtime()?.block_on(run_here(config, source)),
        Command::Retire { yes: false, .. } => ask_before_retiring(&config),
        Command::Retire { wait, .. } => runtime()?.block_on(retire_here(config, wait)),
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
        Command::Buffer { command } => inspect_buffer(&config, &command),
        Command::Tally { day, json } => show_tally(&config, day, json),
        Command::Verify {
            file,
            trust,
            tally,
            json,
        } => verify_evidence(&config, &file, &trust, tally, json),
        Command::Doctor { json } => diagnose(&config, json),
        Command::Top { interval, count } => show_top(&config, interval, count),
        Command::Config {
            command: ConfigCommand::Check,
        } => check_config(&config),
    }
}

/// Where the configuration is read from, now and at each reload.
struct Source {
    path: Option<PathBuf>,
    data: Option<PathBuf>,
}

impl Source {
    fn load(&self) -> Result<Config, ConfigError> {
        self.place(match &self.path {
            Some(path) => Config::load(path)?,
            None => Config::load_if_there(DEFAULT_CONFIG.as_ref())?,
        })
    }

    fn place(&self, mut config: Config) -> Result<Config, ConfigError> {
        // Typed here, it is meant from here; in a file it has to be absolute.
        if let Some(data) = &self.data {
            config.data = std::path::absolute(data).map_err(|source| ConfigError::Read {
                path: data.clone(),
                source,
            })?;
        }
        Ok(config)
    }
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

async fn run_here(config: Config, source: Source) -> anyhow::Result<ExitCode> {
    let stopped = told_to_stop()?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let (ask, reloads) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // One that waits already will read what is there then.
            let _ = ask.try_send(());
        }
    });
    let service = Service {
        notifier: Notifier::of_environment(),
        reloads,
        reread: Box::new(move || source.load()),
    };
    run::run_service(config, service, stopped).await?;
    Ok(ExitCode::SUCCESS)
}

fn ask_before_retiring(config: &Config) -> anyhow::Result<ExitCode> {
    let identity =
        Identity::load(&config.data)?.ok_or_else(|| RunError::NotEnrolled(config.data.clone()))?;
    eprintln!(
        "node {} ({}) would be retired: its last segment is sealed and shipped, and nothing is metered here any more. This cannot be taken back; say --yes to do it.",
        identity.node(),
        identity.enrolment.record.name
    );
    Ok(ExitCode::from(2))
}

/// Until SIGTERM or SIGINT, whichever comes first.
fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn retire_here(config: Config, wait: u64) -> anyhow::Result<ExitCode> {
    let patience = Duration::from_secs(wait);
    let retirement = run::retire(config, patience, told_to_stop()?).await?;
    let (seq, through) = (retirement.end.seq, retirement.end.covered_through);
    println!("segment {seq} is the last of this node; it accounts for time up to {through}");
    anyhow::ensure!(
        retirement.unreceipted == 0,
        "{} segments have no receipt yet, and the node counts as retired when its last one has come: run this again when the reconciler can be reached",
        retirement.unreceipted
    );
    println!("the reconciler has all of it");
    Ok(ExitCode::SUCCESS)
}

async fn report_here(config: &Config, report: &Report) -> anyhow::Result<ExitCode> {
    println!("{}", report.send(config).await?);
    Ok(ExitCode::SUCCESS)
}

fn diagnose(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let report = runtime()?.block_on(Box::pin(doctor::examine(config)));
    let text = if json {
        let told = serde_json::json!({ "fault": report.fault(), "findings": report.findings });
        format!("{told}\n")
    } else {
        report.to_string()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(match report.fault() {
        Some(subject) => ExitCode::from(subject.exit_code()),
        None => ExitCode::SUCCESS,
    })
}

/// A picture every interval: a screen of its own on a terminal, one after another elsewhere.
fn show_top(
    config: &Config,
    interval: NonZeroU64,
    count: Option<NonZeroU64>,
) -> anyhow::Result<ExitCode> {
    let interval = Duration::from_secs(interval.get()).min(top::INTERVAL_MAX);
    let watch = top::Watch::begin(&config.data);
    let mut view = top::View::default();
    let mut stdout = std::io::stdout();
    let terminal = stdout.is_terminal();
    let mut looks = 0;
    loop {
        let began = Instant::now();
        watch.look();
        let status = Status::of(&config.data, config)?;
        let rows = if terminal { screen_rows() } else { usize::MAX };
        let picture = view.picture(&status, now(), rows);
        let before = if terminal { top::CLEAR } else { "" };
        let told = stdout
            .write_all(format!("{before}{picture}\n").as_bytes())
            .and_then(|()| stdout.flush());
        looks += 1;
        match told {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            told => told?,
        }
        if count.is_some_and(|count| looks >= count.get()) {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(interval.saturating_sub(began.elapsed()));
    }
}

/// Rows of registers that a screen has room for below the summary.
fn screen_rows() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let rows = size.map_or(24, |size| usize::from(size.ws_row));
    rows.saturating_sub(16).max(4)
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::EPOCH.saturating_add(since.into())
}

fn show_status(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let status = Status::of(&config.data, config)?;
    let text = if json {
        format!("{}\n", serde_json::to_string(&status)?)
    } else {
        status.table(now()).to_string()
    };
    print(&text)?;
    Ok(if status.running {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(6)
    })
}

fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // `status | head` has read enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn print_as<T: Serialize + Display>(value: &T, json: bool) -> anyhow::Result<()> {
    if json {
        print(&format!("{}\n", serde_json::to_string(value)?))
    } else {
        print(&value.to_string())
    }
}

fn identity(config: &Config) -> anyhow::Result<Identity> {
    let not_enrolled = || StatusError::NotEnrolled(config.data.clone());
    Ok(Identity::load(&config.data)?.ok_or_else(not_enrolled)?)
}

fn inspect_buffer(config: &Config, command: &BufferCommand) -> anyhow::Result<ExitCode> {
    let ring = identity(config)?.key_ring();
    let (dir, limit) = (config.data.join("buffer"), config.buffer.limit_bytes);
    let live = DataLock::is_held(&config.data);
    match command {
        BufferCommand::Show { json } => match inspect::show(&dir, limit, live)? {
            Some(shown) => print_as(&shown, *json)?,
            None => eprintln!(
                "tallystick-agent: nothing was sealed yet in {}",
                dir.display()
            ),
        },
        BufferCommand::Verify { json } => match inspect::verify(&dir, limit, &ring, live)? {
            Some(verified) => {
                print_as(&verified, *json)?;
                return Ok(match verified.verdict {
                    Verdict::Sound => ExitCode::SUCCESS,
                    Verdict::Damaged => ExitCode::from(7),
                    Verdict::Lost => ExitCode::from(8),
                });
            }
            None => eprintln!(
                "tallystick-agent: nothing was sealed yet in {}",
                dir.display()
            ),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn read_tally(config: &Config) -> anyhow::Result<Days> {
    let identity = identity(config)?;
    let given_at = |bytes: &[u8]| identity.read_receipt(bytes).map(|receipt| receipt.at);
    Ok(Days::read(&config.data, given_at)?)
}

fn verify_evidence(
    config: &Config,
    file: &Path,
    trust: &[String],
    tally: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let mut trusted = Vec::new();
    for text in trust {
        trusted.push(trust_of(text)?);
    }
    if let Some(identity) = Identity::load(&config.data)? {
        trusted.extend(identity.trust());
    }
    let tally = match tally {
        true => Some(Tally::from_json(&serde_json::to_string(&read_tally(
            config,
        )?)?)?),
        false => None,
    };
    let answer = Answer::of(&bytes, &trusted, tally.as_ref());
    print(&if json {
        format!("{}\n", answer.json())
    } else {
        answer.to_string()
    })?;
    Ok(ExitCode::from(answer.exit_code()))
}

/// From the text itself, or from a file that holds it.
fn trust_of(text: &str) -> anyhow::Result<Trust> {
    if !Path::new(text).is_file() {
        return Ok(text.parse()?);
    }
    let held = std::fs::read_to_string(text).with_context(|| format!("read {text}"))?;
    held.parse().with_context(|| format!("read {text}"))
}

fn show_tally(config: &Config, day: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let days = read_tally(config)?;
    let days = match day {
        Some(day) => days.only(&day),
        None => days,
    };
    print_as(&days, json)?;
    Ok(ExitCode::SUCCESS)
}

fn check_config(config: &Config) -> anyhow::Result<ExitCode> {
    let mut problems: Vec<String> = config.check().iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        // What globs do not show by themselves: groups that are here, one inside another (I4).
        let notes = Sampler::new(config)?.sample().notes;
        let nested = notes
            .iter()
            .filter(|note| matches!(note, Note::Nested { .. }));
        problems.extend(nested.map(ToString::to_string));
    }
    for problem in &problems {
        eprintln!("tallystick-agent: {problem}");
    }
    Ok(if problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(4)
    })
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let run = error.downcast_ref::<RunError>();
    let not_enrolled = matches!(run, Some(RunError::NotEnrolled(_)))
        || matches!(error.downcast_ref(), Some(StatusError::NotEnrolled(_)));
    let misconfigured = matches!(run, Some(RunError::Config(_))) || error.is::<ConfigError>();
    let locked = matches!(run, Some(RunError::Lock(LockError::Held(_))))
        || matches!(error.downcast_ref(), Some(LockError::Held(_)));
    ExitCode::from(match (not_enrolled, misconfigured, locked) {
        (true, ..) => 3,
        (_, true, _) => 4,
        (.., true) => 5,
        _ => 1,
    })
}
