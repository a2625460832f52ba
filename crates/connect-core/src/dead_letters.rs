//! What happens to a record that can never be written.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::record::Record;
use crate::sink::Rejection;

/// The choice of `CONNECT_DEAD_LETTERS`.
#[derive(Clone)]
pub enum DeadLetters {
    /// The partition stays where it is until a person acts; the others go on.
    Stop,
    /// The record goes to a topic, durably, before anything behind it is committed.
    Topic(Arc<dyn DeadLetterTopic>),
    /// The record is counted and forgotten.
    Drop,
}

/// A record that was rejected, and why.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The record as it was.
    pub record: Record,
    /// What was wrong with it.
    pub rejection: Rejection,
}

/// Where dead letters are kept.
pub trait DeadLetterTopic: Send + Sync + 'static {
    /// Makes the letters durable, all of them. Bounded in time; may store some twice when called again.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    fn write<'a>(&'a self, letters: &'a [DeadLetter]) -> BoxFuture<'a, Result<(), DeadLetterError>>;
}

/// Why dead letters are not durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// It may work later: tried again with back-off while the partition waits.
    #[error("{0}")]
    Transient(String),
    /// The broker will never take one of them: the partition behaves as with [`DeadLetters::Stop`].
    #[error("{0}")]
    Refused(String),
}
