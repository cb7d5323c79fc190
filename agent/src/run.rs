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
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::buffer::{self, Buffer, BufferError, Handle};
use crate::config::{Config, Problem};
use crate::durable;
use crate::identity::{Identity, IdentityError};
use crate::lock::{DataLock, LockError};
use crate::sample::{SampleError, Sampler};
use crate::ship::{self, ShipEvent, Shipping};
use crate::station::{Station, StationError};
use crate::status::{Board, LinkStatus, RegisterStatus, Status};
use crate::tally::{Tally, TallyError};

/// How long a stop waits for the last receipts.
const DRAIN: Duration = Duration::from_secs(5);
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
    /// The registers cannot be restored.
    #[error(transparent)]
    Station(#[from] StationError),
    /// The customer's half cannot be kept.
    #[error(transparent)]
    Tally(#[from] TallyError),
    /// The machine cannot be sampled.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// No random bytes.
    #[error("draw random bytes: {0}")]
    Random(getrandom::Error),
    /// A thread ended.
    #[error("the metering thread ended: {0}")]
    Worker(String),
}

/// Runs the agent of an enrolled node until `shutdown` is ready; then takes a last sample, seals it,
/// and waits up to five seconds for receipts.
///
/// # Errors
/// When it cannot start. Once it runs, neither the network nor a full disk ends it.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let problems = config.check();
    if !problems.is_empty() {
        return Err(RunError::Config(problems));
    }
    let data = config.data.clone();
    durable::create_private_dir(&data).map_err(|source| RunError::Data {
        path: data.clone(),
        source,
    })?;
    let _lock = DataLock::acquire(&data)?;
    let identity = Identity::load(&data)?.ok_or_else(|| RunError::NotEnrolled(data.clone()))?;
    let (meter, status) = start(&config, &identity, &data)?;
    let shipper = Shipper::start(shipping(&identity), meter.station.buffer().clone());
    let agent = Agent {
        board: Board::new(&data),
        config,
        data,
        identity,
        status,
        meter: Some(meter),
        shipper,
        stream_over: None,
        new_stream_at: None,
        unpublished: false,
    };
    Box::pin(agent.work(Box::pin(shutdown))).await
}

/// What samples and seals; moves to a blocking thread and back.
#[derive(Debug)]
struct Meter {
    sampler: Sampler,
    station: Station,
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
        config.accrual(&identity.signing_key()),
        Handle::new(buffer),
        recovered.state.as_deref(),
    )?;
    Ok((
        Meter {
            sampler: Sampler::new(config)?,
            station,
            tally: Tally::open(data)?,
            notes: Vec::new(),
            unsealed: None,
        },
        status,
    ))
}

fn shipping(identity: &Identity) -> Shipping {
    let enrolment = &identity.enrolment;
    Shipping {
        node: identity.node(),
        tls_seed: enrolment.keys.tls_seed,
        certificate: enrolment.certificate.clone(),
        ca: enrolment.ca.clone(),
        enrolled_at: enrolment.record.at,
        receipt_keys: enrolment.receipt_keys.clone(),
        addresses: enrolment.addresses.clone(),
        retry_min: Duration::from_millis(200),
        retry_max: Duration::from_secs(60),
        drain: DRAIN,
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
        if tokio::time::timeout(DRAIN + Duration::from_secs(1), &mut self.task)
            .await
            .is_err()
        {
            tracing::warn!("shipping did not stop in time");
            self.task.abort();
        }
    }
}

struct Agent {
    config: Config,
    data: PathBuf,
    identity: Identity,
    status: Status,
    board: Board,
    /// `None` only while a blocking thread has it.
    meter: Option<Meter>,
    shipper: Shipper,
    stream_over: Option<StreamId>,
    new_stream_at: Option<Instant>,
    /// Whether `status.json` is out of date; a log says it once.
    unpublished: bool,
}

impl Agent {
    async fn work(
        mut self,
        mut shutdown: Pin<Box<impl Future<Output = ()>>>,
    ) -> Result<(), RunError> {
        let events = self.watch_groups();
        // At once, not at the next multiple: what is born from now on is then known to be.
        self.meter(false).await?;
        self.publish();
        let sample_us = self.config.sample_seconds.saturating_mul(SECOND_US);
        let seal_us = self.config.seal_seconds.saturating_mul(SECOND_US);
        let mut sealed_at = now().floor_to(seal_us);
        let mut due = now().next_multiple(sample_us);
        let mut sampled = now();
        loop {
            let look = self.look_in();
            tokio::select! {
                () = &mut shutdown => break,
                Some(event) = self.shipper.events.recv() => self.handle(event),
                () = readable(events.as_ref()) => {
                    if self.notice() {
                        due = due.min(sampled.saturating_add(Micros(EARLY_EVERY_US)).max(now()));
                    }
                }
                () = elapsed(look) => self.look(),
                () = tokio::time::sleep(until(due, sample_us)) => {
                    let at = now();
                    if at < due && due.since(at).0 <= sample_us {
                        continue;
                    }
                    let boundary = at.floor_to(seal_us);
                    self.meter(boundary != sealed_at).await?;
                    if boundary != sealed_at {
                        sealed_at = boundary;
                        self.publish();
                    }
                    sampled = now();
                    due = sampled.next_multiple(sample_us);
                }
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

    /// Final sample, seal, flush, drain.
    async fn stop(mut self) -> Result<(), RunError> {
        tracing::info!("stopping");
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
        let worked = tokio::task::spawn_blocking(move || {
            let troubles = meter.work(seed, new_stream);
            (meter, troubles)
        });
        let (meter, troubles) = worked
            .await
            .map_err(|error| RunError::Worker(error.to_string()))?;
        self.meter = Some(meter);
        if seal || !troubles.is_empty() {
            self.status.troubles = troubles;
        }
        Ok(())
    }

    /// The id of a new stream, when the one there is over and the last one is long enough ago.
    fn due_stream(&mut self) -> Result<Option<StreamId>, RunError> {
        let over = self.stream_over.is_some();
        if !over
            || self
                .new_stream_at
                .is_some_and(|at| at.elapsed() < STREAM_EVERY)
        {
            return Ok(None);
        }
        self.stream_over = None;
        self.new_stream_at = Some(Instant::now());
        Ok(Some(StreamId(random()?)))
    }

    fn handle(&mut self, event: ShipEvent) {
        match event {
            ShipEvent::Connected {
                address,
                receipt_keys,
                ..
            } => {
                tracing::info!(%address, "connected");
                self.status.link = LinkStatus::Connected { address };
                if let Err(error) = self.identity.learn_receipt_keys(&self.data, receipt_keys) {
                    tracing::warn!(%error, "the receipt keys were not stored");
                }
                self.publish();
            }
            // Shown with the next seal.
            ShipEvent::Receipted(receipt) => {
                tracing::debug!(seq = %receipt.seq, "receipted");
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
                self.stream_over = Some(stream);
                self.publish();
            }
        }
    }

    fn publish(&mut self) {
        if let Some(meter) = &self.meter {
            refresh(&mut self.status, &self.identity, meter);
        }
        let published = self.board.show(&self.status);
        if let (Err(error), false) = (&published, self.unpublished) {
            tracing::warn!(%error, "the status is not published");
        }
        self.unpublished = published.is_err();
    }
}

impl Meter {
    fn work(&mut self, seed: Option<[u8; 32]>, new_stream: Option<StreamId>) -> Vec<String> {
        let mut troubles = Vec::new();
        if let Some(stream) = new_stream
            && let Err(error) = self.station.begin_stream(stream)
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
    status.registers = meter
        .station
        .accrual()
        .registers()
        .map(RegisterStatus::from)
        .collect();
}

fn now() -> Timestamp {
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
