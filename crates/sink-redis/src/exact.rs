//! Writes under the exact guard, for one node and Sentinel: data and offset change in one atomic step, by a transaction where
//! that can be, else by a script.

use connect_core::{Batch, Outcome, SinkError, Verdict};

use crate::op::Op;
use crate::position::{Next, Position, reconcile};
use crate::script::Chunk;
use crate::store::{Applied, Call, MOST_SURPRISES, Store, mark, rejection};

/// Writes a batch, or a prefix of it that ends before a record that can't be written.
///
/// # Errors
/// As for [`connect_core::Sink::write`].
pub async fn write(store: &Store, batch: &Batch<Op>) -> Result<Outcome, SinkError> {
    let topic_id = store.life(&batch.source);
    let at = |offset: i64| Position { offset, topic_id };
    let items = &batch.items;
    let mut outcome = Outcome::written();
    let mut expected = batch.expected;
    let mut text = expected.map_or_else(String::new, |offset| at(offset).to_string());
    let mut first = batch.first;
    let mut done = 0;
    let mut surprises = 0;
    loop {
        let chunk = Chunk::first(&items[done..], store.limits, store.collapse);
        let end = done + chunk.items.len();
        let next = at(items.get(end).map_or(batch.next, |item| item.offset));
        let key = &store.offsets_key;
        let call = Call { key, partition: &batch.source, expected: &text, next, chunk: &chunk };
        match store.apply_exact(call).await? {
            Applied::All => {
                mark(&mut outcome, items, done..end, &chunk, done);
                if end == items.len() {
                    return Ok(outcome);
                }
                (done, first, expected, text) = (end, next.offset, Some(next.offset), next.to_string());
            }
            Applied::Stopped { offset, error } => {
                let index = items.partition_point(|item| item.offset < offset);
                let rejection = rejection(batch, index, &error)?;
                mark(&mut outcome, items, done..index, &chunk, done);
                outcome.set(index, Verdict::Rejected(rejection));
                return Ok(outcome);
            }
            Applied::Found(found) => {
                surprises += 1;
                if surprises > MOST_SURPRISES {
                    let message = format!("another process of this connector writes {} too", batch.source);
                    return Err(SinkError::transient("contention", message));
                }
                let stored = match found.as_str() {
                    "" => None,
                    found => Some(store.position(&batch.source, found, topic_id)?.offset),
                };
                let skip = match reconcile(stored, expected, first, batch.next) {
                    Next::Apply => done,
                    Next::Done => items.len(),
                    Next::From(offset) => items.partition_point(|item| item.offset < offset).max(done),
                    Next::OutOfStep => return Err(SinkError::OutOfStep { stored }),
                };
                for index in done..skip {
                    outcome.set(index, Verdict::Superseded);
                }
                if stored.is_some_and(|stored| stored >= batch.next) && stored != expected {
                    return Ok(outcome);
                }
                (done, first, expected, text) = (skip, stored.unwrap_or(first).max(first), stored, found);
            }
        }
    }
}
