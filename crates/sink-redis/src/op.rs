//! What a record becomes in Redis.

use std::sync::Arc;

use bytes::Bytes;

use crate::words::Words;

/// What is done to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The key.
    pub key: Bytes,
    /// What happens to it.
    pub action: Action,
    /// When the key ends, milliseconds since the epoch; to count what was written too late to be seen.
    pub expire_at: Option<i64>,
}

/// What happens to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The key holds these bytes from now on, for ever.
    Set(Bytes),
    /// The key is gone from now on.
    Delete,
    /// Commands, of which only the first may fail because of what is stored.
    Commands(Arc<[Words]>),
}

impl Op {
    /// Bytes that it takes in a request, about.
    pub fn bytes(&self) -> usize {
        match &self.action {
            Action::Set(value) => self.key.len() + value.len(),
            Action::Delete => self.key.len(),
            Action::Commands(commands) => commands.iter().map(|command| command.encoded.len() + 16).sum(),
        }
    }

    /// Whether it is a command of its own in a script, so that an error of that command is an error of this record.
    pub fn alone(&self) -> bool {
        matches!(self.action, Action::Commands(_))
    }
}
