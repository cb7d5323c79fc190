//! Accounts: who is billed, in which currency, by whose calendar.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tallystick_common::time::Timestamp;
use utoipa::ToSchema;

use super::CatalogError;

/// The slug of an account: 1 to 63 of `a-z 0-9 -`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9-]{0,62}$", example = "acme")]
pub struct AccountId(String);

impl AccountId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountId {
    type Err = CatalogError;

    fn from_str(text: &str) -> Result<Self, CatalogError> {
        slug("account", text).map(Self)
    }
}

/// Checks the grammar that ids of accounts and plans share. `what` names the field in the error.
///
/// # Errors
/// When the text is not a slug.
pub fn slug(what: &'static str, text: &str) -> Result<String, CatalogError> {
    let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=63).contains(&text.len()) && !text.starts_with('-') && text.chars().all(usable) {
        return Ok(text.to_owned());
    }
    Err(CatalogError::Invalid {
        what,
        value: text.to_owned(),
        why: "write 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit".to_owned(),
    })
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for AccountId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Who is billed. Never changed once made: a document issued yesterday names it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Slug.
    pub id: AccountId,
    /// Name on documents.
    pub name: String,
    /// ISO 4217 code.
    #[schema(example = "EUR")]
    pub currency: String,
    /// IANA name of the zone whose calendar bounds billing periods.
    #[schema(example = "Europe/Berlin")]
    pub time_zone: String,
    /// Day of the month on which a billing period begins, 1 to 31; shorter months use their last.
    pub anchor_day: u8,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What becomes of a correction by which an account owes more. By which it owes less, it gets a credit note.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionPolicy {
    /// A correction invoice, with a number of its own.
    #[default]
    OwnDocument,
    /// Lines on the account's next invoice.
    NextInvoice,
}

impl CorrectionPolicy {
    /// Its name in the store and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OwnDocument => "own_document",
            Self::NextInvoice => "next_invoice",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::OwnDocument, Self::NextInvoice]
            .into_iter()
            .find(|policy| policy.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_id_is_a_slug() {
        assert_eq!("acme-2".parse::<AccountId>().unwrap().as_str(), "acme-2");
        for bad in ["", "-a", "Acme", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<AccountId>().is_err(), "{bad:?}");
        }
    }
}
