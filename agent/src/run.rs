//! The agent at work: samples and seals by the wall clock, ships meanwhile, stops in good order.
//!
//! Owns the tasks and the clock. What a sample means is in `accrue`, what sealing is in `station`,
//! who is talked to in `ship`. Sampling and sealing never wait for the network: without a reconciler
//! everything but shipping goes on.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tallystick_common::ids::StreamId;
use tallystick_common::time::{Micros, SECOND_US, Timestamp};
use tallystick_common::wire::{InForce, Settings, Trust};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::buffer::{self, Buffer, BufferError, Handle};
use crate::config::{Config, Problem};
use crate::durable;
use crate::figures::Figures;
use crate::identity::{Identity, IdentityError};
use crate::intake::desk::Desk;
use crate::intake::scrape::{self, Troubles};
use crate::intake::server::{self, Server};
use crate::intake::{IntakeError, Request};
use crate::lock::{DataLock, LockError};
use crate::metrics::{self, MetricsError};
use crate::sample::{SampleError, Sampler};
use crate::service::{Heartbeat, Service};
use crate::ship::connection::Transport;
use crate::ship::{self, ShipEvent, Shipping};
use crate::station::{Station, StationError};
use crate::status::{Board, LinkStatus, RegisterStatus, Status};
use crate::tally::{Tally, TallyError};
use crate::top;

use self::central::Central;

mod central;
mod reload;
mod retire;

pub use retire::{End, Retirement, retire};

/// How long a stop waits for the last receipts.
const DRAIN: Duration = Duration::from_secs(3);
/// How long it waits for shipping to end at all: with the last sample and seal a stop takes at most 5 s.
const LET_GO: Duration = Duration::from_millis(4_500);
/// How long TCP is used, where QUIC did not get through, before that is tried again.
const PROBE_QUIC_AFTER: Duration = Duration::from_secs(600);
/// Shortest time between two new streams, so that a cause that stays does not make one a second.
const STREAM_EVERY: Duration = Duration::from_secs(60);
/// Shortest time between two samples where new groups ask for one before its time.
const EARLY_EVERY_US: u64 = SECOND_US;

/// Why the agent does not run, or ran no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data folder cannot be made.
    #[error("cannot create the data folder {path}: {source}; choose another with --data")]
    Data {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration.
    #[error("the configuration cannot be run with: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<Problem>),
    /// Nobody has enrolled this host.
    #[error(
        "this host is not enrolled ({0} has no identity): run `tallystick-agent enroll TOKEN` with a token of `tallystick-reconciler token create`"
    )]
    NotEnrolled(PathBuf),
    /// Another agent.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Keys and certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The buffer cannot be opened.
    #[error(transparent)]
    Buffer(#[from] BufferError),
    /// Nothing could be reported.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// The registers cannot be restored.
    #[error(transparent)]
    Station(#[from] StationError),
    /// The customer's half cannot be kept.
    #[error(transparent)]
    Tally(#[from] TallyError),
    /// The machine cannot be sampled.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The node is retired.
    #[error(
        "this node is retired: segment {} of stream {} is its last and accounts for time up to {}. `tallystick-agent retire --yes` ships what still waits; to meter this host again, enroll it in another data folder",
        .0.seq, .0.stream, .0.covered_through
    )]
    Ended(End),
    /// Whether it is cannot be known, or not be noted.
    #[error("read or write retired.json in the data folder: {0}")]
    Retired(io::Error),
    /// No random bytes.
    #[error("draw random bytes: {0}")]
    Random(getrandom::Error),
    /// The metrics address.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A thread ended.
    #[error("the metering thread ended: {0}")]
    Worker(String),
}

/// Runs the agent of an enrolled node until `shutdown` is ready; then takes a last sample, seals it,
/// and waits for receipts: at most five seconds in all.
///
/// # Errors
/// When it cannot start. Once it runs, neither the network nor a full disk ends it.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let service = Service::none(&config);
    run_service(config, service, shutdown).await
}

/// As [`run`], under a service manager and with reloads.
///
/// # Errors
/// As [`run`].
pub async fn run_service(
    config: Config,
    service: Service,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let (_lock, identity) = enrolled(&config)?;
    let data = config.data.clone();
    let figures = watch::Sender::new(Figures::new(identity.node()));
    let own = config;
    let central = Central::load(&data);
    let (config, problem) = central::effective(&own, central.as_ref());
    let scrapes = Scrapes::start(&config, &figures).await?;
    let (mut meter, mut status) = start(&config, &identity, &data)?;
    let end = End::find(&data, &mut meter.station.buffer().lock())?;
    if let Some(end) = end {
        return Err(RunError::Ended(end));
    }
    let mut intake = Intake::default();
    intake.begin(&config, &mut meter);
    let now = central::in_force(&config, &identity, central.as_ref(), problem.as_ref());
    status.central_version = now.settings;
    status.central_problem = problem;
    let in_force = watch::Sender::new(now);
    let shipper = Shipper::start(
        shipping(&identity, &config, in_force.subscribe()),
        meter.station.buffer().clone(),
    );
    let agent = Agent {
        board: Board::new(&data),
        own,
        central,
        in_force,
        config,
        data,
        identity,
        status,
        meter: Some(meter),
        groups: None,
        shipper,
        intake,
        stream_over: None,
        new_stream_at: None,
        unpublished: false,
        service,
        figures,
        scrapes,
        told: String::new(),
    };
    Box::pin(agent.work(Box::pin(shutdown))).await
}

/// The data folder, which is ours from now on, and whose it is.
fn enrolled(config: &Config) -> Result<(DataLock, Identity), RunError> {
    let problems = config.check();
    if !problems.is_empty() {
        return Err(RunError::Config(problems));
    }
    let data = &config.data;
    durable::create_private_dir(data).map_err(|source| RunError::Data {
        path: data.clone(),
        source,
    })?;
    let lock = DataLock::acquire(data)?;
    let identity = Identity::load(data)?.ok_or_else(|| RunError::NotEnrolled(data.clone()))?;
    Ok((lock, identity))
}

/// What samples and seals; moves to a blocking thread and back.
#[derive(Debug)]
struct Meter {
    sampler: Sampler,
    station: Station,
    /// Where that was counted is remembered.
    intake: PathBuf,
    /// Counts what applications report; `None` when they may not, or it cannot be opened.
    desk: Option<Desk>,
    /// The last batch of reports in the registers; none when they were not found.
    counted: Option<u64>,
    tally: Tally,
    notes: Vec<String>,
    /// Why the last seal failed; a log says it once.
    unsealed: Option<String>,
}

fn start(config: &Config, identity: &Identity, data: &Path) -> Result<(Meter, Status), RunError> {
    let settings = buffer::Settings {
        limit_bytes: config.buffer.limit_bytes,
        ..buffer::Settings::default()
    };
    let stream = StreamId(random()?);
    let (buffer, recovered) = Buffer::open(&data.join("buffer"), settings, stream)?;
    let mut status = Status::new(identity);
    for report in &recovered.reports {
        tracing::warn!(%report, "the buffer was mended");
        status.mended.push(report.to_string());
    }
    tracing::info!(node = %identity.node(), stream = %recovered.stream, next = %recovered.head.next, "metering begins");
    let station = Station::new(
        identity.node(),
        identity.signing_key(),
        config.accrual(&identity.signing_key(), identity.enrolment.record.at),
        Handle::new(buffer),
        recovered.state.as_deref(),
    )?;
    Ok((
        Meter {
            sampler: Sampler::new(config)?,
            counted: station
                .accrual()
                .accounted_through()
                .map(|_| station.accrual().batch()),
            station,
            intake: data.join("intake"),
            desk: None,
            tally: Tally::open(data)?,
            notes: Vec::new(),
            unsealed: None,
        },
        status,
    ))
}

fn shipping(identity: &Identity, config: &Config, in_force: watch::Receiver<InForce>) -> Shipping {
    let enrolment = &identity.enrolment;
    let addresses_fixed = !config.addresses.is_empty();
    let addresses = if addresses_fixed {
        &config.addresses
    } else {
        &enrolment.addresses
    };
    Shipping {
        node: identity.node(),
        tls_seed: enrolment.keys.tls_seed,
        certificate: enrolment.certificate.clone(),
        ca: enrolment.ca.clone(),
        successions: enrolment.successions.clone(),
        retirements: enrolment.retirements.clone(),
        enrolled_at: enrolment.record.at,
        receipt_keys: enrolment.receipt_keys.clone(),
        addresses: addresses.clone(),
        addresses_fixed,
        in_force,
        probe_quic_after: PROBE_QUIC_AFTER,
        retry_min: Duration::from_millis(200),
        retry_max: Duration::from_secs(60),
        drain: DRAIN,
    }
}

/// The tasks that take in what applications report, and the queue they fill.
#[derive(Default)]
struct Intake {
    queue: Option<mpsc::Receiver<Request>>,
    tasks: JoinSet<()>,
    troubles: Troubles,
}

impl Intake {
    /// Opens the desk, listens, and asks the configured targets, unless that was done. Metering does not depend
    /// on it: what fails is tried again with the next seal.
    fn begin(&mut self, config: &Config, meter: &mut Meter) {
        if !config.intake.enabled || meter.desk.is_some() {
            return;
        }
        let opened = self.open(config, meter).err();
        self.troubles
            .note("intake", opened.map(|error| error.to_string()));
    }

    fn open(&mut self, config: &Config, meter: &mut Meter) -> Result<(), IntakeError> {
        let runtime = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
        let path = config.intake.listen_on(&config.data, runtime.as_deref());
        let (fill, queue) = mpsc::channel(server::QUEUE);
        let desk = Desk::open(&meter.intake, &config.intake, meter.counted, now())?;
        let server = Server::bind(&path, config, fill.clone())?;
        if meter.counted.is_none() {
            meter.station.set_batch(desk.counted());
        }
        meter.desk = Some(desk);
        self.tasks.spawn(server.serve());
        for scrape in &config.scrape {
            let (fill, troubles) = (fill.clone(), self.troubles.clone());
            self.tasks
                .spawn(scrape::run(scrape.clone(), fill, troubles, now));
        }
        self.queue = Some(queue);
        Ok(())
    }

    /// What waits to be counted, as soon as there is something.
    async fn reports(&mut self) -> Vec<Request> {
        let mut reports = Vec::new();
        match &mut self.queue {
            Some(queue) => drop(queue.recv_many(&mut reports, server::QUEUE).await),
            None => std::future::pending().await,
        }
        if reports.is_empty() {
            // Every sender is gone.
            self.queue = None;
        }
        reports
    }

    /// Takes nothing more in: what is left. The socket's file is gone then.
    async fn close(&mut self) -> Vec<Request> {
        self.tasks.shutdown().await;
        self.troubles = Troubles::default();
        let mut left = Vec::new();
        if let Some(mut queue) = self.queue.take() {
            queue.close();
            while let Ok(request) = queue.try_recv() {
                left.push(request);
            }
        }
        left
    }

    fn troubles(&self) -> Vec<String> {
        self.troubles.list()
    }
}

/// The shipping task and what it tells.
struct Shipper {
    task: JoinHandle<()>,
    events: mpsc::UnboundedReceiver<ShipEvent>,
    stop: watch::Sender<bool>,
}

impl Shipper {
    fn start(shipping: Shipping, buffer: Handle) -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let tell = move |event| {
                // Nobody listens any more only when the agent has stopped.
                let _ = tell.send(event);
            };
            if let Err(error) = ship::run(shipping, buffer, tell, stopped).await {
                tracing::error!(%error, "nothing is shipped");
            }
        });
        Self { task, events, stop }
    }

    /// Lets it drain; gives up a little after it should have.
    async fn stop(mut self) {
        let _ = self.stop.send(true);
        if tokio::time::timeout(LET_GO, &mut self.task).await.is_err() {
            tracing::warn!("shipping did not stop in time");
            self.task.abort();
        }
    }
}

/// A stream that cannot go on.
#[derive(Debug, Clone, Copy)]
struct Over {
    stream: StreamId,
    /// Whether another copy of it may have sealed what is not sealed here.
    lives_on: bool,
}

/// The stream that is to follow it.
#[derive(Debug, Clone, Copy)]
struct Next {
    stream: StreamId,
    lives_on: bool,
}

/// The task that answers scrapes; ends with this.
#[derive(Default)]
struct Scrapes(Option<JoinHandle<()>>);

impl Scrapes {
    async fn start(config: &Config, figures: &watch::Sender<Figures>) -> Result<Self, RunError> {
        let Some(address) = config.metrics else {
            return Ok(Self(None));
        };
        let listener = metrics::bind(address).await?;
        let serving = metrics::serve(listener, figures.subscribe());
        Ok(Self(Some(tokio::spawn(serving))))
    }
}

impl Drop for Scrapes {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// By what time the loop goes.
struct Pace {
    sample_us: u64,
    seal_us: u64,
    sealed_at: Timestamp,
    sampled: Timestamp,
    due: Timestamp,
}

impl Pace {
    fn of(config: &Config) -> Self {
        let sample_us = config.sample_seconds.saturating_mul(SECOND_US);
        let seal_us = config.seal_seconds.saturating_mul(SECOND_US);
        let sampled = now();
        Self {
            sample_us,
            seal_us,
            sealed_at: sampled.floor_to(seal_us),
            sampled,
            due: sampled.next_multiple(sample_us),
        }
    }

    /// Brings the next sample forward, as far as early ones may come.
    fn hasten(&mut self) {
        let earliest = self.sampled.saturating_add(Micros(EARLY_EVERY_US));
        self.due = self.due.min(earliest.max(now()));
    }

    fn sample_period(&self) -> Duration {
        Duration::from_micros(self.sample_us)
    }
}

struct Agent {
    /// As the node's files have it.
    own: Config,
    /// What the reconciler sets over it.
    central: Option<Central>,
    /// What the reconciler is told of both.
    in_force: watch::Sender<InForce>,
    /// In force.
    config: Config,
    data: PathBuf,
    identity: Identity,
    status: Status,
    board: Board,
    /// `None` only while a blocking thread has it.
    meter: Option<Meter>,
    /// Tells of control groups that come and go, where the kernel does.
    groups: Option<AsyncFd<OwnedFd>>,
    shipper: Shipper,
    intake: Intake,
    stream_over: Option<Over>,
    new_stream_at: Option<Instant>,
    /// Whether `status.json` is out of date; a log says it once.
    unpublished: bool,
    service: Service,
    figures: watch::Sender<Figures>,
    scrapes: Scrapes,
    /// The line that the service manager was told last.
    told: String,
}

impl Agent {
    async fn work(
        mut self,
        mut shutdown: Pin<Box<impl Future<Output = ()>>>,
    ) -> Result<(), RunError> {
        self.groups = self.watch_groups();
        // At once, not at the next multiple: what is born from now on is then known to be.
        self.meter(false).await?;
        self.publish();
        let mut pace = Pace::of(&self.config);
        let limit = self.service.notifier.watchdog_limit();
        let mut heart = Heartbeat::new(limit, pace.sample_period(), Instant::now());
        self.service.notifier.ready();
        loop {
            let look = self.look_in();
            tokio::select! {
                () = &mut shutdown => break,
                reports = self.intake.reports() => self.count(reports).await?,
                () = readable(self.groups.as_ref()) => {
                    if self.notice() {
                        pace.hasten();
                    }
                }
                () = elapsed(look) => self.look(),
                Some(event) = self.shipper.events.recv() => {
                    if let Some(settings) = self.handle(event) {
                        self.take_settings(settings).await?;
                        pace = Pace::of(&self.config);
                        heart.set_period(pace.sample_period());
                    }
                }
                Some(()) = self.service.reloads.recv() => {
                    self.reload().await?;
                    pace = Pace::of(&self.config);
                    heart.set_period(pace.sample_period());
                }
                () = sleep_until(heart.timeout()) => {}
                () = tokio::time::sleep(until(pace.due, pace.sample_us)) => {
                    let at = now();
                    if at < pace.due && pace.due.since(at).0 <= pace.sample_us {
                        continue;
                    }
                    self.turn(&mut pace, at).await?;
                    heart.handle_progress(Instant::now());
                }
            }
            if heart.poll(Instant::now()) {
                self.service.notifier.beat();
            }
        }
        self.stop().await
    }

    /// Groups that come and go between samples are noticed where the kernel tells of them.
    fn watch_groups(&mut self) -> Option<AsyncFd<OwnedFd>> {
        let sampler = &mut self.meter.as_mut()?.sampler;
        let watched = sampler.begin_watching().and_then(awaitable);
        watched
            .inspect_err(|error| {
                tracing::warn!(%error, "new control groups are noticed by sampling only");
            })
            .ok()
    }

    fn notice(&mut self) -> bool {
        self.meter
            .as_mut()
            .is_some_and(|meter| meter.sampler.notice())
    }

    fn look(&mut self) {
        if let Some(meter) = &mut self.meter {
            meter.sampler.look();
        }
    }

    fn look_in(&self) -> Option<Duration> {
        let wait = self.meter.as_ref()?.sampler.look_in()?;
        Some(Duration::from_micros(wait.0))
    }

    /// A sample is due, and a seal where a boundary of its period was passed.
    async fn turn(&mut self, pace: &mut Pace, at: Timestamp) -> Result<(), RunError> {
        let boundary = at.floor_to(pace.seal_us);
        let seal = boundary != pace.sealed_at;
        self.meter(seal).await?;
        if seal || top::is_watched(&self.data) {
            self.publish();
        }
        pace.sealed_at = boundary;
        pace.sampled = now();
        pace.due = pace.sampled.next_multiple(pace.sample_us);
        Ok(())
    }

    /// Final sample, seal, flush, drain.
    async fn stop(mut self) -> Result<(), RunError> {
        tracing::info!("stopping");
        self.service.notifier.stopping();
        self.close_intake().await?;
        self.meter(true).await?;
        if let Some(meter) = &self.meter
            && let Err(error) = meter.station.buffer().lock().flush()
        {
            tracing::warn!(%error, "the buffer was not flushed");
        }
        let Self {
            shipper,
            data,
            identity,
            mut status,
            meter,
            ..
        } = self;
        shipper.stop().await;
        if let Some(meter) = &meter {
            refresh(&mut status, &identity, meter);
        }
        status.link = LinkStatus::None;
        status.running = false;
        if let Err(error) = status.publish(&data) {
            tracing::warn!(%error, "the status was not published");
        }
        tracing::info!(unreceipted = status.unreceipted, "stopped");
        Ok(())
    }

    /// One sample, and a seal if `seal`, on a thread that may wait for the disk.
    async fn meter(&mut self, seal: bool) -> Result<(), RunError> {
        let Some(mut meter) = self.meter.take() else {
            return Err(RunError::Worker("it was lost".to_owned()));
        };
        let seed = if seal { Some(random()?) } else { None };
        let new_stream = self.due_stream()?;
        if seal {
            self.intake.begin(&self.config, &mut meter);
        }
        let asked = self.intake.troubles();
        let begun = Instant::now();
        let worked = tokio::task::spawn_blocking(move || {
            let mut troubles = meter.work(seed, new_stream);
            troubles.extend(asked);
            (meter, troubles)
        });
        let (meter, troubles) = worked
            .await
            .map_err(|error| RunError::Worker(error.to_string()))?;
        let stream = meter.station.buffer().stream();
        self.stream_over.take_if(|over| over.stream != stream);
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let failed = seal && meter.unsealed.is_some();
        self.figures.send_modify(|figures| {
            figures.samples += 1;
            figures.sample_micros = figures.sample_micros.saturating_add(took);
            figures.seal_failures += u64::from(failed);
            note(figures, &meter);
        });
        self.meter = Some(meter);
        if seal || !troubles.is_empty() {
            self.status.troubles = troubles;
        }
        Ok(())
    }

    /// Counts and answers what was reported, on a thread that may wait for the disk.
    async fn count(&mut self, reports: Vec<Request>) -> Result<(), RunError> {
        if reports.is_empty() {
            return Ok(());
        }
        let Some(mut meter) = self.meter.take() else {
            return Err(RunError::Worker("it was lost".to_owned()));
        };
        let seed = random()?;
        let counted = tokio::task::spawn_blocking(move || {
            if let Some(desk) = &mut meter.desk {
                desk.commit(&mut meter.station, reports, seed, now());
            }
            meter
        });
        let meter = counted
            .await
            .map_err(|error| RunError::Worker(error.to_string()))?;
        self.meter = Some(meter);
        Ok(())
    }

    /// What is in the queue is counted; who comes later is not answered, and sends it again.
    async fn close_intake(&mut self) -> Result<(), RunError> {
        let reports = self.intake.close().await;
        self.count(reports).await?;
        if let Some(meter) = &mut self.meter
            && meter.desk.take().is_some()
        {
            meter.counted = Some(meter.station.accrual().batch());
        }
        Ok(())
    }

    /// Takes reports in as the configuration now says.
    async fn restart_intake(&mut self) -> Result<(), RunError> {
        self.close_intake().await?;
        if let Some(meter) = &mut self.meter {
            self.intake.begin(&self.config, meter);
        }
        Ok(())
    }

    /// A new stream, when the one there is over and the last one is long enough ago.
    fn due_stream(&mut self) -> Result<Option<Next>, RunError> {
        let recent = self
            .new_stream_at
            .is_some_and(|at| at.elapsed() < STREAM_EVERY);
        let Some(over) = self.stream_over.filter(|_| !recent) else {
            return Ok(None);
        };
        self.new_stream_at = Some(Instant::now());
        Ok(Some(Next {
            stream: StreamId(random()?),
            lives_on: over.lives_on,
        }))
    }

    /// Takes note of what happened; gives the central settings, if it was about them.
    fn handle(&mut self, event: ShipEvent) -> Option<Settings> {
        self.figures.send_modify(|figures| count(figures, &event));
        match event {
            ShipEvent::Connected {
                address,
                transport,
                receipt_keys,
                ..
            } => {
                let tcp = transport == Transport::Tcp;
                tracing::info!(%address, tcp, "connected");
                self.status.link = LinkStatus::Connected { address, tcp };
                if let Err(error) = self.identity.learn_receipt_keys(&self.data, receipt_keys) {
                    tracing::warn!(%error, "the receipt keys were not stored");
                }
                self.publish();
            }
            // Shown with the next seal.
            ShipEvent::Receipted(receipt) => {
                tracing::debug!(seq = %receipt.seq, "receipted");
            }
            ShipEvent::Renewed(renewed) => {
                tracing::info!("the certificate is renewed");
                let certificate = renewed.certificates.first().cloned().unwrap_or_default();
                let stored = self.identity.renew(&self.data, &certificate);
                self.keep(stored);
                self.learn(&renewed.trust);
            }
            ShipEvent::NotRenewed { why } => {
                tracing::warn!(%why, "the certificate is not renewed yet");
            }
            ShipEvent::Noticed(notice) => {
                self.learn(&notice.trust);
                return notice.settings;
            }
            ShipEvent::Waiting {
                why,
                held,
                retry_in,
            } => {
                tracing::warn!(%why, retry_ms = retry_in.as_millis(), needs_action = held, "not connected");
                self.status.link = LinkStatus::Waiting {
                    why,
                    needs_action: held,
                };
                self.publish();
            }
            ShipEvent::StreamOver { stream, why } => {
                tracing::error!(%stream, %why, "the stream is over; a new one begins");
                self.status.link = LinkStatus::StreamOver {
                    why: why.to_string(),
                };
                self.stream_over = Some(Over {
                    stream,
                    lives_on: why.lives_on(),
                });
                self.publish();
            }
        }
        None
    }

    fn learn(&mut self, trust: &Trust) {
        let stored = self.identity.learn_trust(&self.data, trust);
        self.keep(stored);
    }

    /// What could not be stored is told again at the next connection.
    fn keep(&self, stored: Result<(), IdentityError>) {
        if let Err(error) = stored {
            tracing::warn!(%error, "what the reconciler told was not stored");
        }
    }

    fn publish(&mut self) {
        if let Some(meter) = &self.meter {
            refresh(&mut self.status, &self.identity, meter);
        }
        let line = self.status.line();
        if line != self.told {
            self.service.notifier.status(&line);
            self.told = line;
        }
        let published = self.board.show(&self.status);
        if let (Err(error), false) = (&published, self.unpublished) {
            tracing::warn!(%error, "the status is not published");
        }
        self.unpublished = published.is_err();
    }
}

impl Meter {
    fn work(&mut self, seed: Option<[u8; 32]>, new_stream: Option<Next>) -> Vec<String> {
        let mut troubles = Vec::new();
        if let Some(next) = new_stream
            && let Err(error) = self.begin_stream(next)
        {
            tracing::error!(%error, "no new stream could be begun");
            troubles.push(error.to_string());
        }
        let sample = self.sampler.sample();
        self.tell_new(sample.notes.iter().map(ToString::to_string).collect());
        self.station.observe(&sample);
        if let Some(seed) = seed {
            self.seal(seed);
            if let Err(error) = self.keep_tally() {
                tracing::warn!(%error, "the tally was not kept");
                troubles.push(error.to_string());
            }
        }
        troubles.extend(self.unsealed.clone());
        troubles.extend(self.notes.iter().cloned());
        troubles.extend(self.counters_that_fell());
        let refused = self.station.accrual().refused();
        if refused > 0 {
            troubles.push(format!(
                "the register limit is reached, {refused} times something was not metered by itself: raise registers.limit or select fewer workloads"
            ));
        }
        troubles
    }

    fn begin_stream(&mut self, next: Next) -> Result<(), RunError> {
        if next.lives_on {
            // First: should the rest fail, too little is billed and not too much.
            match &mut self.desk {
                Some(desk) => desk.forget_series(&self.station, now())?,
                None => Desk::forget_all(&self.intake)?,
            }
        }
        Ok(self.station.begin_stream(next.stream, next.lives_on)?)
    }

    fn seal(&mut self, seed: [u8; 32]) {
        let error = self.station.seal(seed).err().map(|error| error.to_string());
        match (&self.unsealed, &error) {
            (None, Some(error)) => tracing::error!(%error, "nothing is sealed"),
            (Some(_), None) => tracing::warn!("sealing goes on"),
            _ => {}
        }
        self.unsealed = error;
    }

    fn counters_that_fell(&self) -> Option<String> {
        let accrual = self.station.accrual();
        let (slips, resets) = (accrual.slips(), accrual.resets());
        (slips + resets > 0).then(|| {
            format!(
                "since the start counters were {slips} times below their highest value, which bills nothing until they are past it, \
                 and {resets} times began anew, which closes their registers"
            )
        })
    }

    fn keep_tally(&mut self) -> Result<(), TallyError> {
        let closed = self.station.take_closed();
        let (stream, head, receipt) = {
            let buffer = self.station.buffer().lock();
            let receipt = self.tally.wants_receipt().then(|| {
                let receipt = buffer.last_receipt().cloned();
                receipt.zip(buffer.receipted_time())
            });
            (buffer.stream(), buffer.head(), receipt.flatten())
        };
        if head.last().is_some() {
            let registers = self.station.accrual().registers();
            self.tally.sealed(stream, &head, registers, closed)?;
        }
        match receipt {
            Some((receipt, covered_through)) => self.tally.receipted(&receipt, covered_through),
            None => Ok(()),
        }
    }

    /// Sampling says the same for as long as it holds; a log says it once.
    fn tell_new(&mut self, notes: Vec<String>) {
        for note in notes.iter().filter(|note| !self.notes.contains(note)) {
            tracing::warn!(%note, "sampling");
        }
        self.notes = notes;
    }
}

/// How things stand, for scrapes.
fn note(figures: &mut Figures, meter: &Meter) {
    let buffer = meter.station.buffer().lock();
    let (head, stats) = (buffer.head(), buffer.stats());
    figures.next_seq = head.next;
    figures.covered_through = head.last().map(|_| head.covered_through);
    figures.unreceipted = stats.unreceipted;
    figures.buffer_bytes = stats.bytes;
    figures.journal_alone = stats.journal_alone;
    figures.in_reserve = stats.in_reserve;
    figures.full_in = stats.full_in;
    drop(buffer);
    figures.registers = meter.station.accrual().registers().count() as u64;
}

fn count(figures: &mut Figures, event: &ShipEvent) {
    match event {
        ShipEvent::Connected { .. } => {
            figures.connections += 1;
            figures.connected = true;
        }
        ShipEvent::Receipted(_) => figures.receipts += 1,
        ShipEvent::Renewed(_) => figures.renewals += 1,
        ShipEvent::NotRenewed { .. } | ShipEvent::Noticed(_) => {}
        ShipEvent::Waiting { .. } | ShipEvent::StreamOver { .. } => {
            figures.disconnections += 1;
            figures.connected = false;
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

fn refresh(status: &mut Status, identity: &Identity, meter: &Meter) {
    let buffer = meter.station.buffer().lock();
    let (head, stats) = (buffer.head(), buffer.stats());
    status.running = true;
    status.at = Some(now());
    status.stream = Some(buffer.stream());
    status.next_seq = head.next;
    status.covered_through = head.last().map(|_| head.covered_through);
    status.note_receipt(buffer.last_receipt(), identity);
    status.unreceipted = stats.unreceipted;
    status.buffer_bytes = stats.bytes;
    status.journal_alone = stats.journal_alone;
    status.in_reserve = stats.in_reserve;
    status.buffer_full_in_seconds = stats.full_in.map(|time| time.0 / SECOND_US);
    status.coverage = meter.station.coverage();
    status.registers = meter
        .station
        .accrual()
        .registers()
        .map(RegisterStatus::from)
        .collect();
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::EPOCH.saturating_add(since.into())
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; an owned descriptor stays open for as long as it is registered"
)]
fn awaitable(events: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(events, Interest::READABLE)
}

/// Until something happened to control groups; never, where that is not told.
async fn readable(events: Option<&AsyncFd<OwnedFd>>) {
    let ready = match events {
        Some(events) => events.readable().await,
        None => std::future::pending().await,
    };
    // All of it is read before this is asked again.
    if let Ok(mut ready) = ready {
        ready.clear_ready();
    }
}

/// Until so much time has passed; never, where none is given.
async fn elapsed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Never longer than a period, so that a clock set back does not stop the sampling.
fn until(due: Timestamp, sample_us: u64) -> Duration {
    Duration::from_micros(due.since(now()).0.min(sample_us))
}

fn random<const N: usize>() -> Result<[u8; N], RunError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(RunError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tallystick_common::ids::Seq;
    use tallystick_common::seal::SealedSegment;

    use super::*;
    use crate::buffer::Settings;
    use crate::identity::tests::enrolment;

    fn config(data: &Path) -> Config {
        Config {
            sample_seconds: 1,
            seal_seconds: 1,
            data: data.to_owned(),
            ..Config::default()
        }
    }

    fn enrol(data: &Path) {
        let keys = Identity::keys_to_enroll(data).unwrap();
        // Nobody listens there.
        let (_, enrolment) = enrolment(keys, &["127.0.0.1:9"]);
        Identity::store(data, enrolment).unwrap();
    }

    async fn run_for(data: &Path, duration: Duration) {
        run(config(data), tokio::time::sleep(duration))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_host_that_is_not_enrolled_is_told_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = run(config(folder.path()), std::future::pending())
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("tallystick-agent enroll"),
            "{error}"
        );
        let error = Status::of(folder.path(), &config(folder.path())).unwrap_err();
        assert!(
            error.to_string().contains("tallystick-agent enroll"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn without_a_reconciler_it_meters_seals_stops_and_goes_on_later() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        enrol(data);
        run_for(data, Duration::from_millis(1_100)).await;
        let first = Status::of(data, &config(data)).unwrap();
        assert!(!first.running && first.next_seq >= Seq(1), "{first:?}");
        assert!(
            first
                .registers
                .iter()
                .any(|register| register.workload.is_host())
        );
        run_for(data, Duration::from_millis(300)).await;
        let second = Status::of(data, &config(data)).unwrap();
        assert_eq!(second.stream, first.stream);
        assert!(second.next_seq > first.next_seq);
        assert_eq!(
            second.unreceipted, second.next_seq.0,
            "nothing is forgotten without a receipt"
        );

        let identity = Identity::load(data).unwrap().unwrap();
        let (mut buffer, recovered) =
            Buffer::open(&data.join("buffer"), Settings::default(), StreamId([1; 16])).unwrap();
        assert_eq!(recovered.reports, []);
        for segment in buffer
            .segments_from(Seq::FIRST, usize::MAX, usize::MAX)
            .unwrap()
        {
            let sealed = SealedSegment::parse(segment.bytes).unwrap();
            sealed.verify(&identity.key_ring()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_second_agent_on_the_same_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        enrol(folder.path());
        let _lock = DataLock::acquire(folder.path()).unwrap();
        let error = run(config(folder.path()), std::future::pending())
            .await
            .unwrap_err();
        assert!(
            matches!(error, RunError::Lock(LockError::Held(_))),
            "{error}"
        );
        let status = Status::of(folder.path(), &config(folder.path())).unwrap();
        assert!(status.running && status.table(now()).to_string().contains("running"));
    }
}
