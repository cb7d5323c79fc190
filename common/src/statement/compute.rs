//! From checked input to a statement: group usage by what is rated together, rate, add up.

use std::collections::BTreeMap;

use super::{
    Detail, Line, PlanUse, PlanWindow, Statement, StatementError, StatementInput, Unpriced,
    UnpricedReason, UsageItem, WorkloadRef, audit,
};
use crate::ids::{NodeId, WorkloadName};
use crate::meter::{Kind, Meter};
use crate::money::{Exact, Money};
use crate::period::Period;
use crate::price::{Price, Scope};
use crate::rating::{self, RATING_VERSION, Terms};
use crate::time::Micros;

/// Computes what the account owes.
///
/// Usage that its registers do not bear out is in the lines too, and named beside them. Prices
/// without usage make no line, unless they charge for none.
///
/// # Errors
/// When the input would bill wrongly (see [`StatementError`]), or an amount cannot be computed
/// exactly.
pub fn draft(mut input: StatementInput) -> Result<Statement, StatementError> {
    audit::check(&input)?;
    put_in_order(&mut input);
    let discrepancies = input.usage.iter().filter_map(audit::discrepancy).collect();
    let charges = Charges::of(&input);
    let lines = charges.lines(&input)?;
    let unpriced = charges.unpriced()?;
    let StatementInput {
        account,
        seller,
        buyer,
        period,
        windows,
        notes,
        ..
    } = input;
    Ok(Statement {
        rating_version: RATING_VERSION,
        currency: account.currency,
        total: total(&lines, Money::zero(account.currency))?,
        unrounded_total: Exact::sum(lines.iter().map(|line| &line.unrounded))
            .ok_or(StatementError::ExactTotal)?,
        plans: windows
            .iter()
            .filter_map(|window| plan_use(window, &period))
            .collect(),
        account,
        seller,
        buyer,
        period,
        lines,
        unpriced,
        notes,
        discrepancies,
    })
}

/// The one order of everything, whatever order it came in.
fn put_in_order(input: &mut StatementInput) {
    for item in &mut input.usage {
        item.registers.sort_unstable();
    }
    input.usage.sort_unstable();
    input.notes.sort_unstable();
    input.notes.dedup();
    input
        .windows
        .sort_by(|a, b| (a.from, a.to, &a.plan.name).cmp(&(b.from, b.to, &b.plan.name)));
}

fn total(lines: &[Line], zero: Money) -> Result<Money, StatementError> {
    let sum = lines
        .iter()
        .try_fold(zero, |sum, line| sum.checked_add(line.amount))?;
    Ok(sum)
}

fn plan_use(window: &PlanWindow, period: &Period) -> Option<PlanUse> {
    Some(PlanUse {
        name: window.plan.name.clone(),
        title: window.plan.title.clone(),
        digest: window.plan.digest(),
        window: window.window().overlap(period)?,
    })
}

/// What is rated together: window and price by index, and the workload where each is rated alone.
type ChargeKey = (usize, usize, Option<(NodeId, WorkloadName)>);
type UnpricedKey = (UnpricedReason, Meter, NodeId, WorkloadName);

/// The usage of the input, by what it is rated with.
#[derive(Default)]
struct Charges<'a> {
    priced: BTreeMap<ChargeKey, Vec<&'a UsageItem>>,
    unpriced: BTreeMap<UnpricedKey, Vec<&'a UsageItem>>,
}

impl<'a> Charges<'a> {
    fn of(input: &'a StatementInput) -> Self {
        let mut charges = Self::default();
        charges.add_prices_without_usage(input);
        for item in &input.usage {
            charges.add(input, item);
        }
        charges
    }

    /// A price for all workloads together is due once, used or not.
    fn add_prices_without_usage(&mut self, input: &StatementInput) {
        for (w, window) in input.windows.iter().enumerate() {
            if window.window().overlap(&input.period).is_none() {
                continue;
            }
            for (p, price) in window.plan.prices.iter().enumerate() {
                if price.scope == Scope::Account {
                    self.priced.insert((w, p, None), Vec::new());
                }
            }
        }
    }

    fn add(&mut self, input: &StatementInput, item: &'a UsageItem) {
        let mut reason = Some(UnpricedReason::NoSubscription);
        for (w, window) in input.windows.iter().enumerate() {
            if !window.window().covers(&item.window()) {
                continue;
            }
            reason = reason.map(|_| UnpricedReason::NoPrice);
            for (p, price) in window.plan.prices.iter().enumerate() {
                if price.charges(item.meter, &item.workload) {
                    self.priced
                        .entry((w, p, rated_alone(price, item)))
                        .or_default()
                        .push(item);
                    reason = None;
                }
            }
        }
        if let Some(reason) = reason {
            let key = (reason, item.meter, item.node, item.workload.clone());
            self.unpriced.entry(key).or_default().push(item);
        }
    }

    fn lines(&self, input: &StatementInput) -> Result<Vec<Line>, StatementError> {
        let mut lines = Vec::new();
        for ((w, p, alone), items) in &self.priced {
            let window = &input.windows[*w];
            let charge = Charge {
                input,
                window,
                price: &window.plan.prices[*p],
                alone,
                items,
            };
            let line = charge.line()?;
            if !items.is_empty() || !line.amount.is_zero() {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    fn unpriced(&self) -> Result<Vec<Unpriced>, StatementError> {
        let unpriced = |(key, items): (&UnpricedKey, &Vec<&UsageItem>)| {
            let (reason, meter, node, workload) = key;
            let detail = details(items, meter.kind())
                .and_then(|mut details| details.pop())
                .ok_or_else(|| StatementError::Quantity(format!("{meter} of {node}/{workload}")))?;
            Ok(Unpriced {
                reason: *reason,
                meter: *meter,
                detail,
            })
        };
        self.unpriced.iter().map(unpriced).collect()
    }
}

fn rated_alone(price: &Price, item: &UsageItem) -> Option<(NodeId, WorkloadName)> {
    match price.scope {
        Scope::Account => None,
        Scope::Workload => Some((item.node, item.workload.clone())),
    }
}

/// One line in the making.
struct Charge<'a> {
    input: &'a StatementInput,
    window: &'a PlanWindow,
    price: &'a Price,
    alone: &'a Option<(NodeId, WorkloadName)>,
    items: &'a [&'a UsageItem],
}

impl Charge<'_> {
    fn line(&self) -> Result<Line, StatementError> {
        let (id, kind) = (self.id(), self.price.meter.kind());
        let too_large = || StatementError::Quantity(id.clone());
        let details = details(self.items, kind).ok_or_else(too_large)?;
        let quantity =
            combine(kind, details.iter().map(|detail| detail.quantity)).ok_or_else(too_large)?;
        let terms = Terms {
            currency: self.input.account.currency,
            rounding: self.input.rounding,
        };
        let rated =
            rating::rate(self.price, quantity, terms).map_err(|source| StatementError::Rating {
                line: id.clone(),
                source,
            })?;
        Ok(Line {
            plan: self.window.plan.name.clone(),
            price: self.price.id.clone(),
            title: self.price.title.clone(),
            window: self.span(),
            meter: self.price.meter,
            base_unit: self.price.meter.unit(),
            per: self.price.per,
            scope: self.price.scope,
            workload: self
                .alone
                .as_ref()
                .and_then(|_| Some(details.first()?.of.clone())),
            quantity,
            units: self.price.per.convert(quantity),
            unrounded: rated.unrounded,
            amount: rated.amount,
            interpolated: add_times(details.iter().map(|detail| detail.interpolated)),
            unmeasured: add_times(details.iter().map(|detail| detail.unmeasured)),
            steps: rated.steps,
            details,
            id,
        })
    }

    fn span(&self) -> Period {
        let window = self.window.window();
        window.overlap(&self.input.period).unwrap_or(window)
    }

    fn id(&self) -> String {
        let mut id = format!("{}/{}", self.window.plan.name, self.price.id);
        if let Some((node, workload)) = self.alone {
            id.push_str(&format!("/{node}/{workload}"));
        }
        if self.window.from > self.input.period.from {
            id.push_str(&format!("@{}", self.window.from));
        }
        id
    }
}

/// One detail per workload, by node name, node and workload; none when a quantity exceeds 128 bits.
fn details(items: &[&UsageItem], kind: Kind) -> Option<Vec<Detail>> {
    let mut by_workload = BTreeMap::<(NodeId, &WorkloadName), Vec<&UsageItem>>::new();
    for item in items {
        by_workload
            .entry((item.node, &item.workload))
            .or_default()
            .push(item);
    }
    let mut details = by_workload
        .values()
        .map(|items| detail(items, kind))
        .collect::<Option<Vec<_>>>()?;
    details.sort_by(|a, b| a.of.cmp(&b.of));
    Some(details)
}

/// Several items of one workload as one.
fn detail(items: &[&UsageItem], kind: Kind) -> Option<Detail> {
    let times = |part: fn(&UsageItem) -> Micros| add_times(items.iter().map(|item| part(item)));
    let mut registers: Vec<_> = items
        .iter()
        .flat_map(|item| &item.registers)
        .cloned()
        .collect();
    registers.sort_unstable();
    let newest: WorkloadRef = items
        .iter()
        .max_by_key(|item| (item.to, &item.node_name))?
        .of();
    Some(Detail {
        of: newest,
        window: Period {
            from: items.iter().map(|item| item.from).min()?,
            to: items.iter().map(|item| item.to).max()?,
        },
        quantity: combine(kind, items.iter().map(|item| item.quantity))?,
        measured: times(|item| item.measured),
        interpolated: times(|item| item.interpolated),
        unmeasured: times(|item| item.unmeasured),
        registers,
    })
}

/// A meter's quantities as one: the sum, or the maximum for peaks.
fn combine(kind: Kind, mut quantities: impl Iterator<Item = u128>) -> Option<u128> {
    match kind {
        Kind::Counter | Kind::Integral => quantities.try_fold(0, u128::checked_add),
        Kind::Peak => Some(quantities.max().unwrap_or(0)),
    }
}

fn add_times(times: impl Iterator<Item = Micros>) -> Micros {
    Micros(times.fold(0, |sum, time| sum.saturating_add(time.0)))
}
