//! `demo --once`: a fixed number of events, every key compared with what was produced.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::stage::{Stage, Store};

const EVENTS: u64 = 100_000;
const USERS: u64 = 10_000;
/// Differing keys that are shown.
const SHOWN: usize = 10;

/// Produces 100,000 events, waits until they are in the store and compares every key.
///
/// # Errors
/// The set-up failed, the connector ended or is stuck, or the store holds something else; the message says what differs.
pub async fn run<S: Store>() -> Result<()> {
    let mut stage = Stage::<S>::set_up(USERS).await?;
    println!("{}", stage.title);
    let begun = Instant::now();
    for number in 0..EVENTS {
        stage.produce(number).await?;
    }
    stage.producer.flush().await?;
    println!("produced {EVENTS} events, waiting until they are written");
    let metrics = stage.connector.wait_until_written(EVENTS).await;
    let seconds = begun.elapsed().as_secs_f64();

    // Compared also when the connector is stuck: what is missing helps to see why.
    let expected = expected(&stage);
    let differences = differences(&stage.store, &expected).await?;
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
    println!("{} holds exactly what was produced", S::NAME);
    Ok(())
}

/// Every key that must be in the store with its value: the user's last event.
fn expected<S: Store>(stage: &Stage<S>) -> Vec<(String, String)> {
    let last = stage.events.last_of_each_user(EVENTS);
    (0..).zip(last).filter_map(|(user, number)| Some((S::key(user), stage.events.value(number?)))).collect()
}

async fn differences<S: Store>(store: &S, expected: &[(String, String)]) -> Result<Vec<String>> {
    let keys: Vec<String> = expected.iter().map(|(key, _)| key.clone()).collect();
    let found = store.values(&keys).await?;
    let mut differences: Vec<String> = expected
        .iter()
        .zip(found)
        .filter_map(|((key, event), found)| difference(key, event, found.as_deref(), S::same))
        .collect();
    let count = store.count().await?;
    if count > expected.len() {
        differences.push(format!("{} keys more than were produced", count - expected.len()));
    }
    Ok(differences)
}

fn difference(key: &str, event: &str, found: Option<&str>, same: fn(&str, &str) -> bool) -> Option<String> {
    match found {
        Some(found) if same(found, event) => None,
        Some(found) => Some(format!("{key} is {found}\n  and not {event}")),
        None => Some(format!("{key} is missing, not {event}")),
    }
}

fn describe(differences: &[String]) -> String {
    let shown = &differences[..differences.len().min(SHOWN)];
    format!("{} differences between what was produced and what is stored\n{}", differences.len(), shown.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_value_is_no_difference() {
        let difference = |found| difference("k", "new", found, super::super::Redis::same);
        assert_eq!(difference(Some("new")), None);
        assert!(difference(Some("old")).is_some());
        assert!(difference(None).is_some());
    }
}
