//! Finds out what keeps this host from being metered and billed, and says what to do.
//!
//! Owns the checks and their order, from the host itself to the reconciler's word. Changes nothing, and works
//! beside a running agent.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use serde::Serialize;
use tallystick_common::ids::{NodeId, Seq, StreamId};
use tallystick_common::time::Timestamp;
use tallystick_common::wire::{
    ALPN_INGEST, CloseCode, Hello, Message, Position, Versions, Welcome,
};

use crate::config::Config;
use crate::identity::Identity;
use crate::sample::Sampler;
use crate::ship::authorities::Authorities;
use crate::ship::connection::{self, ConnectError, Link};
use crate::ship::renewal::Validity;
use crate::ship::{SOFTWARE, tls, wall_seconds};

/// How long one way to the reconciler may take.
const WITHIN: Duration = Duration::from_secs(5);
/// A clock further ahead makes segments doubtful (the reconciler allows 2 s).
const AHEAD_SECONDS: u64 = 2;
/// A clock further behind is worth a word.
const BEHIND_SECONDS: u64 = 30;

/// What is looked at, in this order; the first fault is the one to mend first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// What the configuration says.
    Configuration,
    /// Whether the data folder can be used.
    Permission,
    /// Whether this host is a node.
    Enrolment,
    /// Whether control groups can be read.
    Cgroup,
    /// What the reconciler's names stand for.
    Dns,
    /// Whether QUIC gets through.
    Udp,
    /// Whether TCP gets through, for when QUIC does not.
    Tcp,
    /// Whether both sides believe each other.
    Tls,
    /// Whether the reconciler takes this node.
    Standing,
    /// Whether this host's time is the reconciler's.
    Clock,
}

impl Subject {
    /// The exit code of a fault in it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Enrolment => 3,
            Self::Configuration => 4,
            Self::Permission => 10,
            Self::Cgroup => 11,
            Self::Dns => 12,
            Self::Udp => 13,
            Self::Tcp => 14,
            Self::Tls => 15,
            Self::Standing => 16,
            Self::Clock => 17,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Permission => "permission",
            Self::Enrolment => "enrolment",
            Self::Cgroup => "cgroup",
            Self::Dns => "dns",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Standing => "standing",
            Self::Clock => "clock",
        }
    }
}

/// How it stands with a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is wrong.
    Good,
    /// It works, yet not as it should.
    Warning,
    /// Somebody has to act.
    Fault,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: Subject,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done.
    pub remedy: Option<String>,
}

/// Everything found; subjects that could not be looked at are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The fault to mend first.
    #[must_use]
    pub fn fault(&self) -> Option<Subject> {
        let faults = self.findings.iter();
        faults
            .filter(|finding| finding.state == State::Fault)
            .map(|finding| finding.subject)
            .min()
    }

    fn good(&mut self, subject: Subject, found: impl Into<String>) {
        self.add(subject, State::Good, found.into(), None);
    }

    fn warn(&mut self, subject: Subject, found: impl Into<String>, remedy: &str) {
        self.add(subject, State::Warning, found.into(), Some(remedy));
    }

    fn fault_in(&mut self, subject: Subject, found: impl Into<String>, remedy: &str) {
        self.add(subject, State::Fault, found.into(), Some(remedy));
    }

    fn add(&mut self, subject: Subject, state: State, found: String, remedy: Option<&str>) {
        self.findings.push(Finding {
            subject,
            state,
            found,
            remedy: remedy.map(str::to_owned),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let mark = match finding.state {
                State::Good => "ok",
                State::Warning => "warning",
                State::Fault => "FAULT",
            };
            writeln!(
                f,
                "{mark:8} {:13} {}",
                finding.subject.name(),
                finding.found
            )?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "{:8} {:13} → {remedy}", "", "")?;
            }
        }
        Ok(())
    }
}

/// Looks at everything.
pub async fn examine(config: &Config) -> Report {
    let mut report = Report::default();
    configuration(config, &mut report);
    cgroups(config, &mut report);
    if let Some(identity) = identity(config, &mut report) {
        let addresses = if config.addresses.is_empty() {
            &identity.enrolment.addresses
        } else {
            &config.addresses
        };
        let welcome = way(&identity, addresses, &mut report).await;
        clock(welcome.as_ref(), &mut report);
    }
    report
        .findings
        .sort_by_key(|finding| (finding.subject, finding.state != State::Fault));
    report
}

fn configuration(config: &Config, report: &mut Report) {
    let problems = config.check();
    if problems.is_empty() {
        report.good(Subject::Configuration, "can be run with");
    }
    for problem in problems {
        let found = format!("{}: {}", problem.key, problem.what);
        report.fault_in(Subject::Configuration, found, &problem.remedy);
    }
}

fn identity(config: &Config, report: &mut Report) -> Option<Identity> {
    let data = &config.data;
    let writable = rustix::fs::access(data, rustix::fs::Access::WRITE_OK);
    match (&writable, data.exists()) {
        (Ok(()), _) => report.good(
            Subject::Permission,
            format!("{} can be written", data.display()),
        ),
        (Err(_), false) => {}
        (Err(error), true) => report.fault_in(
            Subject::Permission,
            format!("{} cannot be written: {error}", data.display()),
            "run this as the agent's user, or give that user the folder",
        ),
    }
    match Identity::load(data) {
        Ok(Some(identity)) => {
            let enrolled = format!(
                "node {} ({})",
                identity.node(),
                identity.enrolment.record.name
            );
            report.good(Subject::Enrolment, enrolled);
            Some(identity)
        }
        Ok(None) => {
            report.fault_in(
                Subject::Enrolment,
                format!("{} has no identity", data.display()),
                "run `tallystick-agent enroll TOKEN` with a token of `tallystick-reconciler token create`",
            );
            None
        }
        Err(error) => {
            let denied = error.to_string();
            let subject = if denied.contains("denied") {
                Subject::Permission
            } else {
                Subject::Enrolment
            };
            report.fault_in(
                subject,
                denied,
                "see the message; the folder is DATA/identity",
            );
            None
        }
    }
}

fn cgroups(config: &Config, report: &mut Report) {
    let sampled = Sampler::new(config).map(|mut sampler| sampler.sample());
    let sample = match sampled {
        Ok(sample) => sample,
        Err(error) => {
            let remedy = "mount /proc and /sys; in a container give it the host's";
            return report.fault_in(Subject::Cgroup, error.to_string(), remedy);
        }
    };
    let mut groups: Vec<&str> = sample
        .sources
        .iter()
        .map(|source| source.workload.as_str())
        .filter(|name| name.starts_with("cgroup/"))
        .collect();
    groups.dedup();
    for note in &sample.notes {
        let remedy =
            "what is named is unmeasured, never billed as 0; exclude it, or let the agent read it";
        report.warn(Subject::Cgroup, note.to_string(), remedy);
    }
    if groups.is_empty() && !config.cgroups.include.is_empty() {
        return report.fault_in(
            Subject::Cgroup,
            format!("no control group is selected by {:?}", config.cgroups.include),
            "mount a cgroup file system, or correct [cgroups] include: all usage is in host/other meanwhile",
        );
    }
    report.good(
        Subject::Cgroup,
        format!("{} control groups are metered", groups.len()),
    );
}

/// The way to the reconciler: one address that works is enough.
async fn way(identity: &Identity, addresses: &[String], report: &mut Report) -> Option<Welcome> {
    let mut welcome = None;
    let mut findings = Vec::new();
    for address in addresses {
        let mut one = Report::default();
        welcome = at(identity, address, &mut one).await;
        let works = one.fault().is_none();
        findings.push(one);
        if works {
            break;
        }
    }
    if addresses.is_empty() {
        let remedy = "enrol again, or set addresses in agent.toml";
        report.fault_in(Subject::Dns, "no address of a reconciler is known", remedy);
    }
    let works = findings.iter().any(|one| one.fault().is_none());
    for finding in findings.into_iter().flat_map(|one| one.findings) {
        let state = match finding.state {
            State::Fault if works => State::Warning,
            state => state,
        };
        report.findings.push(Finding { state, ..finding });
    }
    welcome
}

async fn at(identity: &Identity, address: &str, report: &mut Report) -> Option<Welcome> {
    match connection::resolve(address).await {
        Ok(found) => {
            let found: Vec<String> = found.map(|address| address.ip().to_string()).collect();
            report.good(Subject::Dns, format!("{address} is {}", found.join(", ")));
        }
        Err(error) => {
            let remedy = "correct the name, or this host's resolver (/etc/resolv.conf)";
            report.fault_in(Subject::Dns, error.to_string(), remedy);
            return None;
        }
    }
    let tls = match client_tls(identity) {
        Ok(tls) => tls,
        Err(error) => {
            let remedy = "restore the folder identity/ from a backup, or enrol this host anew";
            report.fault_in(Subject::Tls, error.to_string(), remedy);
            return None;
        }
    };
    let udp = within(connection::connect_quic(address, tls.clone())).await;
    let tcp = within(connection::connect_tcp(address, tls)).await;
    paths(address, &udp, &tcp, report);
    let (link, refused) = match (udp, tcp) {
        (Ok(link), _) | (_, Ok(link)) => (Some(link), None),
        (Err(udp), Err(tcp)) => (None, [udp, tcp].into_iter().find(answered)),
    };
    if let Some(error) = refused {
        disbelief(identity, &error, report);
    }
    greet(identity, link?, report).await
}

async fn within(
    connecting: impl Future<Output = Result<Link, ConnectError>>,
) -> Result<Link, ConnectError> {
    let connected = tokio::time::timeout(WITHIN, Box::pin(connecting)).await;
    connected.unwrap_or(Err(ConnectError::Slow))
}

fn client_tls(identity: &Identity) -> Result<rustls::ClientConfig, rustls::Error> {
    let enrolment = &identity.enrolment;
    let mut authorities = Authorities::new(enrolment.ca.clone())?;
    authorities.learn(&enrolment.successions, &enrolment.retirements);
    let certificate = CertificateDer::from(enrolment.certificate.clone());
    let passed = enrolment.record.at.as_micros() / tallystick_common::time::SECOND_US;
    let seed = &enrolment.keys.tls_seed;
    tls::node(
        &authorities.trusted(),
        certificate,
        seed,
        passed,
        ALPN_INGEST,
    )
}

/// Whether somebody answered, who then was not believed or did not believe us.
fn answered(error: &ConnectError) -> bool {
    !error.may_be_blocked()
}

/// What of UDP and TCP gets through.
fn paths(
    address: &str,
    udp: &Result<Link, ConnectError>,
    tcp: &Result<Link, ConnectError>,
    report: &mut Report,
) {
    let open = |way: &Result<Link, ConnectError>| match way {
        Ok(_) => None,
        Err(error) if answered(error) => None,
        Err(error) => Some(error.to_string()),
    };
    match (open(udp), open(tcp)) {
        (None, None) => {
            report.good(Subject::Udp, format!("{address} answers"));
            report.good(Subject::Tcp, format!("{address} answers"));
        }
        (Some(error), None) => {
            let remedy = "allow UDP to that port, out and back; segments go by TCP meanwhile";
            report.warn(
                Subject::Udp,
                format!("{address} does not answer: {error}"),
                remedy,
            );
            report.good(Subject::Tcp, format!("{address} answers"));
        }
        (None, Some(error)) => {
            report.good(Subject::Udp, format!("{address} answers"));
            let remedy = "nothing is wrong as long as UDP gets through; allow TCP to that port too, for when it does not";
            report.warn(
                Subject::Tcp,
                format!("{address} does not answer: {error}"),
                remedy,
            );
        }
        (Some(udp), Some(tcp)) => {
            let remedy = "see that the reconciler runs there, and that UDP or TCP to that port is allowed on the way";
            report.fault_in(
                Subject::Udp,
                format!("{address} does not answer: {udp}"),
                remedy,
            );
            report.fault_in(
                Subject::Tcp,
                format!("{address} does not answer: {tcp}"),
                remedy,
            );
        }
    }
}

/// The handshake failed.
fn disbelief(identity: &Identity, error: &ConnectError, report: &mut Report) {
    let told = error.to_string();
    let expired = told.contains("xpired") || told.contains("NotValidYet");
    if expired {
        let now = Timestamp::EPOCH.saturating_add(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .into(),
        );
        let found = format!("the reconciler's certificate does not hold at {now}: {told}");
        let remedy = "set this host's clock; if it is right, the reconciler's is not";
        return report.fault_in(Subject::Clock, found, remedy);
    }
    let ca = blake3::hash(&identity.enrolment.ca).to_hex();
    let remedy = format!(
        "see that the address is the right reconciler's: this node trusts authority {ca} (`tallystick-reconciler authority show`)"
    );
    report.fault_in(Subject::Tls, told, &remedy);
}

/// Asks for a welcome, about a stream that does not exist.
async fn greet(identity: &Identity, mut link: Link, report: &mut Report) -> Option<Welcome> {
    let asked = async {
        link.send(&Message::Hello(hello(identity.node()))).await?;
        link.receive().await
    };
    let answer = tokio::time::timeout(WITHIN, asked)
        .await
        .unwrap_or(Err(ConnectError::Slow));
    match answer {
        Ok(Message::Welcome(welcome)) => {
            report.good(Subject::Tls, "both sides believe each other");
            report.good(Subject::Standing, "the reconciler takes this node");
            link.close().await;
            Some(welcome)
        }
        Ok(Message::Refused(refused)) => {
            let found = format!("{}: {}", refused.reason, refused.detail);
            let remedy = "ask who runs the reconciler; `node show` there says why and since when";
            report.fault_in(Subject::Standing, found, remedy);
            None
        }
        Ok(other) => {
            let found = format!("the reconciler answered a {:?} message", other.kind());
            report.fault_in(Subject::Standing, found, "update the older of both sides");
            None
        }
        Err(ConnectError::Closed {
            code: Some(CloseCode::Expired),
            ..
        }) => {
            let remedy = "nothing: a running agent renews it by itself";
            report.warn(Subject::Tls, "this node's certificate has expired", remedy);
            None
        }
        Err(error) => {
            own_certificate(identity, &error, report);
            None
        }
    }
}

fn own_certificate(identity: &Identity, error: &ConnectError, report: &mut Report) {
    let validity = Validity::of(&identity.enrolment.certificate);
    let remedy = match validity {
        Some(held) if wall_seconds() > held.last => {
            "this node's certificate has expired; a running agent renews it by itself"
        }
        Some(_) => "see the reconciler's log for what it did not take",
        None => "this node's certificate cannot be read; restore identity/ from a backup",
    };
    report.fault_in(Subject::Tls, error.to_string(), remedy);
}

fn hello(node: NodeId) -> Hello {
    Hello {
        versions: Versions::OURS,
        software: format!("{SOFTWARE} doctor"),
        node,
        stream: StreamId::ZERO,
        oldest: Seq::FIRST,
        position: Position {
            next: Seq::FIRST,
            head: None,
        },
    }
}

fn clock(welcome: Option<&Welcome>, report: &mut Report) {
    let Some(welcome) = welcome else {
        return;
    };
    let (ours, theirs) = (
        wall_seconds(),
        welcome.server_time.as_micros() / tallystick_common::time::SECOND_US,
    );
    let remedy = "let NTP set this host's clock (chronyd or systemd-timesyncd)";
    if ours > theirs + AHEAD_SECONDS {
        let found = format!(
            "this host is {} s ahead of the reconciler, so its segments are doubted",
            ours - theirs
        );
        report.fault_in(Subject::Clock, found, remedy);
    } else if theirs > ours + BEHIND_SECONDS {
        let found = format!("this host is {} s behind the reconciler", theirs - ours);
        report.warn(Subject::Clock, found, remedy);
    } else {
        report.good(Subject::Clock, "agrees with the reconciler's");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_comes_before_what_it_causes() {
        let mut report = Report::default();
        report.fault_in(Subject::Tcp, "t", "r");
        report.warn(Subject::Cgroup, "c", "r");
        assert_eq!(report.fault(), Some(Subject::Tcp));
        report.fault_in(Subject::Dns, "d", "r");
        assert_eq!(report.fault(), Some(Subject::Dns));
        assert_eq!(Report::default().fault(), None);
    }

    #[tokio::test]
    async fn without_an_identity_that_is_the_fault() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            data: folder.path().to_owned(),
            ..Config::default()
        };
        let mut report = Report::default();
        assert!(identity(&config, &mut report).is_none());
        assert_eq!(report.fault(), Some(Subject::Enrolment));
    }

    #[test]
    fn a_clock_that_is_ahead_is_a_fault_and_one_behind_worth_a_word() {
        let state = |offset: i64| {
            let seconds = wall_seconds().checked_add_signed(offset).unwrap();
            let welcome = Welcome {
                version: 1,
                server_time: Timestamp::from_seconds(seconds).unwrap(),
                position: hello(NodeId::ZERO).position,
                epoch: tallystick_common::ids::StoreEpoch([0; 16]),
                window: 1,
                receipt_keys: vec![],
            };
            let mut report = Report::default();
            clock(Some(&welcome), &mut report);
            report.findings[0].state
        };
        assert_eq!(state(0), State::Good);
        assert_eq!(state(-60), State::Fault);
        assert_eq!(state(120), State::Warning);
    }
}
