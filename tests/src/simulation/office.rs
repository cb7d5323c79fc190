//! What people do: ban, assign, issue, look.

use tallystick_common::period::Period;
use tallystick_reconciler::billing::BillingError;
use tallystick_reconciler::billing::draft::{Which, draft};
use tallystick_reconciler::billing::issue::{Issued, Order, issue};
use tallystick_reconciler::catalog::assignment::NewAssignment;
use tallystick_reconciler::catalog::change::{self, ChangeError};
use tallystick_reconciler::store::billing::{InvoiceRow, invoices};
use tallystick_reconciler::store::nodes::NodeState;

use super::finding::{Finding, Found, violated};
use super::ground::{ACCOUNTS, MONTHS, at};
use super::machine::GROUPS;
use super::model::QUARTER;
use super::model::ledger::{Document, Said, Standing};
use super::model::tariff::{ALL, Rule, cents};
use super::reconciler::{clock, dying_at};
use super::world::World;

impl World {
    pub(super) async fn ban(&mut self, agent: u8) -> Found<()> {
        let node = self.players[self.place(agent)].node();
        let (state, standing) = match self.ledger.nodes.get(&node) {
            Some(Standing::Active) => {
                let reason = "suspected".to_owned();
                (
                    NodeState::Banned {
                        at: clock(),
                        reason,
                    },
                    Standing::Banned,
                )
            }
            Some(Standing::Banned) => (NodeState::Active, Standing::Active),
            _ => return Ok(()),
        };
        change::set_node_state(
            &self.reconciler.store,
            &node.to_string(),
            state,
            "test",
            clock(),
        )
        .await
        .map_err(unexpected)?;
        self.ledger.nodes.insert(node, standing);
        Ok(())
    }

    pub(super) async fn assign(&mut self, account: u8, workload: u8, quarter: u8) -> Found<()> {
        self.give(account, workload, quarter, false).await
    }

    /// From some time ago on, whatever was said of it, and whatever was invoiced.
    pub(super) async fn reassign(&mut self, account: u8, workload: u8, quarter: u8) -> Found<()> {
        self.give(account, workload, quarter % 128, true).await
    }

    async fn give(&mut self, account: u8, workload: u8, quarter: u8, corrects: bool) -> Found<()> {
        let present = self.now / QUARTER;
        let (early, late) = (u64::from(quarter), u64::from(quarter.saturating_sub(128)));
        let rule = Rule {
            account: ACCOUNTS[usize::from(account) % ACCOUNTS.len()],
            workload: [GROUPS[0], GROUPS[1], ALL][usize::from(workload) % 3],
            quarter: if quarter < 128 {
                present - early
            } else {
                present + late
            },
        };
        let from = tallystick_common::time::Timestamp::from_micros(rule.quarter * QUARTER);
        let new = NewAssignment::new(
            rule.account.parse().map_err(unexpected)?,
            "*",
            rule.workload,
            from.unwrap_or(tallystick_common::time::Timestamp::EPOCH),
        );
        let new = new.map_err(unexpected)?.correcting(corrects);
        let made = change::assign(&self.reconciler.store, &new, "test", clock()).await;
        let refused = !corrects && self.ledger.refuses(&rule, at(MONTHS[1]).as_micros());
        match made {
            Ok(_) if refused => violated(
                "assign",
                format!("{rule:?} says of a time what was said otherwise"),
            ),
            Ok(_) => {
                self.ledger.rules.push(rule);
                self.saw(if corrects { "reassigned" } else { "assigned" });
                Ok(())
            }
            Err(ChangeError::Catalog(_)) if refused => Ok(()),
            Err(error) => Err(unexpected(error)),
        }
    }

    pub(super) async fn issue(&mut self, account: u8, accept_gaps: bool, crash: bool) -> Found<()> {
        let account = ACCOUNTS[usize::from(account) % ACCOUNTS.len()];
        let store = self.reconciler.store.clone();
        let ask = async move {
            let order = Order {
                account,
                which: Which::At(at(MONTHS[0])),
                accept_gaps: accept_gaps.then_some("simulated"),
                seller: "Seller",
                actor: "test",
            };
            issue(&store, &order, clock()).await
        };
        let place = crash.then_some("reconciler.invoice.numbered");
        let Some(issued) = dying_at(place, ask).await? else {
            self.saw("reconciler died issuing");
            return self.crash_reconciler().await;
        };
        let end = at(MONTHS[1]).as_micros();
        let ends = self
            .ledger
            .rules
            .iter()
            .any(|rule| rule.account == account && rule.quarter * QUARTER < end);
        let awaited = if ends {
            self.ledger.awaited(end)
        } else {
            Vec::new()
        };
        match issued {
            Ok(Issued::Before(_)) => Ok(()),
            Ok(Issued::Now(_)) if self.now < end => {
                violated("closing", "a month was closed that still runs")
            }
            Ok(Issued::Now(_)) if !accept_gaps && !awaited.is_empty() => {
                violated("closing", format!("a month was closed without {awaited:?}"))
            }
            Ok(Issued::Now(invoice)) => {
                self.saw(if awaited.is_empty() {
                    "issued by proof"
                } else {
                    "issued with gaps"
                });
                self.note_invoice(account, &invoice)
            }
            Err(BillingError::NotEnded { .. }) if self.now < end => Ok(()),
            Err(BillingError::Outstanding { .. }) if !awaited.is_empty() => {
                self.saw("not issued, nodes are awaited");
                Ok(())
            }
            Err(error) => Err(unexpected(error)),
        }
    }

    fn note_invoice(&mut self, account: &'static str, invoice: &InvoiceRow) -> Found<()> {
        let micros = self.november(account);
        let due = cents(micros);
        let total = amount(&invoice.total.amount());
        if total > 0 {
            self.saw("an invoice over something");
        }
        if total != due {
            return violated(
                "I3",
                format!(
                    "invoice {} is over {total} cents, due are {due}",
                    invoice.number
                ),
            );
        }
        let cents = i128::try_from(due).unwrap_or(i128::MAX);
        self.ledger.said.insert(account, Said { cents, micros });
        self.ledger.invoices.push(document(invoice));
        Ok(())
    }

    /// The CPU time of an account in November, as the ledger knows it now.
    pub(super) fn november(&self, account: &str) -> u128 {
        let (from, to) = (at(MONTHS[0]).as_micros(), at(MONTHS[1]).as_micros());
        self.ledger.micros(account, from, to)
    }

    /// Both accounts owe in both months what the ledger says; what was issued is as it was.
    pub(super) async fn check_bills(&self) -> Found<()> {
        let mut tx = self.reconciler.store.read().await.map_err(unexpected)?;
        for (from, to) in [(MONTHS[0], MONTHS[1]), (MONTHS[1], MONTHS[2])] {
            let period = Period {
                from: at(from),
                to: at(to),
            };
            for account in ACCOUNTS {
                if self.now < period.from.as_micros() {
                    continue;
                }
                let drafted =
                    draft(&mut tx, account, Which::At(period.from), "Seller", clock()).await;
                let drafted = drafted.map_err(unexpected)?;
                let due = self
                    .ledger
                    .bill(account, period.from.as_micros(), period.to.as_micros());
                let total = amount(&drafted.statement.total.amount());
                if total != due {
                    return violated(
                        "I3",
                        format!("{account} owes {total} cents from {from} on, due are {due}"),
                    );
                }
                if let Some(first) = drafted.statement.discrepancies.first() {
                    return violated("I3", format!("the draft of {account} says {first:?}"));
                }
            }
        }
        let held = invoices(&mut tx, None).await.map_err(unexpected)?;
        let held: Vec<Document> = held.iter().map(document).collect();
        if held != self.ledger.invoices {
            return violated(
                "I10",
                format!(
                    "{} invoices were issued and are others now",
                    self.ledger.invoices.len()
                ),
            );
        }
        let numbered = |(place, invoice): (usize, &Document)| {
            invoice
                .number
                .rsplit('-')
                .next()
                .and_then(|number| number.parse().ok())
                == Some(place + 1)
        };
        if !held.iter().enumerate().all(numbered) {
            return violated("I10", "numbers of invoices have holes");
        }
        drop(tx);
        self.check_corrections().await
    }
}

/// An issued document as it is compared later.
pub(super) fn document(row: &InvoiceRow) -> Document {
    Document {
        number: row.number.clone(),
        text: row.document.clone(),
    }
}

/// Cents of an amount in text.
pub(super) fn amount(text: &str) -> u128 {
    text.chars()
        .filter(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(u128::MAX)
}

/// Something that should have worked did not.
pub(super) fn unexpected(error: impl std::fmt::Display) -> Finding {
    Finding {
        invariant: "it works",
        detail: error.to_string(),
    }
}
