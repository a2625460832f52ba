//! When a key ends: an absolute time that a replay computes again, so that it can't be prolonged by one.

use std::str::FromStr;
use std::time::Duration;

use connect_core::config::{Setting, from_str};
use connect_core::{Record, Rejection, Template};

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

/// `CONNECT_REDIS_TTL_FROM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TtlFrom {
    /// The record's timestamp.
    Timestamp,
    /// The moment of the write.
    Now,
    /// A time that the record holds: milliseconds since the epoch, or a date and time as in RFC 3339.
    Record(Template),
}

impl FromStr for TtlFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let placeholder = match text {
            "timestamp" => return Ok(Self::Timestamp),
            "now" => return Ok(Self::Now),
            _ => text.strip_prefix("header:").map_or_else(|| text.to_owned(), |name| format!("header.{name}")),
        };
        if !["header.", "value.", "key."].iter().any(|start| placeholder.starts_with(start)) {
            return Err(String::new());
        }
        from_str(&format!("{{{placeholder}}}")).map(Self::Record)
    }
}

impl Setting for TtlFrom {
    fn expected() -> String {
        "`timestamp`, `now`, `header:NAME`, `value.PATH` or `key.PATH`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

/// When the keys of a connector end.
#[derive(Clone, Debug)]
pub struct Expiry {
    ttl: Option<Ttl>,
    from: TtlFrom,
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
    pub fn new(ttl: Option<Ttl>, from: TtlFrom) -> Self {
        Self { ttl, from }
    }

    /// When what this record writes ends.
    ///
    /// # Errors
    /// The record lacks the time to count from.
    pub fn of(&self, record: &Record) -> Result<Ends, Rejection> {
        let duration = match self.ttl {
            Some(Ttl::Keep) => return Ok(Ends::Kept),
            Some(Ttl::For(duration)) => i64::try_from(duration.as_millis()).unwrap_or(i64::MAX),
            // A time that the record names is its end.
            None if matches!(self.from, TtlFrom::Record(_)) => 0,
            None => return Ok(Ends::Never),
        };
        let start = match &self.from {
            TtlFrom::Now => return Ok(Ends::In(duration)),
            TtlFrom::Timestamp if record.timestamp < 0 => {
                return Err(Rejection::new("the record has no timestamp, which CONNECT_REDIS_TTL counts from"));
            }
            TtlFrom::Timestamp => record.timestamp,
            TtlFrom::Record(template) => time(&template.render(record)?).ok_or_else(|| {
                Rejection::new(format!(
                    "{template} is no time: CONNECT_REDIS_TTL_FROM wants milliseconds since the epoch or a date and time \
                     as in 2030-01-31T12:00:00Z"
                ))
            })?,
        };
        Ok(Ends::At(start.saturating_add(duration).clamp(1, MOST)))
    }
}

/// Redis refuses times that overflow when it adds to them.
const MOST: i64 = 1 << 60;

fn time(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().or_else(|| Some(chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis()))
}

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
        Expiry::new(ttl, from.parse().unwrap()).of(record).map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn counts_from_what_is_chosen() {
        assert_eq!(of(None, "timestamp", &record(5, "")), Ok(Ends::Never));
        assert_eq!(of(Some("1s"), "timestamp", &record(5, "")), Ok(Ends::At(1_005)));
        assert_eq!(of(Some("1s"), "now", &record(-1, "")), Ok(Ends::In(1_000)));
        assert_eq!(of(Some("keep"), "timestamp", &record(5, "")), Ok(Ends::Kept));
        for from in ["header:ends", "value.ends"] {
            assert_eq!(of(Some("1s"), from, &record(-1, "7000")), Ok(Ends::At(8_000)));
            assert_eq!(of(None, from, &record(-1, "1970-01-01T00:00:09Z")), Ok(Ends::At(9_000)));
            assert!(of(None, from, &record(-1, "soon")).unwrap_err().contains("ends} is no time"));
        }
        assert!(of(Some("1s"), "timestamp", &record(-1, "")).unwrap_err().contains("CONNECT_REDIS_TTL"));
        assert!(of(None, "header:other", &record(-1, "1")).unwrap_err().contains("{header.other}"));
    }

    #[test]
    fn no_time_is_one_that_redis_refuses() {
        assert_eq!(of(Some("1s"), "header:ends", &record(0, "-99999999")), Ok(Ends::At(1)));
        assert_eq!(of(Some("1s"), "header:ends", &record(0, "9223372036854775807")), Ok(Ends::At(MOST)));
        for text in ["0s", "1us", "400000years", "5", "", "forever"] {
            assert!(Ttl::parse(text).is_err(), "{text}");
        }
        for text in ["", "later", "header:", "offset"] {
            assert!(TtlFrom::parse(text).is_err(), "{text}");
        }
    }
}
