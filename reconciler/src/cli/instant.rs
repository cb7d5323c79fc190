//! Instants as a person types them.

use tallystick_common::time::{QUARTER_HOUR_US, Timestamp};

use crate::clock;

/// An RFC 3339 instant, or `now`: the beginning of the present quarter-hour, from which a change may
/// take effect. Whether an instant must be on a quarter-hour is for the rule that uses it.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    instant_at(text, clock::now())
}

fn instant_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(now.floor_to(QUARTER_HOUR_US));
    }
    text.parse()
        .map_err(|error| format!("{error}, or now for the present quarter-hour's beginning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_is_the_beginning_of_the_present_quarter_hour() {
        let now = "2026-11-22T12:44:59.9Z".parse().unwrap();
        let expected = "2026-11-22T12:30:00Z".parse().unwrap();
        assert_eq!(instant_at("now", now), Ok(expected));
        assert_eq!(
            instant_at("now", expected),
            Ok(expected),
            "on the grid itself"
        );
    }

    #[test]
    fn an_offset_is_understood() {
        let berlin = instant_at("2026-11-01T00:00:00+01:00", Timestamp::EPOCH);
        assert_eq!(berlin, Ok("2026-10-31T23:00:00Z".parse().unwrap()));
    }

    #[test]
    fn what_is_no_instant_is_named_with_the_form_that_is() {
        for bad in ["yesterday", "2026-11-01", "", "Now"] {
            let error = instant_at(bad, Timestamp::EPOCH).unwrap_err();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
            assert!(error.contains("2026-11-22T12:00:00Z"), "{error}");
        }
    }
}
