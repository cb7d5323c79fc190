//! Paging by cursor: lists have an order that does not change, and a cursor names the last item
//! seen, so items that come or go meanwhile are neither repeated nor skipped.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::Problem;

/// Items of a page unless said otherwise.
const DEFAULT_LIMIT: u16 = 100;
/// Most items of a page.
const MAX_LIMIT: u16 = 1000;

/// A part of a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Page<T> {
    /// The items, in the list's order.
    pub items: Vec<T>,
    /// Give it as `cursor` to go on; null on the last page.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The same part, each item as it is shown.
    pub fn map<U>(self, show: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(show).collect(),
            next: self.next,
        }
    }
}

/// Which part of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageParams {
    /// 1 to 1000, 100 if not given.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

impl PageParams {
    /// How many items.
    ///
    /// # Errors
    /// When outside 1 to 1000.
    pub fn limit(&self) -> Result<usize, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if (1..=MAX_LIMIT).contains(&limit) {
            return Ok(usize::from(limit));
        }
        Err(Problem::invalid(format!(
            "limit {limit} is not usable: give 1 to {MAX_LIMIT}"
        )))
    }

    /// The key of the last item seen.
    ///
    /// # Errors
    /// When the cursor is not one of ours.
    pub fn after(&self) -> Result<Option<String>, Problem> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        BASE64URL_NOPAD
            .decode(cursor.as_bytes())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .map(Some)
            .ok_or_else(|| Problem::invalid("cursor is not usable: give `next` of the page before"))
    }

    /// The key of the last item seen, for lists ordered by number; 0 at the beginning.
    ///
    /// # Errors
    /// When the cursor is not one of ours.
    pub fn after_number(&self) -> Result<u64, Problem> {
        let Some(key) = self.after()? else {
            return Ok(0);
        };
        key.parse()
            .map_err(|_| Problem::invalid("cursor is not usable: give `next` of the page before"))
    }

    /// The page of a whole list, ordered by a key that is unique.
    ///
    /// # Errors
    /// When limit or cursor is not usable.
    pub fn cut<T>(&self, list: Vec<T>, key: impl Fn(&T) -> String) -> Result<Page<T>, Problem> {
        let (limit, after) = (self.limit()?, self.after()?);
        let mut keyed: Vec<(String, T)> = list.into_iter().map(|item| (key(&item), item)).collect();
        keyed.sort_by(|(left, _), (right, _)| left.cmp(right));
        let mut rest: Vec<(String, T)> = keyed
            .into_iter()
            .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after))
            .take(limit + 1)
            .collect();
        let more = rest.len() > limit;
        rest.truncate(limit);
        let next = rest.last().filter(|_| more).map(|(key, _)| cursor(key));
        Ok(Page {
            items: rest.into_iter().map(|(_, item)| item).collect(),
            next,
        })
    }
}

/// A cursor for a key.
#[must_use]
pub fn cursor(key: &str) -> String {
    BASE64URL_NOPAD.encode(key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_together_are_the_list_once() {
        let list: Vec<u32> = (0..25).collect();
        let mut seen = Vec::new();
        let mut params = PageParams {
            limit: Some(7),
            cursor: None,
        };
        loop {
            let page = params
                .cut(list.clone(), |item| format!("{item:04}"))
                .unwrap();
            seen.extend(page.items);
            match page.next {
                Some(next) => params.cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, list);
    }

    #[test]
    fn a_made_up_cursor_is_refused() {
        let params = PageParams {
            limit: None,
            cursor: Some("!".to_owned()),
        };
        assert!(params.cut(vec![1], ToString::to_string).is_err());
        assert!(
            PageParams {
                limit: Some(0),
                cursor: None
            }
            .limit()
            .is_err()
        );
    }
}
