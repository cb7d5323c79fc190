//! A running reconciler: ingest, commit, rollups and HTTP, from the first socket to the last receipt.
//!
//! Order of stopping: HTTP and ingest take no more, sessions send their last receipts, commit ends,
//! rollups catch up, the store closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

mod background;
mod changes;
mod jobs;

use background::background;
use jobs::Jobs;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::{self, App};
use crate::authority::{Authority, AuthorityError};
use crate::clock;
use crate::config::Config;
use crate::ingest::bulletin::Changes;
use crate::ingest::endpoint::EndpointError;
use crate::ingest::listener::Listener;
use crate::ingest::strangers::Strangers;
use crate::ingest::{DEFAULT_CONNECTIONS_MAX, Services};
use crate::store::{Store, StoreError};

/// How long open requests have when the server stops.
const HTTP_DRAIN: Duration = Duration::from_secs(5);

/// Why it did not run, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Keys and certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The UDP address.
    #[error(transparent)]
    Ingest(#[from] EndpointError),
    /// The TCP address.
    #[error(
        "listen on {address} for API and console: {source}; stop what uses it, or choose another address (--listen, or listen.http in reconciler.toml)"
    )]
    Http {
        /// The address.
        address: SocketAddr,
        /// What failed.
        source: std::io::Error,
    },
    /// HTTP ended.
    #[error("serve API and console: {0}")]
    Serve(std::io::Error),
}

/// Everything answers.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Where agents reach it (UDP, and TCP of the same number).
    pub ingest: SocketAddr,
    /// Where API and console are (TCP).
    pub http: SocketAddr,
    /// Store, authority and the rest, for a process that does more than serve.
    pub services: Arc<Services>,
}

/// Serves until `shutdown` ends, from a data folder that is ready (see [`crate::init`]). `ready` is
/// called once everything answers.
///
/// # Errors
/// When the folder is not ready or an address is taken.
pub async fn run(
    config: &Config,
    ready: impl FnOnce(Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let authority = Authority::open_with(&config.data, config.lives, clock::now())?;
    let store = Store::open(&config.store).await?;
    let store = store
        .begin_bans(&config.data, clock::now())
        .map_err(StoreError::from)?;
    serve(config, authority, store, ready, shutdown).await
}

/// Serves with an authority and a store that are open already.
///
/// # Errors
/// When an address is taken.
pub async fn serve(
    config: &Config,
    authority: Authority,
    store: Store,
    ready: impl FnOnce(Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let http = bind(config.http).await?;
    let http_address = http.local_addr().map_err(RunError::Serve)?;
    let background = background(&store).await?;
    let rules = Arc::new(config.rules.clone());
    let jobs = Jobs {
        store: store.clone(),
        replica: background.replica,
        rules: Arc::clone(&rules),
    };
    let working = tokio::spawn(jobs.run());
    let (tell_changes, changes) = watch::channel(0);
    let following = changes::follow(authority.clone(), store.clone(), tell_changes);
    let following = tokio::spawn(following);
    let services = Arc::new(Services {
        authority,
        store: store.clone(),
        intake: Arc::clone(&background.intake),
        strangers: Strangers::default(),
        addresses: config.addresses.clone(),
        connections_max: DEFAULT_CONNECTIONS_MAX,
        changes: Changes::new(changes),
    });
    let listener = Listener::open(config.ingest, Arc::clone(&services))?;
    let ingest = listener.address();
    let (stop, stopped) = watch::channel(false);
    let ingesting = tokio::spawn(listener.run(stopped.clone()));
    let app = App {
        services: Arc::clone(&services),
        seller: config.seller.as_str().into(),
        rules,
        ingest: Some(ingest),
    };
    let answering = tokio::spawn(answer(http, app, stopped));
    tracing::info!(%ingest, http = %http_address, "serving");
    ready(Ready {
        ingest,
        http: http_address,
        services: Arc::clone(&services),
    });
    shutdown.await;
    tracing::info!("stopping");
    following.abort();
    working.abort();
    let _ = stop.send(true);
    let _ = ingesting.await;
    let served = tokio::time::timeout(HTTP_DRAIN, answering).await;
    drop(services);
    background.stop().await;
    store.close().await;
    match served {
        Ok(Ok(Err(error))) => Err(RunError::Serve(error)),
        _ => Ok(()),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Http { address, source })
}

async fn answer(
    listener: TcpListener,
    app: App,
    mut stopped: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let stop = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, api::router(app))
        .with_graceful_shutdown(stop)
        .await
}
