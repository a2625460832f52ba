//! What the core does with a sink, in few lines: take up, write batch after batch, again what failed, take up again.

use std::time::Duration;

use connect_core::{Batch, Item, Outcome, Record, Resume, Sink, SinkError, Verdict};
use sink_redis::RedisSink;
use sink_redis::op::Op;
use tokio::time::{Instant, sleep};

use crate::support::{assigned, batch};

/// Writes the records, whose offsets are their indexes, in batches of this many, and says how often it had to go back.
pub async fn deliver(sink: &RedisSink, records: &[Record], size: usize) -> usize {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut durable = 0;
    let mut rewinds = 0;
    'again: loop {
        let partition = assigned(Some(durable));
        let (mut position, mut expected) = match patiently(deadline, || sink.resume(&partition)).await {
            Ok(Resume::At(offset)) => (offset, Some(offset)),
            Ok(Resume::Empty) => (0, None),
            Ok(Resume::NotKept) => (durable, None),
            Err(error) => panic!("{error}"),
        };
        if position < durable {
            rewinds += 1;
        }
        while position < records.len() as i64 {
            let from = position as usize;
            let to = (from + size).min(records.len());
            let next = batch(sink, expected, position, &records[from..to]);
            match write(sink, next, deadline).await {
                Ok(()) => (position, expected) = (to as i64, Some(to as i64)),
                Err(SinkError::OutOfStep { .. }) => continue 'again,
                Err(error) => panic!("{error}"),
            }
            durable = position;
        }
        return rewinds;
    }
}

/// Writes records that follow each other until all of them are durable.
pub async fn write_chunk(sink: &RedisSink, records: &[Record]) {
    let first = records[0].offset;
    let deadline = Instant::now() + Duration::from_secs(120);
    write(sink, batch(sink, Some(first), first, records), deadline).await.unwrap();
}

/// Writes a batch until all of it is durable.
async fn write(sink: &RedisSink, mut next: Batch<Op>, deadline: Instant) -> Result<(), SinkError> {
    loop {
        let outcome = patiently(deadline, || sink.write(&next)).await?;
        let again = to_send_again(&next.items, outcome);
        if again.is_empty() {
            return Ok(());
        }
        next.items = again;
        assert!(Instant::now() < deadline, "it takes too long");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What is to be sent again, and every later item of the same target.
fn to_send_again(items: &[Item<Op>], outcome: Outcome) -> Vec<Item<Op>> {
    let mut targets = std::collections::HashSet::new();
    let mut again = Vec::new();
    let verdicts: std::collections::HashMap<usize, Verdict> = outcome.into_sorted().into_iter().collect();
    for (index, item) in items.iter().enumerate() {
        if let Some(Verdict::Rejected(rejection)) = verdicts.get(&index) {
            panic!("{rejection}");
        }
        if verdicts.get(&index) == Some(&Verdict::Retry) || targets.contains(&item.op.key) {
            targets.insert(item.op.key.clone());
            again.push(item.clone());
        }
    }
    again
}

async fn patiently<T, F: Future<Output = Result<T, SinkError>>>(
    deadline: Instant,
    mut call: impl FnMut() -> F,
) -> Result<T, SinkError> {
    loop {
        match call().await {
            Err(SinkError::Transient { message, .. }) => {
                assert!(Instant::now() < deadline, "it takes too long: {message}");
                sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}
