//! One promise of the framework a test, where the simulation would not point at the line.

mod moves;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use connect_core::{DeadLetters, Fate, OutOfRange, RunEnd, Settings, Start, Stop};
use connect_testkit::log::Log;
use connect_testkit::store::{Behaviour, Guard};
use tokio::time::{Instant, sleep};

use self::world::*;

#[tokio::test(start_paused = true)]
async fn a_backfill_ends_when_all_partitions_have_reached_their_end() {
    let world = World::new(Guard::PerKey, with(|settings| settings.stop = Stop::End));
    world.produce(0, &["a", "b"], Behaviour::Written);
    world.produce(1, &["c"], Behaviour::Written);
    assert_eq!(world.start_on(&[0, 1]).end().await, Ok(RunEnd::Finished));
    assert_eq!(world.keys(), ["a", "b", "c"]);
    let committed = [0, 1].map(|number| world.group.committed(&partition(number)));
    assert_eq!(committed, [Some(2), Some(1)]);
}

/// What comes after the start is for the next run, also where the store makes this one begin anew.
#[tokio::test(start_paused = true)]
async fn a_backfill_reads_to_the_end_as_it_was_at_the_start() {
    let world = World::new(Guard::Atomic, with(|settings| settings.stop = Stop::End));
    world.produce(0, &["a"], Behaviour::Written);
    assert_eq!(world.start_on(&[0]).end().await, Ok(RunEnd::Finished));
    world.produce(0, &["b", "c"], Behaviour::Written);
    world.mood(HANGING);
    let process = world.start_on(&[0]);
    until(|| process.ledgers.of(&partition(0)).in_flight() > 0).await;
    for _ in 0..100 {
        world.produce(0, &["later"], Behaviour::Written);
    }
    // The store went back: the process asks it where to go on, and reads from there.
    world.sink.store.fail_over();
    world.mood(WELL);
    assert_eq!(process.end().await, Ok(RunEnd::Finished));
    let fetches = world.fetches.lock().expect("nobody panics").clone();
    assert!(fetches.starts_with(&[0, 1, 0]) && fetches.iter().all(|offset| *offset < 3), "read from {fetches:?}");
    let keys = world.keys();
    assert!(["a", "b", "c"].iter().all(|key| keys.contains(&(*key).to_owned())), "{keys:?}");
}

async fn keys_from(start: Start) -> Vec<String> {
    let world = World::new(Guard::PerKey, with(|settings| settings.start = start));
    world.produce(0, &["a", "b", "c"], Behaviour::Written);
    let process = world.start_on(&[0]);
    until(|| process.ledgers.of(&partition(0)).durable().is_some()).await;
    world.produce(0, &["new"], Behaviour::Written);
    world.until_committed(0, 4).await;
    assert_eq!(process.stop().await, Ok(RunEnd::Drained));
    world.keys()
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_known_the_start_setting_says_where_to_begin() {
    assert_eq!(keys_from(Start::Earliest).await, ["a", "b", "c", "new"]);
    assert_eq!(keys_from(Start::Latest).await, ["new"]);
    assert_eq!(keys_from(Start::Timestamp(1_001)).await, ["c", "new"]);
    assert_eq!(keys_from(Start::Offset(1)).await, ["b", "c", "new"]);
    assert_eq!(keys_from(Start::Offset(-5)).await, ["a", "b", "c", "new"], "below the first");
    assert_eq!(keys_from(Start::Offset(99)).await, ["new"], "beyond the end");
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_goes_before_the_start_setting() {
    let world = World::new(Guard::PerKey, Settings::default());
    world.produce(0, &["a"], Behaviour::Written);
    let process = world.start_on(&[0]);
    world.until_committed(0, 1).await;
    assert_eq!(process.stop().await, Ok(RunEnd::Drained));
    world.produce(0, &["b"], Behaviour::Written);
    let world = World { settings: with(|settings| settings.start = Start::Latest), ..world };
    let process = world.start_on(&[0]);
    world.until_committed(0, 2).await;
    assert_eq!(process.stop().await, Ok(RunEnd::Drained));
    assert_eq!(world.keys(), ["a", "b"]);
}

/// A process comes back when retention has deleted what it had not read.
async fn after_retention(guard: Guard, policy: OutOfRange) -> (World, Process) {
    let world = World::new(guard, with(|settings| settings.out_of_range = policy));
    world.produce(0, &["a"], Behaviour::Written);
    let process = world.start_on(&[0]);
    world.until_committed(0, 1).await;
    assert_eq!(process.stop().await, Ok(RunEnd::Drained));
    world.produce(0, &["gone", "kept", "kept too"], Behaviour::Written);
    world.log.delete_below(&partition(0), 2);
    let process = world.start_on(&[0]);
    (world, process)
}

#[tokio::test(start_paused = true)]
async fn records_deleted_before_they_were_read_stop_the_process_unless_told_otherwise() {
    for guard in [Guard::PerKey, Guard::Atomic] {
        let (world, process) = after_retention(guard, OutOfRange::Fatal).await;
        let error = process.end().await.expect_err("records are lost");
        assert!(error.contains("topic-0") && error.contains("CONNECT_KAFKA_OUT_OF_RANGE"), "{error}");
        assert_eq!(world.group.committed(&partition(0)), Some(1));

        let (world, process) = after_retention(guard, OutOfRange::Earliest).await;
        world.until_committed(0, 4).await;
        assert_eq!(process.stop().await, Ok(RunEnd::Drained));
        assert_eq!(world.keys(), ["a", "kept", "kept too"]);

        let (world, process) = after_retention(guard, OutOfRange::Latest).await;
        world.until_committed(0, 4).await;
        world.produce(0, &["new"], Behaviour::Written);
        world.until_committed(0, 5).await;
        assert_eq!(process.stop().await, Ok(RunEnd::Drained));
        assert_eq!(world.keys(), ["a", "new"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_ends_before_our_place_is_another_topic() {
    let world = World::new(Guard::PerKey, with(|settings| settings.out_of_range = OutOfRange::Earliest));
    world.produce(0, &["a", "b"], Behaviour::Written);
    let process = world.start_on(&[0]);
    world.until_committed(0, 2).await;
    assert_eq!(process.stop().await, Ok(RunEnd::Drained));
    let world = World { log: Log::new([partition(0)]), ..world };
    let error = world.start_on(&[0]).end().await.expect_err("the topic was made anew");
    assert!(error.contains("made anew"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_takes_too_long_commits_nothing_of_what_is_in_hand() {
    let world = World::new(Guard::PerKey, Settings::default());
    world.produce(0, &["a"], Behaviour::Written);
    let process = world.start_on(&[0]);
    world.until_committed(0, 1).await;
    world.mood(HANGING);
    world.produce(0, &["b"], Behaviour::Written);
    let ledger = process.ledgers.of(&partition(0));
    until(|| ledger.in_flight() == 1).await;
    assert_eq!(process.stop().await, Ok(RunEnd::DrainTimeout));
    assert_eq!(world.group.committed(&partition(0)), Some(1));
    assert_eq!((ledger.count(Fate::Written), ledger.count(Fate::Returned), ledger.in_flight()), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_must_be_mended_is_told_also_when_it_comes_up_in_a_drain() {
    let world = World::new(Guard::PerKey, Settings::default());
    world.mood(HANGING);
    world.produce(0, &["a"], Behaviour::Written);
    let process = world.start_on(&[0]);
    until(|| process.ledgers.of(&partition(0)).in_flight() == 1).await;
    // The call that hangs times out within the drain, and the next one fails for good.
    sleep(Duration::from_secs(20)).await;
    world.mood(BROKEN);
    let error = process.stop().await.expect_err("the store is broken");
    assert!(error.contains("the disk is full"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_written_holds_its_partition_alone() {
    let world = World::new(Guard::Atomic, Settings::default());
    world.produce(0, &["a"], Behaviour::Written);
    world.produce(0, &["bad"], Behaviour::Rejected);
    world.produce(0, &["behind"], Behaviour::Written);
    world.produce(1, &["other"], Behaviour::Written);
    let process = world.start_with(DeadLetters::Stop);
    world.assign(&process, &[0, 1]);
    world.until_committed(0, 1).await;
    world.until_committed(1, 1).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.keys(), ["a", "other"]);
    assert_eq!(world.group.committed(&partition(0)), Some(1));
    assert!(process.ledgers.of(&partition(0)).stalled_seconds() > Some(300.0));
    assert_eq!(process.stop().await, Ok(RunEnd::Drained));
}

#[tokio::test(start_paused = true)]
async fn an_atomic_store_that_lost_everything_skips_nothing_at_start_latest() {
    let world = World::new(Guard::Atomic, with(|settings| settings.start = Start::Latest));
    let process = world.start_on(&[0]);
    until(|| process.ledgers.of(&partition(0)).durable().is_some()).await;
    world.produce(0, &["a"], Behaviour::Written);
    world.until_committed(0, 1).await;
    world.mood(HANGING);
    world.produce(0, &["b", "c"], Behaviour::Written);
    until(|| process.ledgers.of(&partition(0)).in_flight() > 0).await;
    world.sink.store.fail_over();
    world.mood(WELL);
    world.until_committed(0, 3).await;
    assert_eq!(world.keys(), ["b", "c"], "what was not written before is written now");
    assert_eq!(process.stop().await, Ok(RunEnd::Drained));
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_the_store_answered_leaves_the_group() {
    let world = World::new(Guard::Atomic, Settings::default());
    world.sink.mood.store(AWAY, Relaxed);
    let process = world.start();
    let member = process.member;
    world.group.assign(&partition(0), member);
    sleep(Duration::from_secs(3)).await;
    assert_eq!(world.group.owner(&partition(0)), Some(member), "the group counts it in while the store is away");
    assert_eq!(process.stop().await, Ok(RunEnd::Drained));
    assert_eq!(world.group.owner(&partition(0)), None, "and need not wait for its session's end");
}

#[tokio::test(start_paused = true)]
async fn a_kafka_that_swallows_commits_gets_nobody_killed_and_lets_everybody_stop() {
    let world = World::new(Guard::Atomic, Settings::default());
    let (process, commits) = world.start_with_a_commit_under_way(&[0]).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(process.health.alive(), Ok(()), "waiting for Kafka is not hanging");
    assert_eq!(commits.begun.load(Relaxed), 1, "there is one commit at a time");
    let asked = Instant::now();
    let health = Arc::clone(&process.health);
    process.shutdown.cancel();
    until(|| health.ready() == Err("draining")).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "it is not waited for the commit: {:?}", asked.elapsed());
    assert_eq!(process.end().await, Ok(RunEnd::DrainTimeout), "the last offsets are not committed, and it says so");
    let limit = Settings::default().drain_timeout + Duration::from_secs(4);
    assert!(asked.elapsed() < limit, "{:?}", asked.elapsed());
}

/// Answers come in the order of the commits: one that nobody waits for any more must not be in the way.
#[tokio::test(start_paused = true)]
async fn the_last_commit_takes_the_place_of_the_one_under_way() {
    let world = World::new(Guard::Atomic, Settings::default());
    let (process, commits) = world.start_with_a_commit_under_way(&[0]).await;
    process.shutdown.cancel();
    commits.until_begun(2).await;
    commits.answer(1);
    assert_eq!(process.end().await, Ok(RunEnd::Drained));
}
