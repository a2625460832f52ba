//! Writes without a guard, for offsets that are kept in Kafka alone: each record has its effect at least once.

use connect_core::{Batch, Item, Outcome, SinkError, Verdict};

use crate::cluster;
use crate::op::Op;
use crate::script::Chunk;
use crate::store::{Store, mark, rejection};

/// Writes a batch; in a cluster slot by slot.
///
/// # Errors
/// As for [`connect_core::Sink::write`].
pub async fn write(store: &Store, batch: &Batch<Op>, in_cluster: bool) -> Result<Outcome, SinkError> {
    let mut outcome = Outcome::written();
    if !in_cluster {
        let all: Vec<usize> = (0..batch.items.len()).collect();
        write_items(store, batch, &batch.items, &all, &mut outcome).await?;
        return Ok(outcome);
    }
    for indexes in cluster::by_slot(batch).values() {
        let items: Vec<Item<Op>> = indexes.iter().map(|index| batch.items[*index].clone()).collect();
        write_items(store, batch, &items, indexes, &mut outcome).await?;
    }
    Ok(outcome)
}

async fn write_items(
    store: &Store,
    batch: &Batch<Op>,
    items: &[Item<Op>],
    indexes: &[usize],
    outcome: &mut Outcome,
) -> Result<(), SinkError> {
    let mut done = 0;
    while done < items.len() {
        let chunk = Chunk::first(&items[done..], store.limits, store.collapse);
        let end = done + chunk.items.len();
        let failed = store.apply_plain(&items[done].op.key, &chunk).await?;
        let mut marks = Outcome::written();
        mark(&mut marks, items, done..end, &chunk, done);
        let mut rejected = Vec::with_capacity(failed.len());
        for (offset, error) in failed {
            let index = items.partition_point(|item| item.offset < offset);
            outcome.set(indexes[index], Verdict::Rejected(rejection(batch, indexes[index], &error)?));
            rejected.push(index);
        }
        for (index, verdict) in marks.into_sorted() {
            if !rejected.contains(&index) {
                outcome.set(indexes[index], verdict);
            }
        }
        done = end;
    }
    Ok(())
}
