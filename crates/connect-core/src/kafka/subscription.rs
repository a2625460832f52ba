//! Which topics are read: a list of names, or a pattern.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;

use super::error::KafkaError;
use super::wire::{Cluster, TopicMetadata};
use crate::config::Topics;

/// The topics of `CONNECT_KAFKA_TOPICS`.
#[derive(Clone)]
pub enum Subscription {
    /// Exactly these.
    Names(Vec<Arc<str>>),
    /// Every topic that matches, but never Kafka's own, nor the one that our dead letters go to.
    Pattern {
        /// Matches from the beginning of the name; the end is open unless it says `$`.
        pattern: Regex,
        /// The dead-letter topic.
        except: Option<Arc<str>>,
    },
}

impl Subscription {
    /// Takes the setting.
    ///
    /// # Errors
    /// The pattern is no regular expression; the configuration has checked that already.
    pub fn new(topics: &Topics, dead_letter_topic: Option<&str>) -> Result<Self, KafkaError> {
        let Some(pattern) = topics.pattern() else {
            return Ok(Self::Names(topics.names().iter().map(|name| name.as_str().into()).collect()));
        };
        let pattern =
            Regex::new(pattern).map_err(|error| KafkaError::fatal(format!("CONNECT_KAFKA_TOPICS: {error}")))?;
        Ok(Self::Pattern { pattern, except: dead_letter_topic.map(Into::into) })
    }

    /// The topics that exist now.
    ///
    /// # Errors
    /// As for [`Cluster::topics`].
    pub async fn look_up(&self, cluster: &Cluster) -> Result<BTreeMap<Arc<str>, TopicMetadata>, KafkaError> {
        let names = match self {
            Self::Names(names) => Some(names.as_slice()),
            Self::Pattern { .. } => None,
        };
        let found = cluster.topics(names).await?;
        let ours = found.into_iter().filter(|topic| self.takes(topic));
        Ok(ours.map(|topic| (Arc::clone(&topic.name), topic)).collect())
    }

    fn takes(&self, topic: &TopicMetadata) -> bool {
        match self {
            Self::Names(_) => true,
            Self::Pattern { pattern, except } => {
                !topic.internal && pattern.is_match(&topic.name) && except.as_ref() != Some(&topic.name)
            }
        }
    }

    /// The names that must exist.
    pub fn names(&self) -> &[Arc<str>] {
        match self {
            Self::Names(names) => names,
            Self::Pattern { .. } => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Setting;

    #[test]
    fn a_pattern_takes_neither_internal_topics_nor_our_dead_letters() {
        let topics = Topics::parse("^(orders|__)").expect("a pattern");
        let subscription = Subscription::new(&topics, Some("orders-dead")).expect("a pattern");
        let takes = |name: &str, internal| {
            subscription.takes(&TopicMetadata { name: name.into(), id: None, internal, partitions: vec![0] })
        };
        assert!(takes("orders", false) && takes("orders-eu", false));
        assert!(!takes("my-orders", false), "from the beginning of the name");
        assert!(!takes("orders-dead", false));
        assert!(!takes("__consumer_offsets", true));
    }
}
