//! Subscriptions: which plan version prices an account's usage, from when.
//!
//! The latest effective subscription holds until the next one begins.

use serde::{Deserialize, Serialize};
use tallystick_common::period::Period;
use tallystick_common::time::Timestamp;
use utoipa::ToSchema;

use super::{AccountId, CatalogError};

/// One subscription. Never changed; a later one takes over from its instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subscription {
    /// 1, 2, 3 in the order of making.
    pub id: i64,
    /// Who pays.
    pub account: AccountId,
    /// Name of the plan.
    pub plan: String,
    /// Its version.
    pub plan_version: i64,
    /// From when, a quarter-hour.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A subscription and the part of a period in which it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionSpan {
    /// The subscription.
    pub subscription: Subscription,
    /// Where it holds, within the period.
    pub span: Period,
}

/// Which subscription of one account holds when, within a period.
#[must_use]
pub fn spans(mut subscriptions: Vec<Subscription>, period: &Period) -> Vec<SubscriptionSpan> {
    subscriptions.sort_by_key(|subscription| subscription.from);
    let ends: Vec<Timestamp> = subscriptions
        .iter()
        .skip(1)
        .map(|next| next.from)
        .chain([period
            .to
            .max(subscriptions.last().map_or(period.to, |last| last.from))])
        .collect();
    subscriptions
        .into_iter()
        .zip(ends)
        .filter_map(|(subscription, to)| {
            let span = Period {
                from: subscription.from,
                to,
            }
            .overlap(period)?;
            Some(SubscriptionSpan { subscription, span })
        })
        .collect()
}

/// A plan by name, with or without a version: `starter` or `starter@2`.
///
/// # Errors
/// When what follows `@` is not a version.
pub fn plan_reference(text: &str) -> Result<(String, Option<i64>), CatalogError> {
    let Some((name, version)) = text.split_once('@') else {
        return Ok((text.to_owned(), None));
    };
    match version.parse() {
        Ok(version) if version > 0 => Ok((name.to_owned(), Some(version))),
        _ => Err(CatalogError::Invalid {
            what: "plan",
            value: text.to_owned(),
            why: "write NAME, or NAME@VERSION with a version from 1 on".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(quarter: u64) -> Timestamp {
        Timestamp::from_seconds(quarter * 900).unwrap()
    }

    fn subscription(id: i64, from: u64) -> Subscription {
        Subscription {
            id,
            account: "acme".parse().unwrap(),
            plan: "starter".to_owned(),
            plan_version: id,
            from: at(from),
            created_at: at(0),
        }
    }

    #[test]
    fn a_subscription_holds_until_the_next_begins() {
        let period = Period {
            from: at(10),
            to: at(20),
        };
        let all = vec![subscription(3, 30), subscription(2, 15), subscription(1, 5)];
        let found: Vec<_> = spans(all, &period)
            .into_iter()
            .map(|span| (span.subscription.id, span.span.from, span.span.to))
            .collect();
        assert_eq!(found, [(1, at(10), at(15)), (2, at(15), at(20))]);
        assert_eq!(spans(vec![], &period), []);
        assert_eq!(spans(vec![subscription(1, 20)], &period), []);
    }
}
