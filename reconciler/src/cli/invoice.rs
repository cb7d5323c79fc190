//! `invoice draft|issue|show|list`.

use clap::Subcommand;
use tallystick_common::period::Month;

use super::Session;
use super::output::say;
use crate::api::document::DraftDocument;
use crate::api::invoices::{InvoiceSummary, IssuedInvoice};
use crate::billing::document::InvoiceDocument;
use crate::billing::draft::{Which, draft};
use crate::billing::issue::{Issued, Order, issue};
use crate::catalog::CatalogError;
use crate::catalog::change::known_account;
use crate::console::view::correction::{carried_told, kind_told, lines_told};
use crate::{clock, store};

pub(super) mod statement;

/// Drafts and issued invoices.
#[derive(Debug, Subcommand)]
pub(super) enum InvoiceCommand {
    /// What an account owes for a period, as of now, with the steps of each line.
    Draft {
        /// The account's id.
        account: String,
        /// The month in which the period begins, such as 2026-11; the present period if not given.
        #[arg(long, value_name = "MONTH")]
        period: Option<Month>,
    },
    /// Issue the invoice of a period that has ended. Asking again says as what it was issued.
    Issue {
        /// The account's id.
        account: String,
        /// The month in which the period begins, such as 2026-11.
        #[arg(long, value_name = "MONTH")]
        period: Month,
        /// Close although nodes are outstanding, for this reason, which the document names.
        #[arg(long, value_name = "REASON")]
        accept_gaps: Option<String>,
    },
    /// An issued invoice, as it was issued.
    Show {
        /// Such as TS-2026-000001.
        number: String,
    },
    /// Issued invoices.
    List {
        /// Only of this account.
        #[arg(long)]
        account: Option<String>,
    },
}

impl InvoiceCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Draft { account, period } => show_draft(session, &account, period).await,
            Self::Issue {
                account,
                period,
                accept_gaps,
            } => issue_one(session, &account, period, accept_gaps.as_deref()).await,
            Self::Show { number } => show(session, &number).await,
            Self::List { account } => list(session, account.as_deref()).await,
        }
    }
}

async fn list(session: &Session, account: Option<&str>) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    if let Some(account) = account {
        known_account(&mut tx, account).await?;
    }
    let rows = store::billing::invoices(&mut tx, account).await?;
    let rows: Vec<InvoiceSummary> = rows.into_iter().map(InvoiceSummary::from).collect();
    let columns = [
        "number",
        "account",
        "period_from",
        "period_to",
        "total",
        "issued_at",
    ];
    session.output.list(&rows, &columns)
}

async fn show_draft(session: &Session, account: &str, period: Option<Month>) -> anyhow::Result<()> {
    let now = clock::now();
    let which = period.map_or(Which::At(now), Which::Month);
    let mut tx = session.store.read().await?;
    let draft = draft(&mut tx, account, which, &session.config.seller, now).await?;
    if session.output.json {
        return session.output.value(&DraftDocument::new(draft, now));
    }
    let text = statement::told(&draft.statement);
    say(&format!("Draft as of {now}\n{text}"))
}

async fn issue_one(
    session: &Session,
    account: &str,
    period: Month,
    accept_gaps: Option<&str>,
) -> anyhow::Result<()> {
    let order = Order {
        account,
        which: Which::Month(period),
        accept_gaps,
        seller: &session.config.seller,
        actor: &session.actor,
    };
    let issued = issue(&session.store, &order, clock::now()).await?;
    let already_issued = matches!(issued, Issued::Before(_));
    let invoice = InvoiceSummary::from(issued.invoice().clone());
    if session.output.json {
        return session.output.value(&IssuedInvoice {
            already_issued,
            invoice,
        });
    }
    let how = if already_issued {
        "already issued as"
    } else {
        "issued as"
    };
    let total = issued.invoice().total;
    say(&format!("{how} {}: {total}\n", invoice.number))
}

async fn show(session: &Session, number: &str) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let row = store::billing::invoice(&mut tx, number).await?;
    let row = row.ok_or_else(|| CatalogError::Unknown {
        what: "invoice",
        name: number.to_owned(),
        hint: "see `invoice list`",
    })?;
    if session.output.json {
        // The very bytes that the digest is of, and a line's end.
        return say(&format!("{}\n", row.document));
    }
    let document: InvoiceDocument = serde_json::from_str(&row.document)?;
    let text = statement::told(&document.statement);
    say(&format!(
        "Invoice {} of {}, digest {}\n{text}",
        row.number, row.issued_at, row.digest
    ))?;
    if let Some(gaps) = &document.accepted_gaps {
        say(&format!(
            "Closed with gaps by {}: {}\n",
            gaps.by, gaps.reason
        ))?;
    }
    for carried in &document.carried {
        let lines = lines_told(&carried.lines);
        say(&format!("\n{}\n{lines}", carried_told(carried)))?;
    }
    if let Some(due) = document.due {
        say(&format!("Due {due}\n"))?;
    }
    let corrections = store::corrections::of_invoice(&mut tx, &row.number).await?;
    for correction in corrections {
        let issued = &correction.issued;
        let kind = kind_told(correction.kind);
        say(&format!(
            "Corrected by {kind} {}: {}\n",
            issued.number, issued.total
        ))?;
    }
    Ok(())
}
