//! The `check` command: can everything be reached and used?

use std::collections::BTreeMap;

use crate::config::{Configuration, DeadLettersChoice};
use crate::connector::{Connector, Context};
use crate::kafka::Connection;
use crate::retry::bounded;
use crate::sink::Sink;

/// What was looked at, and what was found.
#[derive(Clone, Debug)]
pub struct Line {
    /// `Kafka`, `topics`, `store`.
    pub what: &'static str,
    /// What was found, or what is wrong and what to do.
    pub result: Result<String, String>,
}

/// Looks at Kafka, the topics and the store. Changes nothing.
pub async fn check<C: Connector>(configuration: Configuration<C::Config>) -> Vec<Line> {
    let topics = list(&configuration).await;
    let kafka =
        topics.as_ref().map(|topics| format!("it answers; topics to be seen: {}", topics.len())).map_err(Clone::clone);
    let ours = match &topics {
        Ok(topics) => ours(&configuration, topics),
        Err(_) => Err("Kafka could not be asked".to_owned()),
    };
    let store = store::<C>(configuration).await;
    vec![
        Line { what: "Kafka", result: kafka },
        Line { what: "topics", result: ours },
        Line { what: "store", result: store },
    ]
}

/// Partitions by topic.
async fn list<C>(configuration: &Configuration<C>) -> Result<BTreeMap<String, usize>, String> {
    let connection = Connection::new(configuration.kafka.clone());
    let topics = connection.topics().await.map_err(|error| error.to_string())?;
    Ok(topics.into_iter().map(|(topic, partitions)| (topic, partitions.len())).collect())
}

fn ours<C>(configuration: &Configuration<C>, there: &BTreeMap<String, usize>) -> Result<String, String> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    let topics = &configuration.kafka.topics;
    if let Some(pattern) = topics.pattern() {
        // Checked when the configuration was read.
        let pattern = regex::Regex::new(pattern).map_err(|error| error.to_string())?;
        let dead_letters = configuration.core.dead_letters.topic();
        let taken = there.iter().filter(|(name, _)| pattern.is_match(name) && Some(name.as_str()) != dead_letters);
        found.extend(taken.map(|(topic, partitions)| format!("{topic} with {partitions} partitions")));
        if found.is_empty() {
            found.push("none matches CONNECT_KAFKA_TOPICS yet".to_owned());
        }
    }
    for topic in topics.names().iter().filter(|_| topics.pattern().is_none()) {
        match there.get(topic) {
            Some(partitions) => found.push(format!("{topic} with {partitions} partitions")),
            None => missing.push(topic.as_str()),
        }
    }
    if !missing.is_empty() {
        return Err(format!("not there: {}; create them or change CONNECT_KAFKA_TOPICS", missing.join(", ")));
    }
    if let DeadLettersChoice::Topic(topic) = &configuration.core.dead_letters {
        let state = if there.contains_key(topic) { "is there" } else { "will be created" };
        found.push(format!("dead-letter topic {topic} {state}"));
    }
    Ok(found.join(", "))
}

async fn store<C: Connector>(configuration: Configuration<C::Config>) -> Result<String, String> {
    let limit = configuration.core.write_timeout;
    let context = Context::new(&configuration);
    let sink = C::sink(configuration.sink, context).await?;
    bounded(limit, sink.check()).await.map_err(|error| error.to_string())?;
    Ok("it can be used".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    crate::section! {
        /// Nothing of note.
        struct Store = "STORE" {
            /// A size.
            size: u16 = "1",
        }
    }

    fn look(dead_letters: &str, there: &[(&str, usize)]) -> Result<String, String> {
        let pairs = [
            ("CONNECT_NAME", "orders"),
            ("CONNECT_KAFKA_BROKERS", "kafka:9092"),
            ("CONNECT_KAFKA_TOPICS", "orders,clicks"),
            ("CONNECT_DEAD_LETTERS", dead_letters),
        ];
        let configuration = Configuration::<Store>::load(&Layers::from_environment(pairs)).expect("valid");
        assert_eq!(configuration.sink.size, 1);
        ours(&configuration, &there.iter().map(|(topic, partitions)| ((*topic).to_owned(), *partitions)).collect())
    }

    #[test]
    fn every_topic_is_looked_for() {
        let found = look("stop", &[("clicks", 2), ("orders", 4), ("other", 1)]);
        assert_eq!(found.as_deref(), Ok("orders with 4 partitions, clicks with 2 partitions"));
        let missing = look("topic:dead", &[("clicks", 2), ("dead", 1)]).expect_err("missing");
        assert!(missing.starts_with("not there: orders; create them"), "{missing}");
    }

    #[test]
    fn the_dead_letter_topic_may_be_missing() {
        let both = [("clicks", 2), ("orders", 4)];
        assert!(look("topic:dead", &both).expect("fine").ends_with("dead-letter topic dead will be created"));
        let all = [&both[..], &[("dead", 1)]].concat();
        assert!(look("topic:dead", &all).expect("fine").ends_with("dead-letter topic dead is there"));
    }
}
