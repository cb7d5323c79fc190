//! The agent at work: samples and seals by the wall clock, ships meanwhile, stops in good order.
//!
//! Owns the loop and the clock. What a sample means is in `accrue`, what sealing is in `station`,
//! who is talked to in `ship`. Sampling and sealing never wait for the network: without a reconciler
//! everything but shipping goes on.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tallystick_common::ids::StreamId;
use tallystick_common::time::{SECOND_US, Timestamp};
use tallystick_common::wire::{InForce, Settings, Trust};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::config::Config;
use crate::durable;
use crate::identity::{Identity, IdentityError};
use crate::intake::Request;
use crate::lock::DataLock;
use crate::service::{Heartbeat, Service};
use crate::ship::ShipEvent;
use crate::ship::connection::Transport;
use crate::status::{Board, LinkStatus, RegisterStatus, Status};
use crate::top;

use self::central::Central;
use self::figures::{Scrapes, count, note};
use self::intake::Intake;
use self::meter::{Meter, Next, start};
use self::pace::{Pace, awaitable, elapsed, readable, sleep_until, until};
use self::shipper::{Shipper, shipping};

mod central;
mod error;
mod figures;
mod intake;
mod meter;
mod pace;
mod reload;
mod retire;
mod shipper;

pub use error::RunError;
pub use retire::{End, Retirement, retire};

/// Shortest time between two new streams, so that a cause that stays does not make one a second.
const STREAM_EVERY: Duration = Duration::from_secs(60);

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
    let figures = watch::Sender::new(crate::figures::Figures::new(identity.node()));
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

/// A stream that cannot go on.
#[derive(Debug, Clone, Copy)]
struct Over {
    stream: StreamId,
    /// Whether another copy of it may have sealed what is not sealed here.
    lives_on: bool,
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
    figures: watch::Sender<crate::figures::Figures>,
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
                self.status.receipted_through = Some(receipt.seq);
                self.status.receipted_at = Some(receipt.at);
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

fn random<const N: usize>() -> Result<[u8; N], RunError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(RunError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
