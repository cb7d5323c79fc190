//! What a correction corrects, and what an invoice carries: by the documents that it names.

use super::{Difference, Step, read};
use crate::correction::{Carried, Correction, CorrectionKind, Named, differences};
use crate::invoice::{InvoiceDocument, digest, with_carried};

/// What was found of other documents.
pub(super) enum NamedDocuments {
    /// The document stands by itself.
    None,
    /// It corrects an invoice, after so many other corrections.
    Corrects { invoice: String, earlier: usize },
    /// It carries so many corrections.
    Carries(usize),
}

impl NamedDocuments {
    /// In words.
    pub(super) fn told(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Corrects { invoice, earlier } => Some(format!(
                "what {invoice} and {earlier} corrections of it said, taken from what is known now"
            )),
            Self::Carries(count) => Some(format!("{count} corrections are carried as issued")),
        }
    }
}

pub(super) fn check(
    document: &InvoiceDocument,
    named: &[Vec<u8>],
) -> Result<NamedDocuments, Difference> {
    match &document.correction {
        Some(correction) => {
            if !document.carried.is_empty() || document.due.is_some() {
                return Err(differs(&document.number, "a correction carries none"));
            }
            corrects(document, correction, named)
        }
        None => carries(document, named),
    }
}

fn differs(subject: &str, why: impl std::fmt::Display) -> Difference {
    Difference::new(Step::Correction, subject, why)
}

/// The document of that name.
fn document(bytes: &[u8], name: &Named) -> Result<InvoiceDocument, Difference> {
    let found = digest(bytes);
    if found != name.digest {
        let why = format!("the digest is {found}, named is {}", name.digest);
        return Err(differs(&name.number, why));
    }
    let document = read(bytes).map_err(|why| differs(&name.number, why))?;
    if document.number != name.number {
        let why = format!("it has the number {}", document.number);
        return Err(differs(&name.number, why));
    }
    Ok(document)
}

fn corrects(
    document: &InvoiceDocument,
    correction: &Correction,
    named: &[Vec<u8>],
) -> Result<NamedDocuments, Difference> {
    let chain = chain(correction, named)?;
    let (Some(base), Some(invoice)) = (chain.first(), chain.last()) else {
        return Err(differs(&correction.base.number, "it is not in the file"));
    };
    check_terms(document, correction, invoice)?;
    let found = differences(&base.statement, &document.statement)
        .map_err(|error| differs(&document.number, error))?;
    if found != correction.differences {
        let why = format!(
            "from {} it differs by {}, and not as it says",
            base.number, found.total
        );
        return Err(differs(&document.number, why));
    }
    if !correction.kind.fits(found.total) {
        let why = "a credit note is of less than nothing, and nothing else is";
        return Err(differs(&document.number, why));
    }
    Ok(NamedDocuments::Corrects {
        invoice: invoice.number.clone(),
        earlier: chain.len() - 1,
    })
}

/// Base by base, back to the invoice.
fn chain(correction: &Correction, named: &[Vec<u8>]) -> Result<Vec<InvoiceDocument>, Difference> {
    let mut chain: Vec<InvoiceDocument> = Vec::new();
    let mut next = Some(correction.base.clone());
    for bytes in named {
        let Some(name) = next else {
            return Err(differs("documents", "one more than are named"));
        };
        let held = document(bytes, &name)?;
        let of = held.correction.as_ref();
        if of.is_some_and(|of| of.invoice != correction.invoice) {
            return Err(differs(&held.number, "it corrects another invoice"));
        }
        if of.is_none() && name != correction.invoice {
            return Err(differs(&held.number, "it is not the corrected invoice"));
        }
        next = of.map(|of| of.base.clone());
        chain.push(held);
    }
    match next {
        None => Ok(chain),
        Some(name) => Err(differs(&name.number, "it is not in the file")),
    }
}

/// A correction is by what was agreed when the invoice was issued.
fn check_terms(
    document: &InvoiceDocument,
    correction: &Correction,
    invoice: &InvoiceDocument,
) -> Result<(), Difference> {
    let (now, then) = (&document.digests, &invoice.digests);
    for (what, same) in [
        ("account", now.account == then.account),
        ("subscriptions", now.subscriptions == then.subscriptions),
        ("plans", now.plans == then.plans),
        (
            "time of agreement",
            correction.agreed_at == invoice.issued_at,
        ),
    ] {
        if !same {
            let why = format!("the invoice {} has another {what}", invoice.number);
            return Err(differs(&document.number, why));
        }
    }
    Ok(())
}

fn carries(invoice: &InvoiceDocument, named: &[Vec<u8>]) -> Result<NamedDocuments, Difference> {
    if invoice.carried.len() != named.len() {
        let why = "the documents of the corrections that it carries are not all in the file, or others are";
        return Err(differs(&invoice.number, why));
    }
    for (carried, bytes) in invoice.carried.iter().zip(named) {
        check_carried(invoice, carried, bytes)?;
    }
    let due = with_carried(invoice.statement.total, &invoice.carried)
        .map_err(|error| differs(&invoice.number, error))?;
    match (invoice.due, named.len()) {
        (None, 0) => Ok(NamedDocuments::None),
        (Some(said), count) if said == due && count > 0 => Ok(NamedDocuments::Carries(count)),
        _ => Err(differs(&invoice.number, format!("due is {due}"))),
    }
}

fn check_carried(
    invoice: &InvoiceDocument,
    carried: &Carried,
    bytes: &[u8],
) -> Result<(), Difference> {
    let held = document(bytes, &carried.correction)?;
    let same = held.correction.as_ref().is_some_and(|of| {
        of.kind == CorrectionKind::NextInvoice
            && of.invoice.number == carried.invoice
            && of.differences.lines == carried.lines
            && of.differences.total == carried.total
    });
    let whose = held.statement.account.id == invoice.statement.account.id;
    if same && whose && held.statement.period == carried.period {
        return Ok(());
    }
    let why = format!("{} carries it otherwise than it was issued", invoice.number);
    Err(differs(&held.number, why))
}
