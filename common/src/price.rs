//! Plans and prices: the documents people write, as TOML, to say what usage costs.
//!
//! Owns the form of a plan, its digest, and ([`Plan::check`]) what is wrong with one. Does not rate:
//! that is [`crate::rating`].
//!
//! ```toml
//! name = "starter"
//! title = "Starter"
//! currency = "EUR"
//!
//! [[prices]]
//! id = "cpu"
//! title = "CPU time"
//! meter = "cpu.time"
//! per = "cpu-hour"
//! model = "per_unit"
//! price = "0.012"
//!
//! [[prices]]
//! id = "traffic"
//! title = "Outgoing traffic"
//! meter = "network.tx"
//! per = "GB"
//! free = "10"               # allowance, taken off first
//! model = "graduated"
//! tiers = [
//!     { up_to = "1000", price = "0.01" },
//!     { price = "0.008", flat = "1" },
//! ]
//! ```
//!
//! What applications count has one meter for each unit (`app.count`, `app.bytes`, `app.seconds`), and a
//! price for it says which of the names they count under it charges: `app_meter = "requests"`.
//!
//! Numbers are text (or whole numbers), never TOML floats: a price is what is written, digit by
//! digit. Unknown keys are errors.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::application::AppMeter;
use crate::ids::{Hash, WorkloadName};
use crate::meter::Meter;
use crate::money::Currency;

pub mod check;
mod document;
mod number;
pub mod unit;

pub use check::{Fault, Problem};
pub use document::PriceError;
pub use unit::{BillingUnit, UnknownUnit};

/// A price list: what an account with a subscription to it pays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Short name, by which subscriptions refer to it: lower-case letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Name on the invoice.
    pub title: String,
    /// The currency of all its prices.
    pub currency: Currency,
    /// The prices, in the order of the document.
    pub prices: Vec<Price>,
}

/// What the usage of one meter costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "document::PriceDocument", into = "document::PriceDocument")]
pub struct Price {
    /// Name of the price within its plan, same grammar as the plan's name.
    pub id: String,
    /// Text of the invoice line.
    pub title: String,
    /// What is measured.
    pub meter: Meter,
    /// Of what applications report: under which name. None for every other meter.
    pub app_meter: Option<AppMeter>,
    /// What is priced: quantities are converted to this unit exactly, fractions are charged.
    pub per: BillingUnit,
    /// Which usage is rated together.
    pub scope: Scope,
    /// Allowance in billing units, taken off before rating, per rating scope and window. Zero for
    /// none.
    pub free: Decimal,
    /// How the price depends on the quantity.
    pub model: Model,
}

/// Which usage is rated together, so that tiers and allowances count over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All workloads of the account: one line.
    #[default]
    Account,
    /// Each workload by itself: a line each, tiers and allowance start anew.
    Workload,
}

/// How a price depends on the quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Model {
    /// Quantity times price.
    PerUnit {
        /// Price of one billing unit.
        price: Decimal,
    },
    /// Tiers fill one after the other; each part is charged at its tier's price.
    Graduated(Tiers),
    /// The whole quantity is charged at the price of the tier it reaches.
    Volume(Tiers),
}

impl Model {
    /// The word for it in documents.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PerUnit { .. } => "per_unit",
            Self::Graduated(_) => "graduated",
            Self::Volume(_) => "volume",
        }
    }

    /// Its tiers, if the model has any.
    #[must_use]
    pub fn tiers(&self) -> Option<&Tiers> {
        match self {
            Self::PerUnit { .. } => None,
            Self::Graduated(tiers) | Self::Volume(tiers) => Some(tiers),
        }
    }
}

/// Tiers of a graduated or volume price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiers {
    /// By rising bound; the last has none.
    pub tiers: Vec<Tier>,
    /// Whether no usage at all still pays the first tier's flat amount.
    pub charge_first_flat_at_zero: bool,
}

/// One tier: reached by quantities above the bound of the tier before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Last quantity in the tier, in billing units (inclusive). None for the last tier.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "number::optional"
    )]
    pub up_to: Option<Decimal>,
    /// Price of one billing unit in the tier.
    #[serde(with = "number")]
    pub price: Decimal,
    /// Charged once when the tier is reached by the least fraction of a unit.
    #[serde(default, skip_serializing_if = "Decimal::is_zero", with = "number")]
    pub flat: Decimal,
}

impl Price {
    /// Whether it charges what `workload` used of `meter`.
    #[must_use]
    pub fn charges(&self, meter: Meter, workload: &WorkloadName) -> bool {
        let named = |app_meter: &AppMeter| app_meter.names(workload);
        self.meter == meter && self.app_meter.as_ref().is_none_or(named)
    }
}

impl Plan {
    /// The plan as canonical JSON: keys in the order of this documentation, defaults left out,
    /// numbers as text without needless zeros, no white space. Two documents that mean the same
    /// have the same canonical JSON.
    ///
    /// # Panics
    /// Never: a plan has nothing that JSON cannot hold.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        serde_json::to_string(self).expect("a plan is made of texts and numbers written as text")
    }

    /// BLAKE3 of [`Plan::canonical_json`]: what an invoice cites.
    #[must_use]
    pub fn digest(&self) -> Hash {
        Hash(*blake3::hash(self.canonical_json().as_bytes()).as_bytes())
    }

    /// The price with this id.
    #[must_use]
    pub fn price(&self, id: &str) -> Option<&Price> {
        self.prices.iter().find(|price| price.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"
        name = "starter"
        title = "Starter"
        currency = "EUR"

        [[prices]]
        id = "cpu"
        title = "CPU time"
        meter = "cpu.time"
        per = "cpu-hour"
        model = "per_unit"
        price = "0.0120"

        [[prices]]
        id = "traffic"
        title = "Outgoing traffic"
        meter = "network.tx"
        per = "GB"
        scope = "workload"
        free = 10
        model = "graduated"
        tiers = [
            { up_to = "1000", price = "0.01" },
            { price = "0.008", flat = "1.00" },
        ]
    "#;

    fn plan(text: &str) -> Plan {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_plan_is_read_from_toml_and_written_canonically() {
        let json = plan(PLAN).canonical_json();
        assert_eq!(
            json,
            concat!(
                r#"{"name":"starter","title":"Starter","currency":"EUR","prices":["#,
                r#"{"id":"cpu","title":"CPU time","meter":"cpu.time","per":"cpu-hour","model":"per_unit","price":"0.012"},"#,
                r#"{"id":"traffic","title":"Outgoing traffic","meter":"network.tx","per":"GB","scope":"workload","free":"10","model":"graduated","#,
                r#""tiers":[{"up_to":"1000","price":"0.01"},{"price":"0.008","flat":"1"}]}]}"#,
            )
        );
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan(PLAN));
        assert_eq!(plan(PLAN).check(), []);
    }

    #[test]
    fn the_digest_follows_the_meaning_not_the_spelling() {
        let digest = plan(PLAN).digest();
        assert_eq!(plan(&PLAN.replace("0.0120", "0.012")).digest(), digest);
        assert_eq!(
            plan(&PLAN.replace("free = 10", "free = \"10.0\"")).digest(),
            digest
        );
        assert_ne!(plan(&PLAN.replace("0.0120", "0.0121")).digest(), digest);
    }

    #[test]
    fn a_document_that_is_no_plan_says_what_to_write() {
        for (from, to, says) in [
            ("\"0.0120\"", "0.0120", "write it in quotes"),
            ("\"0.0120\"", "\"12e-3\"", "0.012"),
            ("price = \"0.0120\"", "", "needs `price`"),
            (
                "model = \"per_unit\"",
                "model = \"volume\"",
                "takes `tiers`, not `price`",
            ),
            (
                "model = \"per_unit\"\n        price = \"0.0120\"",
                "model = \"volume\"",
                "needs `tiers`",
            ),
            (
                "scope = \"workload\"",
                "price = \"1\"",
                "takes `tiers`, not `price`",
            ),
            (
                "scope = \"workload\"",
                "discount = \"1\"",
                "unknown field `discount`",
            ),
            ("cpu-hour", "fortnight", "GiB-hour"),
            ("cpu.time", "cpu.tim", "cpu.time, memory.usage"),
            ("EUR", "Euro", "ISO 4217"),
            ("\"graduated\"", "\"tiered\"", "per_unit"),
        ] {
            let text = PLAN.replacen(from, to, 1);
            let error = toml::from_str::<Plan>(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
