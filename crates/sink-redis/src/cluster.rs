//! Writes to a cluster: each slot has a guard of its own, since no atomic step spans two of them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::OnceLock;

use connect_core::{Batch, Item, Outcome, SinkError, Verdict};
use fred::types::Value;
use fred::util::redis_keyslot;
use futures::{StreamExt, TryStreamExt, future, stream};

use crate::op::Op;
use crate::position::Position;
use crate::script::Chunk;
use crate::store::{Applied, Call, Guard, MOST_SURPRISES, Store, mark, rejection};

/// Calls of one partition that are under way at once.
const CALLS: usize = 256;
const SLOTS: usize = 16_384;

/// The items of a batch by slot, with their places in the batch.
pub fn by_slot(batch: &Batch<Op>) -> BTreeMap<u16, Vec<usize>> {
    let mut slots: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (index, item) in batch.items.iter().enumerate() {
        slots.entry(redis_keyslot(&item.op.key)).or_default().push(index);
    }
    slots
}

/// The key of the offsets that lie in this slot.
fn offsets_key(prefix: &str, slot: u16) -> String {
    static TAGS: OnceLock<Vec<u32>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let mut tags = vec![u32::MAX; SLOTS];
        let mut open = SLOTS;
        let mut tag = 0;
        while open > 0 {
            let slot = usize::from(redis_keyslot(itoa::Buffer::new().format(tag).as_bytes()));
            if tags[slot] == u32::MAX {
                tags[slot] = tag;
                open -= 1;
            }
            tag += 1;
        }
        tags
    });
    format!("{prefix}:{{{}}}", tags[usize::from(slot)])
}

/// Writes a batch, slot by slot side by side.
///
/// # Errors
/// As for [`connect_core::Sink::write`], when no slot could be written.
pub async fn write(store: &Store, batch: &Batch<Op>) -> Result<Outcome, SinkError> {
    // Made as they are needed: a call takes more room than the item that it is about.
    let calls = stream::iter(by_slot(batch)).map(|(slot, indexes)| async move {
        let result = write_slot(store, batch, slot, &indexes).await;
        (indexes, result)
    });
    let mut results = pin!(calls.buffer_unordered(CALLS));
    let mut outcome = Outcome::written();
    let mut written = 0;
    let mut failure = None;
    while let Some((indexes, result)) = results.next().await {
        match result {
            Ok(verdicts) => {
                written += 1;
                for (index, verdict) in verdicts {
                    outcome.set(index, verdict);
                }
            }
            Err(error @ SinkError::Fatal(_)) => return Err(error),
            Err(error) => {
                for index in indexes {
                    outcome.set(index, Verdict::Retry);
                }
                failure = Some(error);
            }
        }
    }
    match failure {
        Some(error) if written == 0 => Err(error),
        _ => Ok(outcome),
    }
}

/// Forgets the offsets of a partition in every slot: what is read again is written again.
///
/// # Errors
/// As for [`connect_core::Sink::set_stored`].
pub async fn forget(store: &Store, field: &str) -> Result<(), SinkError> {
    let slots = stream::iter(0..SLOTS as u16).map(|slot| async move {
        let words = vec![Value::from(offsets_key(&store.offsets_key, slot)), Value::from(field)];
        store.connection.command("HDEL", words).await
    });
    slots.buffer_unordered(CALLS).try_for_each(|_| future::ready(Ok(()))).await
}

async fn write_slot(
    store: &Store,
    batch: &Batch<Op>,
    slot: u16,
    indexes: &[usize],
) -> Result<Vec<(usize, Verdict)>, SinkError> {
    let mut topic_id = store.life(&batch.source);
    let items: Vec<Item<Op>> = indexes.iter().map(|index| batch.items[*index].clone()).collect();
    let key = offsets_key(&store.offsets_key, slot);
    let mut outcome = Outcome::written();
    let mut done = 0;
    let mut surprises = 0;
    while done < items.len() {
        let chunk = Chunk::first(&items[done..], store.limits, store.collapse);
        let end = done + chunk.items.len();
        // Behind the last item of this slot, not of the batch: the next one may belong to it too.
        let next = Position { offset: items[end - 1].offset + 1, topic_id };
        let expected = items[done].offset.to_string();
        let call = Call { key: &key, partition: &batch.source, expected: &expected, next, chunk: &chunk };
        match store.apply(Guard::Monotone, call).await? {
            Applied::All => {
                mark(&mut outcome, &items, done..end, &chunk, done);
                done = end;
            }
            Applied::Stopped { offset, error } => {
                let index = items.partition_point(|item| item.offset < offset);
                let rejection = rejection(batch, indexes[index], &error)?;
                mark(&mut outcome, &items, done..index, &chunk, done);
                outcome.set(index, Verdict::Rejected(rejection));
                // The guard keeps the order of the slot: what lies behind waits until the record is out of the way.
                for later in index + 1..items.len() {
                    outcome.set(later, Verdict::Retry);
                }
                break;
            }
            Applied::Found(found) => {
                surprises += 1;
                if surprises > MOST_SURPRISES {
                    let message = format!("another process of this connector writes {} too", batch.source);
                    return Err(SinkError::transient("contention", message));
                }
                let stored = store.position(&batch.source, &found, topic_id)?;
                topic_id = topic_id.or(stored.topic_id);
                let skip = items.partition_point(|item| item.offset < stored.offset).max(done);
                for index in done..skip {
                    outcome.set(index, Verdict::Superseded);
                }
                done = skip;
            }
        }
    }
    Ok(outcome.into_sorted().into_iter().map(|(index, verdict)| (indexes[index], verdict)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_a_key_that_lies_in_it() {
        for slot in 0..SLOTS as u16 {
            assert_eq!(redis_keyslot(offsets_key("connect:offsets:name", slot).as_bytes()), slot);
        }
    }
}
