//! Invoices over usage that was really sealed and admitted, to export evidence of: in this process, on one
//! store, with a calendar of their own.
//!
//! `story` seals what a month may bring; this module brings it into a store, issues and exports.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use tallystick_common::ids::{Hash, NodeId, StoreEpoch};
use tallystick_common::keys::{EnrolmentRecord, KeyRing, PublicKey};
use tallystick_common::seal::SealedSegment;
use tallystick_common::segment::Purpose;
use tallystick_common::time::Timestamp;
use tallystick_reconciler::authority::Authority;
use tallystick_reconciler::billing::correction::issue::{
    Corrected, CorrectionOrder, issue_correction,
};
use tallystick_reconciler::billing::draft::Which;
use tallystick_reconciler::billing::issue::{Order, issue};
use tallystick_reconciler::catalog::assignment::NewAssignment;
use tallystick_reconciler::catalog::change::{self, NewAccount};
use tallystick_reconciler::evidence::{Export, checkpoint, export};
use tallystick_reconciler::ingest::admit::Verdict;
use tallystick_reconciler::ingest::commit;
use tallystick_reconciler::ingest::intake::Intake as _;
use tallystick_reconciler::store::billing::InvoiceRow;
use tallystick_reconciler::store::corrections::CorrectionRow;
use tallystick_reconciler::store::enrolment::{self, NewNode};
use tallystick_reconciler::store::{Connection, Store, nodes};

use crate::process::binary;
use crate::sides::FAILPOINT;

pub mod forge;
pub mod story;

use story::Teller;

/// What everything is priced by.
pub const PLAN: &str = r#"
name = "starter"
title = "Starter"
currency = "EUR"

[[prices]]
id = "cpu"
title = "CPU time"
meter = "cpu.time"
per = "cpu-hour"
model = "graduated"
free = "1"
tiers = [{ up_to = "10", price = "0.50" }, { price = "0.40" }]

[[prices]]
id = "memory"
title = "Memory"
meter = "memory.usage"
per = "GiB-hour"
model = "per_unit"
price = "0.005"

[[prices]]
id = "peak"
title = "Highest memory"
meter = "memory.peak"
per = "MiB"
model = "per_unit"
price = "0.01"
scope = "workload"
"#;

/// An instant from text.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn at(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

/// A reconciler's store and keys.
#[derive(Debug)]
pub struct Office {
    folder: tempfile::TempDir,
    /// Its keys.
    pub authority: Authority,
    /// Its store.
    pub store: Store,
}

impl Office {
    /// With an authority that has succeeded another, and the account `acme` that pays from October on for
    /// `cgroup/acme*`, where nodes are not said otherwise.
    ///
    /// # Errors
    /// When something cannot be made.
    pub async fn open() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let begin = at("2026-09-01T00:00:00Z");
        let authority = Authority::create(folder.path(), begin)?;
        authority.rotate(begin)?;
        let path = folder.path().join(Store::FILE_NAME);
        let store = Store::create(&path, StoreEpoch([7; 16]), begin).await?;
        let new = NewAccount {
            id: "acme",
            name: "Acme Ltd",
            currency: "EUR",
            time_zone: "UTC",
            anchor_day: 1,
        };
        change::create_account(&store, &new, "test", begin).await?;
        let rival = NewAccount {
            id: "rival",
            name: "Rival Inc",
            ..new
        };
        change::create_account(&store, &rival, "test", begin).await?;
        change::apply_plan(&store, "test", PLAN, "test", begin).await?;
        change::subscribe(&store, "acme", "starter", begin, "test", begin).await?;
        Ok(Self {
            folder,
            authority,
            store,
        })
    }

    /// A command of the reconciler's own program on this store.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("tallystick-reconciler"));
        command.arg("--data").arg(self.folder.path());
        command.args(arguments).env_remove(FAILPOINT);
        command
    }

    /// With what is whose in October: one workload changes hands in the middle of the month.
    ///
    /// # Errors
    /// When something cannot be made.
    pub async fn of_october() -> anyhow::Result<Self> {
        let office = Self::open().await?;
        for (account, workload, from) in [
            ("acme", "cgroup/acme*", "2026-10-01T00:00:00Z"),
            ("rival", "cgroup/rival*", "2026-10-01T00:00:00Z"),
            ("acme", "cgroup/moving", "2026-10-01T00:00:00Z"),
            ("rival", "cgroup/moving", "2026-10-17T09:15:00Z"),
        ] {
            office.assign(account, workload, from).await?;
        }
        Ok(office)
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Whose a workload is from then on.
    ///
    /// # Errors
    /// When the rule is refused.
    pub async fn assign(&self, account: &str, workload: &str, from: &str) -> anyhow::Result<()> {
        let rule = NewAssignment::new(account.parse()?, "*", workload, at(from))?;
        change::assign(&self.store, &rule, "test", at("2026-09-01T00:00:00Z")).await?;
        Ok(())
    }

    /// Enrols a node.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn enrol(&self, node: NodeId, key: PublicKey, name: &str) -> anyhow::Result<()> {
        let from = at("2026-09-02T00:00:00Z");
        let record = EnrolmentRecord {
            node,
            name: name.to_owned(),
            signing_key: key,
            from: tallystick_common::ids::Seq::FIRST,
            at: from,
        };
        let new = NewNode {
            node,
            name: name.to_owned(),
            signing_key: key,
            tls_fingerprint: Hash(key.0),
            record: self.authority.sign_enrolment(&record).to_bytes(),
            at: from,
        };
        let mut tx = self.store.write().await?;
        enrolment::add_node(&mut tx, &new).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Admits what a node sealed, which enrolled with `key`; how many of it were quarantined.
    ///
    /// # Errors
    /// When something is refused.
    pub async fn admit(
        &self,
        node: NodeId,
        key: PublicKey,
        sealed: impl IntoIterator<Item = SealedSegment>,
    ) -> anyhow::Result<usize> {
        let late = || at("2027-01-01T00:00:00Z");
        let (intake, committer) = commit::channel(self.store.clone(), late, Arc::default());
        let committing = tokio::spawn(committer.run());
        let mut ring = self.ring(node, key).await?;
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        let mut waiting = std::collections::VecDeque::new();
        let mut doubted = 0;
        for segment in sealed {
            let verified = segment.verify(&ring)?;
            let header = verified.header();
            if let Purpose::RotateKey(key) = header.purpose {
                ring.rotate(header.stream, header.seq.next(), PublicKey(key));
            }
            waiting.push_back(intake.segment(verified, peer).await?);
            if waiting.len() >= 256 {
                doubted += verdict(waiting.pop_front()).await?;
            }
        }
        while !waiting.is_empty() {
            doubted += verdict(waiting.pop_front()).await?;
        }
        drop(intake);
        committing.await?;
        tallystick_reconciler::rollup::catch_up(&self.store).await?;
        Ok(doubted)
    }

    /// The node's keys, as far as it rotated them in what was admitted.
    async fn ring(&self, node: NodeId, key: PublicKey) -> anyhow::Result<KeyRing> {
        let mut tx = self.store.read().await?;
        match nodes::by_id(&mut tx, node).await? {
            Some(node) => Ok(nodes::key_ring(&mut tx, &node).await?),
            None => Ok(KeyRing::new(node, key)),
        }
    }

    /// Issues October of acme: its number.
    ///
    /// # Errors
    /// When it cannot be issued.
    pub async fn issue(&self) -> anyhow::Result<String> {
        Ok(self.issue_of("acme", None).await?.number)
    }

    /// Issues October of an account.
    ///
    /// # Errors
    /// When it cannot be issued.
    pub async fn issue_of(
        &self,
        account: &str,
        accept_gaps: Option<&str>,
    ) -> anyhow::Result<InvoiceRow> {
        let now = at("2026-11-01T06:00:00Z");
        self.issue_month(account, "2026-10", accept_gaps, now).await
    }

    /// Issues a month of an account.
    ///
    /// # Errors
    /// When it cannot be issued.
    pub async fn issue_month(
        &self,
        account: &str,
        month: &str,
        accept_gaps: Option<&str>,
        now: Timestamp,
    ) -> anyhow::Result<InvoiceRow> {
        let order = Order {
            account,
            which: Which::Month(month.parse()?),
            accept_gaps,
            seller: "Seller GmbH",
            actor: "test",
        };
        let issued = Box::pin(issue(&self.store, &order, now)).await?;
        Ok(issued.invoice().clone())
    }

    /// Corrects October of an account; none when nothing differs.
    ///
    /// # Errors
    /// When it cannot be corrected.
    pub async fn correct(&self, account: &str) -> anyhow::Result<Option<CorrectionRow>> {
        let order = CorrectionOrder {
            account,
            which: Which::Month("2026-10".parse()?),
            issue_as: None,
            actor: "test",
        };
        let now = at("2026-11-01T12:00:00Z");
        match Box::pin(issue_correction(&self.store, &order, now)).await? {
            Corrected::Now(row) => Ok(Some(row)),
            Corrected::Before(_) | Corrected::Nothing => Ok(None),
        }
    }

    /// Whose a workload is from then on, in place of what was said before; that is said after October was
    /// issued.
    ///
    /// # Errors
    /// When the rule is refused.
    pub async fn reassign(&self, account: &str, workload: &str, from: &str) -> anyhow::Result<()> {
        let rule = NewAssignment::new(account.parse()?, "*", workload, at(from))?;
        let rule = rule.correcting(true);
        change::assign(&self.store, &rule, "test", at("2026-11-01T09:00:00Z")).await?;
        Ok(())
    }

    /// Evidence of an invoice.
    ///
    /// # Errors
    /// When there is none.
    pub async fn export(&self, number: &str, full: bool) -> anyhow::Result<Vec<u8>> {
        let order = Export {
            number,
            full,
            epoch: self.store.epoch(),
        };
        let mut tx = self.store.read().await?;
        let now = at("2026-11-02T00:00:00Z");
        Ok(Box::pin(export(&mut tx, &self.authority, &order, now)).await?)
    }

    /// A signed checkpoint of the audit log.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn checkpoint(&self) -> anyhow::Result<String> {
        let mut tx = self.store.read().await?;
        let conn: &mut Connection = &mut tx;
        let now = at("2026-11-02T00:00:00Z");
        let made = checkpoint(conn, &self.authority, self.store.epoch(), now).await?;
        Ok(made.1.to_string())
    }
}

async fn verdict(
    waiting: Option<tokio::sync::oneshot::Receiver<Verdict>>,
) -> anyhow::Result<usize> {
    let verdict = waiting.context("something is waited for")?.await?;
    ensure!(verdict.advances(), "{verdict:?}");
    Ok(usize::from(verdict != Verdict::Accepted))
}

/// October of acme on one node of many events; its evidence, and what it is signed with.
#[derive(Debug)]
pub struct October {
    /// The reconciler.
    pub office: Office,
    /// The node.
    pub teller: Teller,
    /// What it sealed.
    pub sealed: Vec<SealedSegment>,
    /// The invoice.
    pub number: String,
    /// Its evidence.
    pub file: Vec<u8>,
}

impl October {
    /// Seals, admits, issues, exports.
    ///
    /// # Errors
    /// When a part of it fails.
    pub async fn new() -> anyhow::Result<Self> {
        let office = Office::of_october().await?;
        let (teller, sealed) = story::october();
        office.enrol(teller.node, teller.enrolled, "web-1").await?;
        let doubted = office
            .admit(teller.node, teller.enrolled, sealed.clone())
            .await?;
        ensure!(doubted == 1, "{doubted} segments are quarantined");
        let number = office.issue().await?;
        let file = office.export(&number, false).await?;
        Ok(Self {
            office,
            teller,
            sealed,
            number,
            file,
        })
    }
}
