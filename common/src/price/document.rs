//! The flat form of a price in a document, and its way into and out of [`Price`].

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{BillingUnit, Model, Price, Scope, Tier, Tiers, number};
use crate::application::AppMeter;
use crate::meter::Meter;

/// A price whose keys do not fit its model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// The model's own key is missing.
    #[error("price {id:?}: the model {model} needs `{key}`")]
    Missing {
        /// The price.
        id: String,
        /// Its model.
        model: &'static str,
        /// What to add.
        key: &'static str,
    },
    /// A key of another model.
    #[error("price {id:?}: the model {model} takes `{takes}`, not `{key}`")]
    Superfluous {
        /// The price.
        id: String,
        /// Its model.
        model: &'static str,
        /// What it takes.
        takes: &'static str,
        /// What was given too.
        key: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModelName {
    PerUnit,
    Graduated,
    Volume,
}

/// One `[[prices]]` table.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceDocument {
    id: String,
    title: String,
    meter: Meter,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    app_meter: Option<AppMeter>,
    per: BillingUnit,
    #[serde(default, skip_serializing_if = "is_default")]
    scope: Scope,
    #[serde(default, skip_serializing_if = "Decimal::is_zero", with = "number")]
    free: Decimal,
    model: ModelName,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "number::optional"
    )]
    price: Option<Decimal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tiers: Option<Vec<Tier>>,
    #[serde(default, skip_serializing_if = "is_default")]
    charge_first_flat_at_zero: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl PriceDocument {
    fn model(&mut self) -> Result<Model, PriceError> {
        match self.model {
            ModelName::PerUnit => self.per_unit(),
            ModelName::Graduated => Ok(Model::Graduated(self.tiers("graduated")?)),
            ModelName::Volume => Ok(Model::Volume(self.tiers("volume")?)),
        }
    }

    fn per_unit(&self) -> Result<Model, PriceError> {
        let model = "per_unit";
        if self.tiers.is_some() {
            return Err(self.superfluous(model, "price", "tiers"));
        }
        if self.charge_first_flat_at_zero {
            return Err(self.superfluous(model, "price", "charge_first_flat_at_zero"));
        }
        let price = self.price.ok_or_else(|| self.missing(model, "price"))?;
        Ok(Model::PerUnit { price })
    }

    fn tiers(&mut self, model: &'static str) -> Result<Tiers, PriceError> {
        if self.price.is_some() {
            return Err(self.superfluous(model, "tiers", "price"));
        }
        let tiers = self
            .tiers
            .take()
            .ok_or_else(|| self.missing(model, "tiers"))?;
        Ok(Tiers {
            tiers,
            charge_first_flat_at_zero: self.charge_first_flat_at_zero,
        })
    }

    fn missing(&self, model: &'static str, key: &'static str) -> PriceError {
        PriceError::Missing {
            id: self.id.clone(),
            model,
            key,
        }
    }

    fn superfluous(
        &self,
        model: &'static str,
        takes: &'static str,
        key: &'static str,
    ) -> PriceError {
        PriceError::Superfluous {
            id: self.id.clone(),
            model,
            takes,
            key,
        }
    }
}

impl TryFrom<PriceDocument> for Price {
    type Error = PriceError;

    fn try_from(mut document: PriceDocument) -> Result<Self, PriceError> {
        let model = document.model()?;
        let PriceDocument {
            id,
            title,
            meter,
            app_meter,
            per,
            scope,
            free,
            ..
        } = document;
        Ok(Self {
            id,
            title,
            meter,
            app_meter,
            per,
            scope,
            free,
            model,
        })
    }
}

impl From<Price> for PriceDocument {
    fn from(price: Price) -> Self {
        let Price {
            id,
            title,
            meter,
            app_meter,
            per,
            scope,
            free,
            model,
        } = price;
        let (model, price, tiers) = match model {
            Model::PerUnit { price } => (ModelName::PerUnit, Some(price), None),
            Model::Graduated(tiers) => (ModelName::Graduated, None, Some(tiers)),
            Model::Volume(tiers) => (ModelName::Volume, None, Some(tiers)),
        };
        let charge_first_flat_at_zero = tiers
            .as_ref()
            .is_some_and(|tiers| tiers.charge_first_flat_at_zero);
        let tiers = tiers.map(|tiers| tiers.tiers);
        Self {
            id,
            title,
            meter,
            app_meter,
            per,
            scope,
            free,
            model,
            price,
            tiers,
            charge_first_flat_at_zero,
        }
    }
}
