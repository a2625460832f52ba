//! When what a record writes ends: an absolute time that a replay computes again, so that it can't be prolonged by one.

use std::time::Duration;

use crate::config::{Setting, from_str};
use crate::record::Record;
use crate::sink::Rejection;
use crate::template::Template;

/// What a life is counted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpiryFrom {
    /// The record's timestamp.
    Timestamp,
    /// The moment of the write.
    Now,
    /// A time that the record holds: milliseconds since the epoch, or a date and time as in RFC 3339.
    Record(Template),
}

impl Setting for ExpiryFrom {
    fn expected() -> String {
        "`timestamp`, `now`, `header:NAME`, `value.PATH` or `key.PATH`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
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

/// When something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Never.
    Never,
    /// At this time, milliseconds since the epoch; any number at all where the record names it.
    At(i64),
    /// This many milliseconds after the write.
    In(i64),
}

/// How long things live, and what that is counted from.
#[derive(Clone, Debug)]
pub struct Expiry {
    setting: &'static str,
    life: Option<Duration>,
    from: ExpiryFrom,
}

impl Expiry {
    /// By these settings: `setting` names the one of the life, and with `_FROM` behind it the other one.
    pub fn new(setting: &'static str, life: Option<Duration>, from: ExpiryFrom) -> Self {
        Self { setting, life, from }
    }

    /// When what this record writes ends.
    ///
    /// # Errors
    /// The record lacks the time to count from.
    pub fn of(&self, record: &Record) -> Result<Ends, Rejection> {
        let setting = self.setting;
        let life = match self.life {
            Some(life) => i64::try_from(life.as_millis()).unwrap_or(i64::MAX),
            // A time that the record names is its end.
            None if matches!(self.from, ExpiryFrom::Record(_)) => 0,
            None => return Ok(Ends::Never),
        };
        let start = match &self.from {
            ExpiryFrom::Now => return Ok(Ends::In(life)),
            ExpiryFrom::Timestamp if record.timestamp < 0 => {
                return Err(Rejection::new(format!("the record has no timestamp, which {setting} counts from")));
            }
            ExpiryFrom::Timestamp => record.timestamp,
            ExpiryFrom::Record(template) => time(&template.render(record)?).ok_or_else(|| {
                Rejection::new(format!(
                    "{template} is no time: {setting}_FROM wants milliseconds since the epoch or a date and time as in \
                     2030-01-31T12:00:00Z"
                ))
            })?,
        };
        Ok(Ends::At(start.saturating_add(life)))
    }
}

fn time(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().or_else(|| Some(chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Header;
    use bytes::Bytes;

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

    fn of(seconds: Option<u64>, from: &str, record: &Record) -> Result<Ends, String> {
        let life = seconds.map(Duration::from_secs);
        let expiry = Expiry::new("CONNECT_X_TTL", life, ExpiryFrom::parse(from).unwrap());
        expiry.of(record).map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn counts_from_what_is_chosen() {
        assert_eq!(of(None, "timestamp", &record(5, "")), Ok(Ends::Never));
        assert_eq!(of(None, "now", &record(5, "")), Ok(Ends::Never));
        assert_eq!(of(Some(1), "timestamp", &record(5, "")), Ok(Ends::At(1_005)));
        assert_eq!(of(Some(1), "now", &record(-1, "")), Ok(Ends::In(1_000)));
        for from in ["header:ends", "value.ends"] {
            assert_eq!(of(Some(1), from, &record(-1, "7000")), Ok(Ends::At(8_000)));
            assert_eq!(of(None, from, &record(-1, "1970-01-01T00:00:09Z")), Ok(Ends::At(9_000)));
            assert_eq!(of(Some(1), from, &record(-1, "9223372036854775807")), Ok(Ends::At(i64::MAX)));
            let no_time = of(None, from, &record(-1, "soon")).unwrap_err();
            assert!(no_time.contains("ends} is no time: CONNECT_X_TTL_FROM"), "{no_time}");
        }
        assert!(of(Some(1), "timestamp", &record(-1, "")).unwrap_err().contains("CONNECT_X_TTL counts"));
        assert!(of(None, "header:other", &record(-1, "1")).unwrap_err().contains("{header.other}"));
    }

    #[test]
    fn what_is_no_place_of_a_time_is_refused() {
        for text in ["", "later", "header:", "offset"] {
            assert!(ExpiryFrom::parse(text).is_err(), "{text}");
        }
    }
}
