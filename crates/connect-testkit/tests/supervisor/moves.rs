//! Partitions that go from one process to another.

use std::time::Duration;

use connect_core::{Fate, RunEnd, Settings, Stop};
use connect_testkit::store::{Behaviour, Guard};
use tokio::time::{Instant, sleep};

use super::world::*;

#[tokio::test(start_paused = true)]
async fn a_backfill_ends_although_a_partition_was_handed_over() {
    let world = World::new(Guard::PerKey, with(|settings| settings.stop = Stop::End));
    world.produce(0, &["a", "b"], Behaviour::Written);
    world.produce(1, &["c"], Behaviour::Written);
    world.mood(HANGING);
    let first = world.start_on(&[0, 1]);
    let second = world.start();
    until(|| first.ledgers.of(&partition(1)).in_flight() > 0).await;
    world.group.hand_over(&partition(1), second.member, Duration::from_secs(3));
    until(|| world.group.owner(&partition(1)) == Some(second.member)).await;
    world.mood(WELL);
    assert_eq!(first.end().await, Ok(RunEnd::Finished));
    assert_eq!(second.end().await, Ok(RunEnd::Finished));
    assert_eq!(world.keys(), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_not_drained_in_time_goes_to_its_new_owner_all_the_same() {
    let world = World::new(Guard::PerKey, Settings::default());
    let (first, second) = world.start_with_a_hanging_write().await;
    world.group.hand_over(&partition(0), second.member, Duration::from_secs(5));
    until(|| world.group.owner(&partition(0)) == Some(second.member)).await;
    assert_eq!(first.ledgers.of(&partition(0)).count(Fate::Returned), 1);
    assert_eq!(first.ledgers.of(&partition(0)).stalled_seconds(), None, "it is not the first one's any more");
    world.mood(WELL);
    world.until_committed(0, 1).await;
    assert_eq!(first.stop().await, Ok(RunEnd::Drained));
    assert_eq!(second.stop().await, Ok(RunEnd::Drained));
}

/// Whoever stops a process lets it drain for so long: a group that would wait for longer is of no use to it.
#[tokio::test(start_paused = true)]
async fn a_hand_over_takes_no_longer_than_a_drain_may() {
    let world = World::new(Guard::PerKey, with(|settings| settings.drain_timeout = Duration::from_secs(2)));
    let (first, second) = world.start_with_a_hanging_write().await;
    let begun = Instant::now();
    world.group.hand_over(&partition(0), second.member, Duration::from_secs(60));
    until(|| world.group.owner(&partition(0)) == Some(second.member)).await;
    let taken = begun.elapsed();
    assert!((2.0..3.0).contains(&taken.as_secs_f64()), "{taken:?}");
    assert_eq!(world.group.committed(&partition(0)), Some(0), "nothing was written");
    world.mood(WELL);
    world.until_committed(0, 1).await;
    assert_eq!(first.stop().await, Ok(RunEnd::Drained));
    assert_eq!(second.stop().await, Ok(RunEnd::Drained));
}

#[tokio::test(start_paused = true)]
async fn a_partition_lost_while_it_is_handed_over_may_come_back() {
    let world = World::new(Guard::PerKey, Settings::default());
    let (first, second) = world.start_with_a_hanging_write().await;
    world.group.hand_over(&partition(0), second.member, Duration::from_secs(20));
    sleep(Duration::from_secs(1)).await;
    world.group.lose(&partition(0), second.member, Duration::ZERO);
    world.group.lose(&partition(0), first.member, Duration::ZERO);
    // Longer than the first promise to hand it over.
    sleep(Duration::from_secs(60)).await;
    world.mood(WELL);
    world.until_committed(0, 1).await;
    assert_eq!(world.group.owner(&partition(0)), Some(first.member));
    assert_eq!(first.stop().await, Ok(RunEnd::Drained));
    assert_eq!(second.stop().await, Ok(RunEnd::Drained));
}

/// Without a guard in the store, what a slow farewell still holds would land on what the new owner wrote.
#[tokio::test(start_paused = true)]
async fn a_partition_lost_in_a_drain_is_let_go_at_once() {
    let world = World::new(Guard::None, Settings::default());
    let (first, second) = world.start_with_a_hanging_write().await;
    let ledger = first.ledgers.of(&partition(0));
    first.shutdown.cancel();
    sleep(Duration::from_secs(1)).await;
    world.group.lose(&partition(0), second.member, Duration::ZERO);
    assert_eq!(first.stop().await, Ok(RunEnd::Drained), "there is nothing left that it could wait for");
    assert_eq!((ledger.count(Fate::Returned), ledger.in_flight()), (1, 0));
    world.mood(WELL);
    world.until_committed(0, 1).await;
    assert_eq!(second.stop().await, Ok(RunEnd::Drained));
}

/// Kafka may take its time over a commit; what is lost meanwhile is not held on to.
#[tokio::test(start_paused = true)]
async fn a_partition_lost_while_a_commit_is_under_way_is_let_go_at_once() {
    let world = World::new(Guard::None, Settings::default());
    let (first, commits) = world.start_with_a_commit_under_way(&[0]).await;
    let second = world.start();
    let ledger = first.ledgers.of(&partition(0));
    world.mood(HANGING);
    world.produce(0, &["b"], Behaviour::Written);
    until(|| ledger.in_flight() == 1).await;
    world.group.lose(&partition(0), second.member, Duration::ZERO);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((ledger.count(Fate::Returned), ledger.in_flight()), (1, 0));
    commits.answer(1);
    world.mood(WELL);
    world.until_committed(0, 2).await;
    assert_eq!(ledger.committed(), None, "the answer speaks of an ownership that is over");
    assert_eq!(first.stop().await, Ok(RunEnd::Drained), "nothing is its own any more");
    assert_eq!(second.stop().await, Ok(RunEnd::Drained));
}

/// What cannot be committed is not given up of one's own accord: the group takes it once it has waited long enough.
#[tokio::test(start_paused = true)]
async fn a_partition_to_be_handed_over_while_a_commit_hangs_is_taken_by_the_group() {
    let world = World::new(Guard::PerKey, Settings::default());
    let (first, _) = world.start_with_a_commit_under_way(&[0, 1]).await;
    let second = world.start();
    world.mood(HANGING);
    world.produce(0, &["b"], Behaviour::Written);
    until(|| first.ledgers.of(&partition(0)).in_flight() == 1).await;
    world.group.hand_over(&partition(0), second.member, Duration::from_secs(5));
    until(|| world.group.owner(&partition(0)) == Some(second.member)).await;
    assert_eq!(world.group.too_late(), 1);
    world.mood(WELL);
    world.until_committed(0, 2).await;
    world.produce(1, &["c"], Behaviour::Written);
    until(|| world.keys() == ["a", "b", "c"]).await;
    assert_eq!(first.health.partitions(), 1, "and goes on with the rest");
    assert_eq!(second.stop().await, Ok(RunEnd::Drained));
}

#[tokio::test(start_paused = true)]
async fn a_partition_lost_while_its_last_commit_is_under_way_may_come_back() {
    let world = World::new(Guard::PerKey, Settings::default());
    let (first, commits) = world.start_with_a_commit_under_way(&[0]).await;
    world.produce(0, &["b"], Behaviour::Written);
    let ledger = first.ledgers.of(&partition(0));
    until(|| ledger.durable() == Some(2)).await;
    let second = world.start();
    world.group.hand_over(&partition(0), second.member, Duration::from_secs(20));
    sleep(Duration::from_secs(1)).await;
    commits.answer(1);
    commits.until_begun(2).await;
    assert_eq!(world.group.owner(&partition(0)), Some(first.member), "it is given up only once that is answered");
    world.group.lose(&partition(0), second.member, Duration::ZERO);
    world.group.lose(&partition(0), first.member, Duration::ZERO);
    sleep(Duration::from_secs(1)).await;
    commits.answer(100);
    world.produce(0, &["c"], Behaviour::Written);
    world.until_committed(0, 3).await;
    assert_eq!(world.group.owner(&partition(0)), Some(first.member));
    assert_eq!(first.stop().await, Ok(RunEnd::Drained));
    assert_eq!(second.stop().await, Ok(RunEnd::Drained));
}
