//! Splits a batch by the hash of each operation's target, so that writes run side by side and yet in order per target.

use std::hash::{BuildHasher, Hasher};

use futures::future::join_all;

use crate::hand::InHand;
use crate::lane::{Hold, Lane, LaneEnd};
use crate::mutants::mutant;
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
    earliest(next, join_all(running).await)
}

/// The earliest hold decides how far the partition is, whichever reason is told: a fatal one is never hidden behind
/// another.
fn earliest(next: i64, ends: Vec<LaneEnd>) -> (i64, Option<Hold>) {
    let mut settled = next;
    let mut reason: Option<(bool, i64, Hold)> = None;
    for end in ends {
        let LaneEnd::Held { at, hold } = end else { continue };
        settled = if mutant!(LatestHoldDecides) && reason.is_some() { settled.max(at) } else { settled.min(at) };
        let rank = (!matches!(hold, Hold::Fatal(_)), at);
        if reason.as_ref().is_none_or(|(mild, at, _)| rank < (*mild, *at)) {
            reason = Some((rank.0, rank.1, hold));
        }
    }
    (settled, reason.map(|(_, _, hold)| hold))
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
        let offset = item.offset.to_be_bytes();
        let target = if mutant!(WrongHash) { Some(&offset[..]) } else { sink.target(&item.op) };
        let lane = target.map_or(0, |target| lane_of(target, lanes));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fatal_hold_is_told_but_the_earliest_one_decides_how_far_the_partition_is() {
        let early = LaneEnd::Held { at: 10, hold: Hold::GaveUp };
        let late = LaneEnd::Held { at: 50, hold: Hold::Fatal("no".into()) };
        assert_eq!(earliest(60, vec![LaneEnd::Done, early, late]), (10, Some(Hold::Fatal("no".into()))));
        assert_eq!(earliest(60, vec![LaneEnd::Done]), (60, None));
    }
}
