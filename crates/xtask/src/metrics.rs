//! Reads what a connector says at `/metrics` (the Prometheus text format).

use anyhow::{Context, Result, bail};

/// All samples of one answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Parses an answer.
    ///
    /// # Errors
    /// A line isn't of the format; it is quoted.
    pub fn parse(text: &str) -> Result<Self> {
        let samples = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| sample(line).with_context(|| format!("not a metric: {line}")))
            .collect::<Result<_>>()?;
        Ok(Self { samples })
    }

    /// The sum of all samples of that name that have all these labels; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |sample: &Sample, (label, value): &(&str, &str)| {
            sample.labels.iter().any(|(name, content)| name == label && content == value)
        };
        self.samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| labels.iter().all(|label| has(sample, label)))
            .map(|sample| sample.value)
            .sum()
    }

    /// Whether there is a sample of that name.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }

    /// Records read from Kafka.
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
}

fn sample(line: &str) -> Result<Sample> {
    let (name, labels, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = labels(rest)?;
            (name, labels, rest)
        }
        None => {
            let (name, rest) = line.split_once(' ').context("no value")?;
            (name, Vec::new(), rest)
        }
    };
    // A time stamp may follow the value.
    let value = rest.split_whitespace().next().context("no value")?;
    Ok(Sample { name: name.to_owned(), labels, value: value.parse()? })
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut text: &str) -> Result<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (name, rest) = text.split_once("=\"").context("a label without value")?;
        let mut value = String::new();
        let mut characters = rest.char_indices();
        text = loop {
            match characters.next() {
                Some((index, '"')) => break &rest[index + 1..],
                Some((_, '\\')) => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => bail!("a label without end"),
                },
                Some((_, other)) => value.push(other),
                None => bail!("a label without end"),
            }
        };
        labels.push((name.to_owned(), value));
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
    }

    #[test]
    fn what_is_no_metric_is_named() {
        for line in ["connect", "a{b=\"c} 1", "a{b} 1", "a one", "a{b=\"c\"}"] {
            let error = Metrics::parse(line).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }
}
