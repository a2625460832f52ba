//! What tells this connector from another one of the same name.

use connect_core::{SinkError, Template};

use crate::config::Command;

/// The field of the hash of offsets that holds it.
pub const FIELD: &str = "fingerprint";

/// Topics, command and key template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    topics: Vec<String>,
    mapping: String,
}

impl Fingerprint {
    /// Of these settings.
    pub fn new(command: Command, key: &Template, topics: &[String]) -> Self {
        Self { topics: topics.to_owned(), mapping: format!("{} {key}", command.name()) }
    }

    /// As it is stored.
    pub fn text(&self) -> String {
        format!("{} {}", self.topics.join(","), self.mapping)
    }

    /// Whether what is stored is this connector's.
    ///
    /// # Errors
    /// It is another's: Fatal.
    pub fn compare(&self, stored: Option<&str>, offsets_key: &str) -> Result<(), SinkError> {
        if stored.is_some_and(|stored| self.accepts(stored)) {
            return Ok(());
        }
        Err(SinkError::fatal(format!(
            "the hash {offsets_key} in Redis belongs to another connector of the same name: it holds the offsets of {:?}, \
             this one is {:?}. Choose another CONNECT_NAME; or, if this connector was changed on purpose and may write \
             everything again, delete {offsets_key}",
            stored.unwrap_or("nobody"),
            self.text()
        )))
    }

    /// Topics may come and go, but not all at once. A topic's name holds no space.
    fn accepts(&self, stored: &str) -> bool {
        let Some((topics, mapping)) = stored.split_once(' ') else { return false };
        let shared = topics.split(',').any(|topic| self.topics.iter().any(|own| own == topic));
        shared && mapping == self.mapping
    }
}
