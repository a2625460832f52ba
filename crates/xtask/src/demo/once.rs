//! `demo --once`: a fixed number of events, every key compared with what was produced.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

use super::stage::{PREFIX, Stage, redis_key};
use crate::{metrics::Metrics, redis_client};

const EVENTS: u64 = 100_000;
const USERS: u64 = 10_000;
/// Without progress for this long the connector is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Differing keys that are shown.
const SHOWN: usize = 10;

/// Produces 100,000 events, waits until they are in Redis and compares every key.
///
/// # Errors
/// The set-up failed, the connector ended or is stuck, or Redis holds something else; the message says what differs.
pub async fn run() -> Result<()> {
    let mut stage = Stage::set_up(USERS).await?;
    println!("{}", stage.title);
    let begun = Instant::now();
    for number in 0..EVENTS {
        stage.produce(number).await?;
    }
    stage.producer.flush().await?;
    println!("produced {EVENTS} events, waiting until they are in Redis");
    let metrics = wait_until_written(&mut stage).await;
    let seconds = begun.elapsed().as_secs_f64();

    // Compared also when the connector is stuck: what is missing helps to see why.
    let expected = expected(&stage);
    let differences = differences(&stage, &expected).await?;
    let metrics = metrics.with_context(|| describe(&differences))?;
    stage.connector.drain().await?;
    println!("events produced  {EVENTS:>9}");
    println!("records read     {:>9}", metrics.read());
    println!("records written  {:>9}", metrics.written());
    println!("keys compared    {:>9}", expected.len());
    println!("seconds          {seconds:>9.2}");
    println!("records/s        {:>9.0}", EVENTS as f64 / seconds);
    if !differences.is_empty() {
        bail!("{}", describe(&differences));
    }
    if metrics.read() != EVENTS || metrics.written() != EVENTS {
        bail!("the connector's counts don't add up to the {EVENTS} events that were produced");
    }
    println!("Redis holds exactly what was produced");
    Ok(())
}

async fn wait_until_written(stage: &mut Stage) -> Result<Metrics> {
    let mut written = 0;
    let mut progress = Instant::now();
    loop {
        let metrics = stage.connector.metrics().await?.unwrap_or_default();
        if metrics.written() >= EVENTS {
            return Ok(metrics);
        }
        if metrics.written() > written {
            written = metrics.written();
            progress = Instant::now();
        }
        if progress.elapsed() > STUCK_AFTER {
            bail!(
                "only {written} of {EVENTS} events were written and nothing more for {STUCK_AFTER:?}; {}",
                stage.connector.process().log_tail()
            );
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Every key that must be in Redis with its value: the user's last event.
fn expected(stage: &Stage) -> Vec<(String, String)> {
    let last = stage.events.last_of_each_user(EVENTS);
    (0..).zip(last).filter_map(|(user, number)| Some((redis_key(user), stage.events.value(number?)))).collect()
}

async fn differences(stage: &Stage, expected: &[(String, String)]) -> Result<Vec<String>> {
    let keys: Vec<String> = expected.iter().map(|(key, _)| key.clone()).collect();
    let found = redis_client::values(&stage.sessions, &keys).await?;
    let mut differences: Vec<String> = expected
        .iter()
        .zip(found)
        .filter_map(|((key, value), found)| difference(key, value, found.as_deref()))
        .collect();
    let count = redis_client::count(&stage.sessions, PREFIX).await?;
    if count > expected.len() {
        differences.push(format!("{} keys more than were produced", count - expected.len()));
    }
    Ok(differences)
}

fn difference(key: &str, expected: &str, found: Option<&[u8]>) -> Option<String> {
    match found {
        Some(found) if found == expected.as_bytes() => None,
        Some(found) => {
            let found = String::from_utf8_lossy(found);
            Some(format!("{key} is {found}\n  and not {expected}"))
        }
        None => Some(format!("{key} is missing, not {expected}")),
    }
}

fn describe(differences: &[String]) -> String {
    let shown = &differences[..differences.len().min(SHOWN)];
    format!("{} differences between what was produced and what is in Redis\n{}", differences.len(), shown.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_value_is_no_difference() {
        assert_eq!(difference("k", "new", Some(b"new")), None);
        assert!(difference("k", "new", Some(b"old")).is_some());
        assert!(difference("k", "new", None).is_some());
    }
}
