//! What a record becomes in Redis: pure, no I/O.

use bytes::Bytes;
use connect_core::{Record, Rejection};

use crate::config::RedisConfig;

/// What is done to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The key.
    pub key: Bytes,
    /// What happens to it.
    pub action: Action,
    /// When it ends, milliseconds since the epoch.
    pub expire_at: Option<i64>,
}

/// What happens to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The key holds these bytes from now on.
    Set(Bytes),
    /// The key is gone from now on.
    Delete,
}

impl Op {
    /// Bytes that it takes in a request, about.
    pub fn bytes(&self) -> usize {
        let value = match &self.action {
            Action::Set(value) => value.len(),
            Action::Delete => 0,
        };
        self.key.len() + value
    }

    /// Whether it is a command of its own in a script, so that an error of that command is an error of this record.
    pub fn alone(&self) -> bool {
        matches!(self.action, Action::Set(_)) && self.expire_at.is_some()
    }
}

/// Makes the operation of a record.
///
/// # Errors
/// A [`Rejection`] that names what the record lacks.
pub fn prepare(config: &RedisConfig, record: &Record) -> Result<Option<Op>, Rejection> {
    let key = config.key.render(record)?;
    if record.value.is_none() {
        return Ok(Some(Op { key, action: Action::Delete, expire_at: None }));
    }
    let value = config.value.render(record)?;
    let expire_at = match config.ttl {
        None => None,
        Some(ttl) if record.timestamp >= 0 => {
            let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
            Some(record.timestamp.saturating_add(ttl))
        }
        Some(_) => return Err(Rejection::new("CONNECT_REDIS_TTL counts from the record's timestamp, and it has none")),
    };
    Ok(Some(Op { key, action: Action::Set(value), expire_at }))
}
