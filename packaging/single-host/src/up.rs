//! Starting and stopping both halves.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde_json::json;
use tallystick_agent::identity::Identity;
use tallystick_agent::lock::{DataLock, LockError};
use tallystick_agent::ship::enroll::{Enrolment, enroll};
use tallystick_common::ids::NodeId;
use tallystick_common::time::Micros;
use tallystick_reconciler::config::Config;
use tallystick_reconciler::run::{Ready, RunError};
use tallystick_reconciler::store::Store;
use tallystick_reconciler::store::nodes::{self, NodeState};
use tallystick_reconciler::{auth, authority, clock, init, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::Up;
use crate::catalog::{self, ACTOR};
use crate::report::Report;

/// How long the first segment may take.
const FIRST_SEGMENT: Duration = Duration::from_secs(30);
/// How long a join token lives: it is used at once.
const TOKEN_LIFE: Micros = Micros(60_000_000);

/// Runs until a signal.
pub(crate) async fn up(mut call: Up) -> anyhow::Result<()> {
    let report = Report { json: call.json };
    make_folder(&call.data)?;
    // What is kept must not depend on where a later call is made from.
    call.data = std::path::absolute(&call.data)?;
    let _lock = lock(&call.data)?;
    let (stop, stopped) = watch::channel(false);
    let mut signalled = tokio::spawn(wait_for_signal());
    let (mut reconciler, ready) = start_reconciler(&call, stopped).await?;
    // The sender is dropped when the reconciler ends before it is ready: then it says why.
    let Ok(ready) = ready.await else {
        reconciler.await??;
        bail!("the reconciler ended before it was ready");
    };
    let (stop_agent, agent_stopped) = oneshot::channel::<()>();
    let agent_data = call.data.join("agent");
    let node = enrolled(&agent_data, &ready, report).await?;
    check_active(&ready.services.store, node, &call.data).await?;
    catalog::prepare(&ready.services.store, node, clock::now()).await?;
    let mut agent = tokio::spawn(tallystick_agent::run::run(
        agent_config(&agent_data),
        async {
            let _ = agent_stopped.await;
        },
    ));
    let work = async {
        first_segment(&ready.services.store, node).await?;
        announce(&call.data, &ready, report).await?;
        drop(ready);
        std::future::pending::<anyhow::Result<()>>().await
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        signal = &mut signalled => signal?,
        ended = &mut agent => match ended? {
            Ok(()) => bail!("the agent stopped by itself"),
            Err(error) => Err(error.into()),
        },
        ended = &mut reconciler => match ended? {
            Ok(()) => bail!("the reconciler stopped by itself"),
            Err(error) => Err(error),
        },
    };
    report.done("stopping", "Stopping: last sample, seal, ship.", json!({}));
    // A second signal ends it at once.
    let again = tokio::spawn(wait_for_signal());
    let drained = async {
        let _ = stop_agent.send(());
        if !agent.is_finished() {
            let _ = agent.await;
        }
        let _ = stop.send(true);
        if !reconciler.is_finished() {
            let _ = reconciler.await;
        }
    };
    tokio::select! {
        () = drained => {}
        _ = again => bail!("stopped before everything was shipped; the next start goes on"),
    }
    report.done("stopped", "Stopped.", json!({}));
    outcome
}

fn make_folder(data: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data);
    let writable = made.and_then(|()| {
        let probe = data.join(".writable");
        std::fs::write(&probe, b"")?;
        std::fs::remove_file(&probe)
    });
    writable.with_context(|| {
        format!(
            "write to the data folder {}; choose another with --data",
            data.display()
        )
    })
}

fn lock(data: &Path) -> anyhow::Result<DataLock> {
    DataLock::acquire(data).map_err(|error| match error {
        LockError::Held(_) => anyhow!(
            "another `tallystick up` works in {}: stop it, or give this one a folder of its own (--data) and another address (--listen)",
            data.display()
        ),
        error => error.into(),
    })
}

type Running = tokio::task::JoinHandle<anyhow::Result<()>>;

async fn start_reconciler(
    call: &Up,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<(Running, oneshot::Receiver<Ready>)> {
    let data = call.data.join("reconciler");
    let (authority, store) = init::open_or_init(&data, clock::now()).await?;
    let mut config = Config::of(&data);
    config.http = call.listen;
    config.ingest = SocketAddr::from(([127, 0, 0, 1], 0));
    let (tell, ready) = oneshot::channel();
    let running = tokio::spawn(async move {
        let ready = move |ready| drop(tell.send(ready));
        let shutdown = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        run::serve(&config, authority, store, ready, shutdown)
            .await
            .map_err(explained)
    });
    Ok((running, ready))
}

/// Here there is no `reconciler.toml` to point at.
fn explained(error: RunError) -> anyhow::Error {
    match error {
        RunError::Http { address, source } => anyhow!(
            "listen on {address} for API and console: {source}; choose another address with --listen (port 0 takes a free one)"
        ),
        error => error.into(),
    }
}

/// The node of this host: enrolled now, or before and told where the reconciler is today.
async fn enrolled(data: &Path, ready: &Ready, report: Report) -> anyhow::Result<NodeId> {
    let address = ready.ingest.to_string();
    tallystick_agent::durable::create_private_dir(data)
        .with_context(|| format!("create {}", data.display()))?;
    if let Some(identity) = Identity::load(data)? {
        let enrolment = Enrolment {
            addresses: vec![address],
            ..identity.enrolment
        };
        return Ok(Identity::store(data, enrolment)?.node());
    }
    let services = &ready.services;
    let (authority, store, now) = (&services.authority, &services.store, clock::now());
    let token =
        authority::join::create(authority, store, vec![address], "up", TOKEN_LIFE, now).await?;
    let keys = Identity::keys_to_enroll(data)?;
    let name = host_name();
    let identity = Identity::store(data, enroll(&token, &name, keys).await?)?;
    let node = identity.node();
    report.done(
        "enrolled",
        &format!("Enrolled this host as node {name} ({node})."),
        json!({ "node": node, "name": name }),
    );
    Ok(node)
}

/// A node that is banned or retired ships nothing: that is said at once, not after a wait.
async fn check_active(store: &Store, node: NodeId, data: &Path) -> anyhow::Result<()> {
    let found = nodes::by_id(&mut *store.read().await?, node).await?;
    let state = match found.map(|node| node.state) {
        Some(NodeState::Active) => return Ok(()),
        Some(NodeState::Banned { reason, .. }) => format!("banned ({reason})"),
        Some(NodeState::Retired { .. }) => "retired".to_owned(),
        None => "not known to the reconciler".to_owned(),
    };
    bail!(
        "meter this host as node {node}: it is {state} in {}; choose another data folder with --data",
        data.display()
    )
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "this-host".to_owned())
}

fn agent_config(data: &Path) -> tallystick_agent::config::Config {
    tallystick_agent::config::Config {
        sample_seconds: 1,
        seal_seconds: 1,
        data: data.to_owned(),
        ..tallystick_agent::config::Config::default()
    }
}

/// Waits until a segment of this run is admitted.
async fn first_segment(store: &Store, node: NodeId) -> anyhow::Result<()> {
    let admitted = async || -> anyhow::Result<u64> {
        let mut tx = store.read().await?;
        let streams = tallystick_reconciler::store::streams::all(&mut tx).await?;
        Ok(streams
            .iter()
            .filter(|stream| stream.node == node)
            .map(|stream| stream.next.0)
            .sum())
    };
    let before = admitted().await?;
    let arrives = async {
        while admitted().await? <= before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(FIRST_SEGMENT, arrives)
        .await
        .context("no segment arrived in half a minute; RUST_LOG=info shows what the agent does")?
}

async fn announce(data: &Path, ready: &Ready, report: Report) -> anyhow::Result<()> {
    let store = &ready.services.store;
    let token = api_token(data, store).await?;
    let code = auth::create_login(store, "console", clock::now()).await?;
    let api = format!("http://{}", reachable(ready.http));
    let console = format!("{api}/login?code={}", code.reveal());
    let words = format!(
        "Metering this host every second and billing account {} by the starter plan.\n\
         Everything is kept in {}.\n\nConsole (the link works once):  {console}\n\
         API:  {api}   token:  {token}\n\nCtrl-C stops; `tallystick up` goes on with the same bill.",
        catalog::ACCOUNT,
        data.display(),
    );
    report.done(
        "ready",
        &words,
        json!({ "api": api, "token": token, "console": console }),
    );
    Ok(())
}

/// Where this host itself reaches what listens on `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The administrator's token of this folder, the same at every start.
async fn api_token(data: &Path, store: &Store) -> anyhow::Result<String> {
    let path = data.join("token");
    if let Ok(mut file) = std::fs::File::open(&path) {
        let mut token = String::new();
        file.read_to_string(&mut token)
            .with_context(|| format!("read {}", path.display()))?;
        if auth::token_actor(store, token.trim()).await?.is_some() {
            return Ok(token.trim().to_owned());
        }
    }
    let token = auth::create_token(store, "up", ACTOR, clock::now()).await?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("write {}", path.display()))?;
    writeln!(file, "{}", token.reveal())?;
    Ok(token.reveal().to_owned())
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_an_address_that_this_host_reaches() {
        let told = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(told("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(told("[::]:1"), "[::1]:1");
        assert_eq!(told("192.0.2.1:1"), "192.0.2.1:1");
    }
}
