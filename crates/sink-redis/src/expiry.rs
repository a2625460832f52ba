//! When a key ends.

use std::time::Duration;

use connect_core::config::Setting;
use connect_core::expiry::{self, ExpiryFrom};
use connect_core::{Record, Rejection};

/// `CONNECT_REDIS_TTL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// This long.
    For(Duration),
    /// As long as the key would have lived without this write.
    Keep,
}

impl Setting for Ttl {
    fn expected() -> String {
        "a duration such as `30s` or `12h`, or `keep`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == "keep" {
            return Ok(Self::Keep);
        }
        let duration = <Duration as Setting>::parse(text)?;
        if duration.as_millis() == 0 {
            return Err("a key must live for at least 1ms; unset it for keys that live for ever".to_owned());
        }
        if duration.as_millis() > 1 << 52 {
            return Err("Redis counts no time as long as that; unset it for keys that live for ever".to_owned());
        }
        Ok(Self::For(duration))
    }
}

/// When the keys of a connector end.
#[derive(Clone, Debug)]
pub struct Expiry {
    keeps: bool,
    counted: expiry::Expiry,
}

/// When one key ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Never.
    Never,
    /// When it would have ended.
    Kept,
    /// At this time, milliseconds since the epoch, at least 1.
    At(i64),
    /// This many milliseconds after the write.
    In(i64),
}

impl Expiry {
    /// By these settings.
    pub fn new(ttl: Option<Ttl>, from: ExpiryFrom) -> Self {
        let (keeps, life) = match ttl {
            Some(Ttl::Keep) => (true, None),
            Some(Ttl::For(life)) => (false, Some(life)),
            None => (false, None),
        };
        Self { keeps, counted: expiry::Expiry::new("CONNECT_REDIS_TTL", life, from) }
    }

    /// When what this record writes ends.
    ///
    /// # Errors
    /// The record lacks the time to count from.
    pub fn of(&self, record: &Record) -> Result<Ends, Rejection> {
        if self.keeps {
            return Ok(Ends::Kept);
        }
        Ok(match self.counted.of(record)? {
            expiry::Ends::Never => Ends::Never,
            expiry::Ends::At(at) => Ends::At(at.clamp(1, MOST)),
            expiry::Ends::In(within) => Ends::In(within),
        })
    }
}

/// Redis refuses times that overflow when it adds to them.
const MOST: i64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use connect_core::Header;

    fn record(timestamp: i64, expires: &'static str) -> Record {
        Record {
            topic: "t".into(),
            partition: 0,
            offset: 0,
            timestamp,
            key: None,
            value: Some(Bytes::from(format!("{{\"ends\":\"{expires}\"}}"))),
            headers: vec![Header { key: "ends".into(), value: Some(expires.into()) }],
        }
    }

    fn of(ttl: Option<&str>, from: &str, record: &Record) -> Result<Ends, String> {
        let ttl = ttl.map(|ttl| Ttl::parse(ttl).unwrap());
        Expiry::new(ttl, ExpiryFrom::parse(from).unwrap()).of(record).map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn a_key_may_keep_the_end_that_it_has() {
        assert_eq!(of(None, "timestamp", &record(5, "")), Ok(Ends::Never));
        assert_eq!(of(Some("1s"), "timestamp", &record(5, "")), Ok(Ends::At(1_005)));
        assert_eq!(of(Some("1s"), "now", &record(-1, "")), Ok(Ends::In(1_000)));
        for from in ["timestamp", "header:ends"] {
            assert_eq!(of(Some("keep"), from, &record(5, "7000")), Ok(Ends::Kept));
        }
        assert!(of(Some("1s"), "timestamp", &record(-1, "")).unwrap_err().contains("CONNECT_REDIS_TTL counts"));
    }

    #[test]
    fn no_time_is_one_that_redis_refuses() {
        assert_eq!(of(Some("1s"), "header:ends", &record(0, "-99999999")), Ok(Ends::At(1)));
        assert_eq!(of(Some("1s"), "header:ends", &record(0, "9223372036854775807")), Ok(Ends::At(MOST)));
        for text in ["0s", "1us", "400000years", "5", "", "forever"] {
            assert!(Ttl::parse(text).is_err(), "{text}");
        }
    }
}
