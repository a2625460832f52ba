//! What goes wrong with Kafka, said so that the reader knows what to do.

use crate::assignment::{AssignmentError, CommitError};
use crate::source::SourceError;

/// Why something asked of Kafka did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// It may work later.
    #[error("{message}")]
    Transient {
        /// A word for the `reason` label of `connect_retries_total`.
        reason: &'static str,
        /// What happened and what to do if it stays so.
        message: String,
    },
    /// A person must change something.
    #[error("{0}")]
    Fatal(String),
}

impl KafkaError {
    /// An error that may pass.
    pub fn transient(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Transient { reason, message: message.into() }
    }

    /// An error that stops the process.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::Fatal(message.into())
    }

    /// The configuration refuses this already; nothing else may rely on that.
    pub(super) fn no_credentials() -> Self {
        Self::fatal(
            "CONNECT_KAFKA_SECURITY asks for SASL: set CONNECT_KAFKA_SASL_MECHANISM, CONNECT_KAFKA_SASL_USERNAME and \
             CONNECT_KAFKA_SASL_PASSWORD",
        )
    }
}

impl From<KafkaError> for SourceError {
    fn from(error: KafkaError) -> Self {
        match error {
            KafkaError::Transient { reason, message } => Self::Transient { reason, message },
            KafkaError::Fatal(message) => Self::Fatal(message),
        }
    }
}

impl From<KafkaError> for CommitError {
    fn from(error: KafkaError) -> Self {
        match error {
            KafkaError::Transient { message, .. } => Self::Transient(message),
            KafkaError::Fatal(message) => Self::Fatal(message),
        }
    }
}

impl From<KafkaError> for AssignmentError {
    fn from(error: KafkaError) -> Self {
        Self(error.to_string())
    }
}
