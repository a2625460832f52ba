//! The end of a document as Couchbase takes it: seconds since the epoch.

use std::time::{SystemTime, UNIX_EPOCH};

use connect_core::expiry::Ends;

/// Expiries up to this would be taken for seconds from now.
const LONGEST_RELATIVE_EXPIRY: i64 = 30 * 24 * 60 * 60;

/// What is sent; `None` for a document that lives for ever.
pub fn seconds(ends: Ends) -> Option<u32> {
    let at = match ends {
        Ends::Never => return None,
        Ends::At(at) => at,
        Ends::In(within) => now().saturating_add(within),
    };
    // What lies before the first moment that can be told lies in the past all the same.
    let at = at.div_euclid(1000).clamp(LONGEST_RELATIVE_EXPIRY + 1, u32::MAX.into());
    u32::try_from(at).ok()
}

/// Whether the document is gone the moment it is written.
pub fn is_past(ends: Ends) -> bool {
    matches!(ends, Ends::At(_)) && seconds(ends).is_some_and(|at| i64::from(at) <= now() / 1000)
}

/// Milliseconds since the epoch.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_end_is_one_that_couchbase_takes_for_another() {
        assert_eq!(seconds(Ends::Never), None);
        assert_eq!(seconds(Ends::At(1_700_003_600_999)), Some(1_700_003_600));
        for ancient in [i64::MIN, -1, 0, 2_592_000_000] {
            assert_eq!(seconds(Ends::At(ancient)), Some(2_592_001), "never a number that means seconds from now");
            assert!(is_past(Ends::At(ancient)));
        }
        assert_eq!(seconds(Ends::At(i64::MAX)), Some(u32::MAX));
        assert!(!is_past(Ends::At(i64::MAX)) && !is_past(Ends::Never));
    }

    #[test]
    fn a_life_that_begins_with_the_write_is_counted_then() {
        let before = now() / 1000;
        let end = i64::from(seconds(Ends::In(60_000)).unwrap());
        assert!((before + 60..=now() / 1000 + 60).contains(&end), "{before} {end}");
        assert_eq!(seconds(Ends::In(i64::MAX)), Some(u32::MAX));
        assert!(!is_past(Ends::In(0)));
    }
}
