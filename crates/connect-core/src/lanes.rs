//! Splits a batch by the hash of each operation's target, so that writes run side by side and yet in order per target.

use std::hash::{BuildHasher, Hasher};

use futures::future::join_all;

use crate::hand::InHand;
use crate::lane::{Hold, Lane, LaneEnd};
use crate::sink::{Batch, Item, Sink};

/// Writes a batch and tells the offset below which everything is settled, with the reason when that is not all of it.
pub(crate) async fn write<K: Sink>(
    lane: &Lane<'_, K>,
    batch: Batch<K::Op>,
    hand: &mut InHand<'_>,
) -> (i64, Option<Hold>) {
    let next = batch.next;
    let shares = if lane.sink.atomic() { vec![batch] } else { split(lane.sink, batch) };
    let running: Vec<_> = shares
        .into_iter()
        .map(|share| {
            let hand = hand.split(share.items.len());
            lane.run(share, hand)
        })
        .collect();
    let held = join_all(running).await.into_iter().filter_map(|end| match end {
        LaneEnd::Done => None,
        LaneEnd::Held { at, hold } => Some((at, hold)),
    });
    // The earliest hold decides how far the partition is; a fatal one is never hidden behind another.
    match held.min_by_key(|(at, hold)| (!matches!(hold, Hold::Fatal(_)), *at)) {
        None => (next, None),
        Some((at, hold)) => (at, Some(hold)),
    }
}

/// One batch a lane that has anything to do. With an operation that has no target, the whole batch keeps its order.
fn split<K: Sink>(sink: &K, batch: Batch<K::Op>) -> Vec<Batch<K::Op>> {
    let lanes = sink.lanes().max(1);
    if batch.items.is_empty() {
        return Vec::new();
    }
    if lanes == 1 || batch.items.iter().any(|item| sink.target(&item.op).is_none()) {
        return vec![batch];
    }
    let mut shares: Vec<Vec<Item<K::Op>>> = Vec::new();
    shares.resize_with(lanes, Vec::new);
    for item in batch.items {
        let lane = sink.target(&item.op).map_or(0, |target| lane_of(target, lanes));
        shares[lane].push(item);
    }
    let full = shares.into_iter().filter(|items| !items.is_empty());
    full.map(|items| Batch { source: batch.source.clone(), items, ..batch }).collect()
}

fn lane_of(target: &[u8], lanes: usize) -> usize {
    // A fixed seed: a run replays. Nobody outside can choose keys so as to gain anything from a full lane.
    let mut hasher = ahash::RandomState::with_seeds(1, 2, 3, 4).build_hasher();
    hasher.write(target);
    (hasher.finish() % lanes as u64) as usize
}
