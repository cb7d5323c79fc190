//! What is corrected afterwards, and whether all that was received is accounted for.

use tallystick_reconciler::billing::correction::issue::{
    Corrected, CorrectionOrder, issue_correction,
};
use tallystick_reconciler::billing::draft::Which;
use tallystick_reconciler::billing::leakage::{follow, report};
use tallystick_reconciler::store::corrections;

use super::finding::{Found, violated};
use super::ground::{ACCOUNTS, MONTHS, NODES, at};
use super::model::ledger::{Document, Said};
use super::model::meter::HOST;
use super::model::tariff::cents;
use super::office::{document, unexpected};
use super::reconciler::{clock, dying_at};
use super::world::World;

/// Hours that a report counts at once: more than a sequence has.
const HOURS: u32 = 10_000;

impl World {
    pub(super) async fn correct(&mut self, account: u8, crash: bool) -> Found<()> {
        let account = ACCOUNTS[usize::from(account) % ACCOUNTS.len()];
        let Some(said) = self.ledger.said.get(account).copied() else {
            return Ok(());
        };
        let store = self.reconciler.store.clone();
        let ask = async move {
            let order = CorrectionOrder {
                account,
                which: Which::At(at(MONTHS[0])),
                issue_as: None,
                actor: "test",
            };
            issue_correction(&store, &order, clock()).await
        };
        let place = crash.then_some("reconciler.correction.numbered");
        let Some(done) = dying_at(place, ask).await? else {
            self.saw("reconciler died correcting");
            return self.crash_reconciler().await;
        };
        let micros = self.november(account);
        let due = i128::try_from(cents(micros)).unwrap_or(i128::MAX);
        let row = match done.map_err(unexpected)? {
            Corrected::Now(row) => row,
            Corrected::Before(_) | Corrected::Nothing if micros == said.micros => return Ok(()),
            other => {
                let due = format!("{account} is due {due} cents, {said:?}: {other:?}");
                return violated("I10", due);
            }
        };
        let change = i128::from(row.issued.total.minor());
        if said.cents + change != due {
            let number = &row.issued.number;
            let told = format!("{number} changes {said:?} by {change} cents, due are {due}");
            return violated("I10", told);
        }
        self.saw(if change < 0 { "credited" } else { "corrected" });
        let cents = said.cents + change;
        self.ledger.said.insert(account, Said { cents, micros });
        self.ledger.corrections.push(document(&row.issued));
        Ok(())
    }

    /// What was issued is as it was, in the order of issuing.
    pub(super) async fn check_corrections(&self) -> Found<()> {
        let mut tx = self.reconciler.store.read().await.map_err(unexpected)?;
        let held = corrections::all(&mut tx, None).await.map_err(unexpected)?;
        let mut held: Vec<Document> = held.iter().map(|row| document(&row.issued)).collect();
        let mut due = self.ledger.corrections.clone();
        held.sort_by(|left, right| left.number.cmp(&right.number));
        due.sort_by(|left, right| left.number.cmp(&right.number));
        if held != due {
            return violated("I10", "corrections were issued and are others now");
        }
        for series in ["CN-", "CI-"] {
            let numbers = held.iter().filter(|held| held.number.starts_with(series));
            let ordinal = |held: &Document| held.number.rsplit('-').next()?.parse().ok();
            let ordinals: Vec<Option<usize>> = numbers.map(ordinal).collect();
            if ordinals
                .iter()
                .enumerate()
                .any(|(place, at)| *at != Some(place + 1))
            {
                return violated("I10", format!("{series} has holes: {ordinals:?}"));
            }
        }
        Ok(())
    }

    /// The leakage account follows for as long as there is something to do.
    pub(super) async fn tally(&mut self) -> Found<()> {
        while let Some(done) = follow(&self.reconciler.store, clock())
            .await
            .map_err(unexpected)?
        {
            if !done.differing.is_empty() {
                return violated("leakage", format!("{done:?}"));
            }
        }
        self.check_leakage().await
    }

    /// Received is billed, unbilled, quarantined and written off, each as the ledger has it.
    pub(super) async fn check_leakage(&self) -> Found<()> {
        let mut tx = self.reconciler.store.read().await.map_err(unexpected)?;
        let told = report(&mut tx, HOURS, clock()).await.map_err(unexpected)?;
        if !told.adds_up() || told.hours_due > 0 {
            return violated("leakage", format!("{told:?}"));
        }
        for row in &told.meters {
            let [counted, quarantined, written_off] = self.sums(row.meter.name());
            let billed = match row.meter.name() {
                "cpu.time" => self.ledger.said.values().map(|said| said.micros).sum(),
                _ => 0,
            };
            let number = |text: &String| text.parse::<i128>().unwrap_or(i128::MIN);
            let signed = |sum: u128| i128::try_from(sum).unwrap_or(i128::MAX);
            let found = (
                number(&row.billed),
                number(&row.billed) + number(&row.unbilled),
            );
            let held = (number(&row.quarantined), number(&row.written_off));
            let agrees = found == (signed(billed), signed(counted))
                && (self.has_spoiled() || held == (signed(quarantined), signed(written_off)));
            if !agrees {
                let due = format!("billed {billed}, counted {counted}, quarantined {quarantined}");
                return violated(
                    "leakage",
                    format!("{due}, written off {written_off}: {row:?}"),
                );
            }
        }
        Ok(())
    }

    /// What a node of false arithmetic used by its registers is its own matter.
    fn has_spoiled(&self) -> bool {
        let mut kept = self
            .ledger
            .streams
            .values()
            .flat_map(|stream| &stream.segments);
        kept.any(|kept| kept.content.spoiled)
    }

    /// What is held of a meter without the host's: counted, quarantined, written off.
    fn sums(&self, meter: &str) -> [u128; 3] {
        let mut sums = [0; 3];
        let own = |node: &_| NODES.contains(node);
        let streams = self
            .ledger
            .streams
            .iter()
            .filter(|((node, _), _)| own(node));
        for kept in streams.flat_map(|(_, stream)| &stream.segments) {
            let class = match (kept.counts, kept.written_off) {
                (true, _) => 0,
                (false, false) => 1,
                (false, true) => 2,
            };
            for ((item, _), quantity) in &kept.content.used {
                if *item != HOST && item.1 == meter {
                    sums[class] += quantity;
                }
            }
        }
        sums
    }
}
