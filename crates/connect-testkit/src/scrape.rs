//! Reads a connector's own metrics, and checks that its account adds up.

use std::collections::BTreeMap;
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
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Metrics {
    /// Asks the process that listens at `CONNECT_ADMIN_LISTEN` for its `/metrics`.
    ///
    /// # Errors
    /// When it doesn't answer within ten seconds, or not with 200.
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
        Ok(Self::parse(body))
    }

    /// Reads the text format of Prometheus.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self { samples: lines.filter_map(sample).collect() }
    }

    /// The sum of the samples of this name that have all of these labels; `None` when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |found: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| found.get(*label).is_some_and(|found| found == value))
        };
        let values =
            self.samples.iter().filter(|(found, its, _)| found == name && has(its)).map(|(_, _, value)| *value);
        values.reduce(|sum, value| sum + value)
    }

    /// The account of each partition.
    pub fn accounts(&self) -> BTreeMap<TopicPartition, Account> {
        let mut accounts = BTreeMap::<TopicPartition, Account>::new();
        for (name, labels, value) in &self.samples {
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

/// `name{label="value",…} 1`; label values of ours hold neither commas nor quotes.
fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (left, value) = line.trim().rsplit_once(' ')?;
    let (name, labels) = left.split_once('{').unwrap_or((left, ""));
    let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
    let labels = labels.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()));
    Some((name.to_owned(), labels.collect(), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_adds_up_or_is_named() {
        let read = "# TYPE x counter\nconnect_records_read_total{topic=\"t\",partition=\"1\"} 5\n";
        let written = "connect_records_total{topic=\"t\",partition=\"1\",outcome=\"written\"} 3\n";
        let filtered =
            "connect_records_total{topic=\"t\",partition=\"1\",outcome=\"filtered\"} 2\nconnect_partitions 1\n";
        let whole = Metrics::parse(&format!("{read}{written}{filtered}"));
        assert_eq!(whole.adds_up(), Ok(()));
        assert_eq!(whole.sum("connect_records_total", &[("topic", "t")]), Some(5.0));
        assert_eq!(whole.sum("connect_partitions", &[]), Some(1.0));
        assert_eq!(whole.sum("connect_records_total", &[("topic", "other")]), None);
        let part = Metrics::parse(&format!("{read}{written}"));
        assert_eq!(part.accounts()[&TopicPartition::new("t", 1)].in_flight(), 2);
        assert!(part.adds_up().is_err_and(|error| error.contains("t-1")));
    }
}
