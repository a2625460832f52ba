//! The section of every connector: names, limits, errors, observation.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use tracing_subscriber::EnvFilter;

use super::kafka::check_topic;
use super::{KafkaConfig, Setting, from_str};
use crate::settings::{Settings, Tombstones};
use crate::{section, words};

section! {
    /// What every connector has.
    pub struct CoreConfig = "" {
        /// Name of this connector: the offsets stored are kept under it. Another name starts anew.
        pub name: Name,
        /// Counts how often this connector was made to write everything again, by `offsets reset --new-epoch`, which says what to
        /// set. A store that refuses older records (Elasticsearch, Couchbase) takes those of a higher epoch for newer.
        pub epoch: Epoch = "0",
        /// What a record with a null value means: `delete` what its key names, `ignore` it, or `reject` it as a record
        /// that can't be written.
        pub tombstones: Tombstones = "delete",
        /// What happens to a record that can never be written. `stop`: its partition stays where it is until a person acts,
        /// the others go on. `topic:NAME`: the record goes to that topic, with headers that say where it was and what was wrong.
        /// `drop`: it is counted and forgotten.
        pub dead_letters: DeadLettersChoice = "stop",
        /// Partitions of the dead-letter topic, when it is created. Not set: as the broker does by default.
        pub dead_letters_partitions: Option<NonZeroU16>,
        /// Replicas of the dead-letter topic, when it is created. Not set: as the broker does by default.
        pub dead_letters_replication: Option<NonZeroU16>,
        /// This process's part when several share the partitions without a group, as in `0/3` of three (counted from 0). Only
        /// with `CONNECT_KAFKA_ASSIGNMENT=static`.
        pub shard: Option<Shard>,
        /// Memory for everything in flight, all partitions together.
        pub memory: ByteSize = "24MiB",
        /// Threads that do the work. One carries some 100,000 records a second and hands nothing from core to core; more are for TLS
        /// or for topics compressed with zstd where one does not keep up.
        pub threads: NonZeroUsize = "1",
        /// The most operations in one write.
        pub batch_records: NonZeroUsize = "4000",
        /// A batch is closed once its records hold this many bytes.
        pub batch_bytes: ByteSize = "4MiB",
        /// Records a second, at most, of the whole process. Not set: no limit.
        pub rate: Option<NonZeroU32>,
        /// A write that takes longer counts as failed and is tried again.
        pub write_timeout: Duration = "30s",
        /// How long a stop waits for what is in hand. Kubernetes kills after `terminationGracePeriodSeconds`, 30 s by default:
        /// stay below it.
        pub drain_timeout: Duration = "25s",
        /// Where `/livez`, `/readyz` and `/metrics` are served.
        pub admin_listen: SocketAddr = "0.0.0.0:9464",
        /// `pretty` for people, `json` for machines. Not set: `pretty` on a terminal, else `json`.
        pub log_format: Option<LogFormat>,
        /// What is logged: a level, or a filter such as `info,connect_core=debug`.
        pub log: LogFilter = "info,fred=error,rskafka=error",
        /// A TOML file with further settings, under the environment: `kafka.brokers` in it is `CONNECT_KAFKA_BROKERS`.
        /// Only in the environment.
        pub config: Option<PathBuf>,
    }
    rule (dead_letters, dead_letters_partitions, dead_letters_replication) {
        let created = dead_letters_partitions.is_some() || dead_letters_replication.is_some();
        (created && dead_letters.topic().is_none()).then(|| "a topic is created for `topic:NAME` only".to_owned())
    }
    rule (memory) {
        (memory.as_u64() < ByteSize::mib(1).as_u64()).then(|| "expected at least 1MiB".to_owned())
    }
    rule (threads) {
        (threads.get() > 256).then(|| "expected at most 256".to_owned())
    }
    rule (batch_bytes, memory) {
        (batch_bytes > memory).then(|| "a batch can't be larger than the memory".to_owned())
    }
    rule (batch_bytes) {
        (batch_bytes.as_u64() == 0).then(|| "expected at least one byte".to_owned())
    }
    rule (write_timeout) {
        write_timeout.is_zero().then(|| "expected more than nothing".to_owned())
    }
}

/// `CONNECT_EPOCH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u16);

impl Epoch {
    /// With an offset below 2^48 it makes a positive number of 64 bits, as Elasticsearch's versions are.
    pub(crate) const HIGHEST: u16 = i16::MAX as u16;

    /// The number, 0 to 32767.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Setting for Epoch {
    fn expected() -> String {
        format!("a whole number from 0 to {}", Self::HIGHEST)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let epoch = from_str(text)?;
        if epoch > Self::HIGHEST { Err(String::new()) } else { Ok(Self(epoch)) }
    }
}

/// The part of one process of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 0.
    pub index: u32,
    /// Of how many.
    pub count: u32,
}

impl Setting for Shard {
    fn expected() -> String {
        "a part and their number, such as `0/3`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (index, count) = text.split_once('/').ok_or_else(String::new)?;
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| String::new());
        let shard = Self { index: number(index)?, count: number(count)? };
        if shard.index >= shard.count {
            return Err("parts are counted from 0, so the last of three is `2/3`".to_owned());
        }
        Ok(shard)
    }
}

impl CoreConfig {
    /// The settings of the pipeline.
    pub fn settings(&self, kafka: &KafkaConfig) -> Settings {
        Settings {
            tombstones: self.tombstones,
            batch_records: self.batch_records.get(),
            batch_bytes: bytes(self.batch_bytes),
            write_timeout: self.write_timeout,
            drain_timeout: self.drain_timeout,
            rate: self.rate.map(NonZeroU32::get),
            start: kafka.start,
            stop: kafka.stop,
            out_of_range: kafka.out_of_range,
            // Another one in each process, so that the pods do not all come back at once.
            jitter_seed: RandomState::new().build_hasher().finish(),
        }
    }

    /// `CONNECT_MEMORY` in bytes.
    pub fn memory_bytes(&self) -> usize {
        bytes(self.memory)
    }
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

words!(Tombstones { "delete" => Delete, "ignore" => Ignore, "reject" => Reject });

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

words!(LogFormat { "pretty" => Pretty, "json" => Json });

/// The name of a connector: it stands in keys of stores and in group names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for Name {
    fn expected() -> String {
        "a name of 1 to 200 characters without control characters and without space at its ends".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let right =
            (1..=200).contains(&text.chars().count()) && text == text.trim() && !text.contains(char::is_control);
        right.then(|| Self(text.to_owned())).ok_or_else(String::new)
    }
}

/// `CONNECT_DEAD_LETTERS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLettersChoice {
    /// The partition stays where it is.
    Stop,
    /// To this topic.
    Topic(String),
    /// Counted and forgotten.
    Drop,
}

impl DeadLettersChoice {
    /// The topic, when it is one.
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::Topic(topic) => Some(topic),
            Self::Stop | Self::Drop => None,
        }
    }
}

impl Setting for DeadLettersChoice {
    fn expected() -> String {
        "one of `stop` `topic:NAME` `drop`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text.eq_ignore_ascii_case("stop") => Ok(Self::Stop),
            None if text.eq_ignore_ascii_case("drop") => Ok(Self::Drop),
            Some((word, topic)) if word.eq_ignore_ascii_case("topic") => {
                check_topic(topic)?;
                Ok(Self::Topic(topic.to_owned()))
            }
            _ => Err(String::new()),
        }
    }
}

/// A filter of `tracing-subscriber` that was found to be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for LogFilter {
    fn expected() -> String {
        "a level (`error` `warn` `info` `debug` `trace`) or a filter such as `info,connect_core=debug`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("it is empty".to_owned());
        }
        EnvFilter::try_new(text).map(|_| Self(text.to_owned())).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Problems, Section};
    use super::*;

    fn problem(pairs: &[(&str, &str)]) -> String {
        let pairs = [&[("CONNECT_NAME", "orders")], pairs].concat();
        let problems: Problems = CoreConfig::from_pairs(&pairs).expect_err("a problem");
        assert_eq!(problems.lines().len(), 1, "{problems}");
        problems.lines()[0].clone()
    }

    #[test]
    fn the_defaults_are_those_of_the_pipeline() {
        let core = CoreConfig::from_pairs(&[("CONNECT_NAME", "orders")]).expect("valid");
        let brokers = [("CONNECT_KAFKA_BROKERS", "a:1"), ("CONNECT_KAFKA_TOPICS", "t")];
        let kafka = KafkaConfig::from_pairs(&brokers).expect("valid");
        let settings = core.settings(&kafka);
        let expected = Settings { jitter_seed: settings.jitter_seed, ..Settings::default() };
        assert_eq!(format!("{settings:?}"), format!("{expected:?}"));
        assert_eq!(core.memory_bytes(), 24 << 20);
        assert_eq!(core.dead_letters, DeadLettersChoice::Stop);
        assert_eq!(core.admin_listen.to_string(), "0.0.0.0:9464");
        assert_eq!(core.drain_timeout, Duration::from_secs(25));
    }

    #[test]
    fn what_is_set_reaches_the_pipeline() {
        let core = CoreConfig::from_pairs(&[
            ("CONNECT_NAME", "orders"),
            ("CONNECT_TOMBSTONES", "reject"),
            ("CONNECT_BATCH_RECORDS", "7"),
            ("CONNECT_BATCH_BYTES", "8KiB"),
            ("CONNECT_RATE", "9"),
            ("CONNECT_WRITE_TIMEOUT", "10s"),
            ("CONNECT_DRAIN_TIMEOUT", "0s"),
        ]);
        let kafka = KafkaConfig::from_pairs(&[
            ("CONNECT_KAFKA_BROKERS", "a:1"),
            ("CONNECT_KAFKA_TOPICS", "t"),
            ("CONNECT_KAFKA_START", "offset:11"),
            ("CONNECT_KAFKA_STOP", "end"),
            ("CONNECT_KAFKA_OUT_OF_RANGE", "latest"),
        ]);
        let settings = core.expect("valid").settings(&kafka.expect("valid"));
        let expected = Settings {
            tombstones: Tombstones::Reject,
            batch_records: 7,
            batch_bytes: 8 << 10,
            write_timeout: Duration::from_secs(10),
            drain_timeout: Duration::ZERO,
            rate: Some(9),
            start: crate::Start::Offset(11),
            stop: crate::Stop::End,
            out_of_range: crate::OutOfRange::Latest,
            jitter_seed: settings.jitter_seed,
        };
        assert_eq!(format!("{settings:?}"), format!("{expected:?}"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (pairs, part) in [
            (&[("CONNECT_NAME", " orders")][..], "without space at its ends, got \" orders\""),
            (&[("CONNECT_NAME", "")], "a name of 1 to 200"),
            (&[("CONNECT_TOMBSTONES", "keep")], "one of `delete` `ignore` `reject`, got \"keep\""),
            (&[("CONNECT_MEMORY", "24 MiBi")], "a size such as `64MiB`"),
            (&[("CONNECT_MEMORY", "1KiB"), ("CONNECT_BATCH_BYTES", "1KiB")], "at least 1MiB"),
            (&[("CONNECT_BATCH_BYTES", "25MiB")], "CONNECT_MEMORY (default): a batch can't be larger"),
            (&[("CONNECT_BATCH_BYTES", "0")], "at least one byte"),
            (&[("CONNECT_BATCH_RECORDS", "0")], "a whole number from 1"),
            (&[("CONNECT_EPOCH", "32768")], "a whole number from 0 to 32767, got \"32768\""),
            (&[("CONNECT_RATE", "-1")], "a whole number from 1"),
            (&[("CONNECT_WRITE_TIMEOUT", "0s")], "more than nothing"),
            (&[("CONNECT_ADMIN_LISTEN", "9464")], "an IP address and a port"),
            (&[("CONNECT_LOG", "connect=loud")], "a filter such as"),
            (&[("CONNECT_LOG_FORMAT", "xml")], "one of `pretty` `json`"),
            (&[("CONNECT_DEAD_LETTERS", "topic:")], "a name is missing"),
            (&[("CONNECT_DEAD_LETTERS", "topic:a/b")], "\"a/b\" is no name of a topic"),
            (&[("CONNECT_DEAD_LETTERS", "keep")], "one of `stop` `topic:NAME` `drop`"),
            (&[("CONNECT_DEAD_LETTERS_PARTITIONS", "3")], "for `topic:NAME` only"),
        ] {
            let problem = problem(pairs);
            assert!(problem.contains(part), "{pairs:?}: {problem}");
        }
    }

    #[test]
    fn dead_letters_go_where_they_are_told() {
        for (text, choice) in [
            ("stop", DeadLettersChoice::Stop),
            ("drop", DeadLettersChoice::Drop),
            ("topic:orders.dead", DeadLettersChoice::Topic("orders.dead".to_owned())),
        ] {
            assert_eq!(DeadLettersChoice::parse(text), Ok(choice));
        }
    }
}
