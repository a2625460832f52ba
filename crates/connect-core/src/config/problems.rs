//! Everything that is wrong with a configuration, told in one go.

use std::fmt;

use super::Origin;

/// What is wrong, one line a problem; empty when nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    lines: Vec<String>,
}

impl Problems {
    /// A variable is wrong in the place that set it.
    pub(super) fn add(&mut self, variable: &str, origin: &Origin, message: impl fmt::Display) {
        self.lines.push(format!("{variable} ({origin}): {message}"));
    }

    /// Something is wrong that no single place can be blamed for.
    pub(super) fn note(&mut self, message: impl Into<String>) {
        self.lines.push(message.into());
    }

    /// One line a problem, in the order of the reference.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lines.len() {
            1 => write!(f, "the configuration has a problem:")?,
            many => write!(f, "the configuration has {many} problems:")?,
        }
        for line in &self.lines {
            write!(f, "\n- {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
