//! Reads a connector's own metrics, and checks that its account adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use connect_core::TopicPartition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// An answer takes no longer.
const LIMIT: Duration = Duration::from_secs(10);

/// What became of the records of one partition, as a process tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Records read, those read again included.
    pub read: u64,
    /// How many of them met which fate, by the label `outcome`.
    pub outcomes: BTreeMap<String, u64>,
}

impl Account {
    /// Records whose fate is open; negative where the account is wrong.
    pub fn in_flight(&self) -> i64 {
        self.read as i64 - self.outcomes.values().sum::<u64>() as i64
    }
}

/// One scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Asks the process that listens at `CONNECT_ADMIN_LISTEN` for its `/metrics`.
    ///
    /// # Errors
    /// When it doesn't answer within ten seconds, not with 200, or with what isn't the text format of Prometheus. While nobody
    /// listens there the kind is [`io::ErrorKind::ConnectionRefused`].
    pub async fn scrape(address: SocketAddr) -> io::Result<Self> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{address} doesn't answer"));
        timeout(LIMIT, Self::get(address)).await.map_err(late)?
    }

    async fn get(address: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: one answer, neither kept alive nor chunked.
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if head.split(' ').nth(1) != Some("200") {
            return Err(io::Error::other(format!("{address}/metrics answers {head}")));
        }
        Self::parse(body)
    }

    /// Reads the text format of Prometheus.
    ///
    /// # Errors
    /// A line isn't of the format; it is quoted.
    pub fn parse(text: &str) -> io::Result<Self> {
        let strange = |line| io::Error::new(io::ErrorKind::InvalidData, format!("not a metric: {line}"));
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).ok_or_else(|| strange(line))).collect::<io::Result<_>>()?;
        Ok(Self { samples })
    }

    /// The sum of the samples of this name that have all of these labels; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        self.samples.iter().filter(|sample| sample.name == name && has(sample)).map(|sample| sample.value).sum()
    }

    /// Whether there is a sample of this name.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }

    /// What a label has as values in the samples of this name.
    pub fn label_values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let samples = self.samples.iter().filter(|sample| sample.name == name);
        samples.filter_map(|sample| sample.labels.get(label)).map(String::as_str).collect()
    }

    /// Records read from Kafka, those read again included.
    pub fn read(&self) -> u64 {
        self.sum("connect_records_read_total", &[]) as u64
    }

    /// Records that are in the store.
    pub fn written(&self) -> u64 {
        self.sum("connect_records_total", &[("outcome", "written")]) as u64
    }

    /// Records that are still to be read.
    pub fn lag(&self) -> u64 {
        self.sum("connect_lag", &[]) as u64
    }

    /// The account of each partition.
    pub fn accounts(&self) -> BTreeMap<TopicPartition, Account> {
        let mut accounts = BTreeMap::<TopicPartition, Account>::new();
        for Sample { name, labels, value } in &self.samples {
            let number = labels.get("partition").and_then(|number| number.parse().ok());
            let (Some(topic), Some(number)) = (labels.get("topic"), number) else { continue };
            let partition = TopicPartition::new(topic.as_str(), number);
            match (name.as_str(), labels.get("outcome")) {
                ("connect_records_read_total", _) => accounts.entry(partition).or_default().read = *value as u64,
                ("connect_records_total", Some(outcome)) => {
                    let outcomes = &mut accounts.entry(partition).or_default().outcomes;
                    outcomes.insert(outcome.clone(), *value as u64);
                }
                _ => {}
            }
        }
        accounts
    }

    /// Checks that every record read has met exactly one fate.
    ///
    /// # Errors
    /// The partitions where the account doesn't add up, and their figures.
    pub fn adds_up(&self) -> Result<(), String> {
        let accounts = self.accounts();
        let wrong: Vec<_> = accounts.iter().filter(|(_, account)| account.in_flight() != 0).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("read is not the sum of the outcomes: {wrong:?}")) }
    }
}

/// `name{label="value",…} 1`, perhaps with a time stamp behind the value.
fn sample(line: &str) -> Option<Sample> {
    let (name, labels, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = labels(rest)?;
            (name, labels, rest)
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            (name, BTreeMap::new(), rest)
        }
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        text = loop {
            match characters.next()? {
                (index, '"') => break &rest[index + 1..],
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
# HELP connect_records_total Records by outcome
# TYPE connect_records_total counter
connect_records_total{topic="a",partition="0",outcome="written"} 10
connect_records_total{topic="a",partition="1",outcome="written"} 5.5e1 1700000000000
connect_records_total{outcome="filtered",topic="a \"} \\ b",partition="1"} 3
connect_records_read_total{} 68
connect_in_flight_bytes 1024
"#;

    #[test]
    fn samples_are_summed_by_name_and_labels() {
        let metrics = Metrics::parse(TEXT).unwrap();
        assert_eq!(metrics.sum("connect_records_total", &[]), 68.0);
        assert_eq!(metrics.sum("connect_records_total", &[("partition", "1")]), 58.0);
        assert_eq!(metrics.sum("connect_records_total", &[("topic", r#"a "} \ b"#)]), 3.0);
        assert_eq!(metrics.sum("connect_in_flight_bytes", &[]), 1024.0);
        assert_eq!(metrics.sum("connect_nothing", &[]), 0.0);
        assert!(metrics.has("connect_in_flight_bytes") && !metrics.has("connect_nothing"));
        assert_eq!((metrics.read(), metrics.written()), (68, 65));
        let partitions = metrics.label_values("connect_records_total", "partition");
        assert_eq!(partitions.into_iter().collect::<Vec<_>>(), ["0", "1"]);
    }

    #[test]
    fn what_is_no_metric_is_named() {
        for line in ["connect", "a{b=\"c} 1", "a{b} 1", "a one", "a{b=\"c\"}"] {
            let error = Metrics::parse(line).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }

    #[test]
    fn an_account_adds_up_or_is_named() {
        let read = "# TYPE x counter\nconnect_records_read_total{topic=\"t\",partition=\"1\"} 5\n";
        let written = "connect_records_total{topic=\"t\",partition=\"1\",outcome=\"written\"} 3\n";
        let filtered =
            "connect_records_total{topic=\"t\",partition=\"1\",outcome=\"filtered\"} 2\nconnect_partitions 1\n";
        let whole = Metrics::parse(&format!("{read}{written}{filtered}")).unwrap();
        assert_eq!(whole.adds_up(), Ok(()));
        let part = Metrics::parse(&format!("{read}{written}")).unwrap();
        assert_eq!(part.accounts()[&TopicPartition::new("t", 1)].in_flight(), 2);
        assert!(part.adds_up().is_err_and(|error| error.contains("t-1")));
    }
}
