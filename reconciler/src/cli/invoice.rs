//! `invoice draft|issue|show|list`.

use clap::Subcommand;
use tallystick_common::period::Month;
use tallystick_common::statement::Statement;

use super::Session;
use crate::api::document::DraftDocument;
use crate::api::invoices::{InvoiceSummary, IssuedInvoice};
use crate::billing::document::InvoiceDocument;
use crate::billing::draft::{Which, draft};
use crate::billing::issue::{Issued, Order, issue};
use crate::catalog::CatalogError;
use crate::{clock, store};

/// Drafts and issued invoices.
#[derive(Debug, Subcommand)]
pub(super) enum InvoiceCommand {
    /// What an account owes for a period, as of now, with the steps of each line.
    Draft {
        /// The account's id.
        account: String,
        /// The month in which the period begins, such as 2026-11; the present period if not given.
        #[arg(long)]
        period: Option<Month>,
    },
    /// Issue the invoice of a period that has ended.
    Issue {
        /// The account's id.
        account: String,
        /// The month in which the period begins, such as 2026-11.
        #[arg(long)]
        period: Month,
        /// Close although nodes are outstanding, for this reason, which the document names.
        #[arg(long, value_name = "REASON")]
        accept_gaps: Option<String>,
    },
    /// An issued invoice.
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
            Self::List { account } => {
                let mut tx = session.store.read().await?;
                let rows = store::billing::invoices(&mut tx, account.as_deref()).await?;
                let rows: Vec<InvoiceSummary> =
                    rows.into_iter().map(InvoiceSummary::from).collect();
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
        }
    }
}

async fn show_draft(session: &Session, account: &str, period: Option<Month>) -> anyhow::Result<()> {
    let now = clock::now();
    let which = period.map_or(Which::At(now), Which::Month);
    let mut tx = session.store.read().await?;
    let draft = draft(&mut tx, account, which, &session.config.seller, now).await?;
    if session.output.json {
        return session.output.value(&DraftDocument::new(draft, now));
    }
    println!("Draft as of {now}");
    print_statement(&draft.statement);
    Ok(())
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
    println!("{how} {}: {}", invoice.number, issued.invoice().total);
    Ok(())
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
        // The very bytes that the digest is of.
        println!("{}", row.document);
        return Ok(());
    }
    let document: InvoiceDocument = serde_json::from_str(&row.document)?;
    println!(
        "Invoice {} of {}, digest {}",
        row.number, row.issued_at, row.digest
    );
    print_statement(&document.statement);
    if let Some(gaps) = document.accepted_gaps {
        println!("Closed with gaps by {}: {}", gaps.by, gaps.reason);
    }
    Ok(())
}

fn print_statement(statement: &Statement) {
    println!(
        "{} ({}), {}",
        statement.account.name, statement.account.id, statement.period
    );
    for line in &statement.lines {
        let of = line
            .workload
            .as_ref()
            .map(|of| format!(" · {} on {}", of.workload, of.node_name));
        println!(
            "  {}{}: {}",
            line.title,
            of.unwrap_or_default(),
            line.amount
        );
        for step in &line.steps {
            println!("    {step}");
        }
    }
    println!(
        "Total {} (before rounding {})",
        statement.total,
        statement.unrounded_total.cut(6)
    );
    for note in &statement.notes {
        println!("Note: {}", serde_json::to_string(note).unwrap_or_default());
    }
}
