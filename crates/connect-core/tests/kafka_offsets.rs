//! Where partitions begin and go on, on a real broker.

mod support;

use connect_core::kafka::coordinator::{Coordinator, Identity};
use connect_core::kafka::{CommitNote, StaticAssignment, Subscription};
use connect_core::{Assigned, Assignment, Change, TopicPartition};
use support::{add_partitions, cluster, config, create_topic, draft, eventually, produce, unique};

const LATEST: &[(&str, &str)] = &[("START", "latest"), ("TOPICS_REFRESH", "1s")];

fn assignment(topics: &str, group: &str, settings: &[(&str, &str)]) -> StaticAssignment {
    let all = [&[("TOPICS", topics)], settings].concat();
    let subscription = Subscription::new(&config(&all).topics, None).expect("a subscription");
    StaticAssignment::new(cluster(&all), group, subscription, None)
}

async fn next(assignment: &mut StaticAssignment) -> Change {
    let change = tokio::time::timeout(support::LIMIT, assignment.next()).await;
    change.expect("in time").expect("a change")
}

async fn assigned(assignment: &mut StaticAssignment) -> Vec<Assigned> {
    match next(assignment).await {
        Change::Assigned(assigned) => assigned,
        other => panic!("{other:?}"),
    }
}

fn starts(assigned: &[Assigned]) -> Vec<Option<i64>> {
    assert!(assigned.iter().all(|assigned| assigned.committed.is_none()), "{assigned:?}");
    assigned.iter().map(|assigned| assigned.start).collect()
}

async fn write(topic: &str, partition: i32, count: usize) {
    let drafts: Vec<_> = (0..count).map(|_| draft(Some("k"), Some("v"))).collect();
    produce(&cluster(&[]), &TopicPartition::new(topic, partition), &drafts).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn latest_is_committed_at_once_and_does_not_move() {
    let (topic, group) = (unique("latest"), unique("g"));
    create_topic(&cluster(&[]), &topic, 2, &[]).await;
    write(&topic, 0, 5).await;
    write(&topic, 1, 3).await;
    assert_eq!(starts(&assigned(&mut assignment(&topic, &group, LATEST)).await), [Some(5), Some(3)]);
    let coordinator = Coordinator::new(cluster(&[]), &group);
    let committed = coordinator.all_committed().await.expect("known");
    let offsets: Vec<_> = committed.values().map(|committed| committed.offset).collect();
    assert_eq!(offsets, [5, 3]);
    assert!(committed.values().all(|committed| committed.note().is_some_and(|note| note.start)), "{committed:?}");

    // What comes while no process runs is not left out.
    write(&topic, 0, 2).await;
    assert_eq!(starts(&assigned(&mut assignment(&topic, &group, LATEST)).await), [Some(5), Some(3)]);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_appears_later_starts_at_its_beginning() {
    let (topic, later, group) = (unique("a-topic"), unique("later"), unique("g"));
    let admin = cluster(&[]);
    create_topic(&admin, &topic, 1, &[]).await;
    write(&topic, 0, 5).await;
    let topics = format!("{topic},{later}");
    let mut running = assignment(&topics, &group, LATEST);
    assert_eq!(starts(&assigned(&mut running).await), [Some(5)]);
    add_partitions(&admin, &topic, 2).await;
    write(&topic, 1, 4).await;
    assert_eq!(starts(&assigned(&mut running).await), [Some(0)], "a partition, seen by the process that runs");
    drop(running);
    create_topic(&admin, &later, 1, &[]).await;
    write(&later, 0, 4).await;
    let found = assigned(&mut assignment(&topics, &group, LATEST)).await;
    assert_eq!(starts(&found), [Some(5), Some(0), Some(0)], "a topic, seen by one that was started since");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_first_topic_of_all_starts_at_its_beginning_when_it_appears() {
    let (topic, group) = (unique("latest"), unique("g"));
    let mut running = assignment(&topic, &group, LATEST);
    assert_eq!(assigned(&mut running).await, []);
    create_topic(&cluster(&[]), &topic, 1, &[]).await;
    write(&topic, 0, 4).await;
    assert_eq!(starts(&assigned(&mut running).await), [Some(0)]);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_commit_of_a_later_epoch_stops_who_is_not_in_it() {
    let (topic, group) = (unique("epoch"), unique("g"));
    create_topic(&cluster(&[]), &topic, 1, &[]).await;
    let partition = TopicPartition::new(topic.as_str(), 0);
    let coordinator = Coordinator::new(cluster(&[]), &group);
    let note = CommitNote { start: false, epoch: 2 };
    let commit = async || coordinator.commit_with(&Identity::none(), &[(partition.clone(), 1)], note).await.ok();
    eventually("the offset is committed", commit).await;
    let refused = assignment(&topic, &group, &[]).next().await.expect_err("refused").to_string();
    assert!(refused.contains("Set CONNECT_EPOCH=2"), "{refused}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn offsets_that_do_not_move_are_committed_again() {
    let (topic, group) = (unique("again"), unique("g"));
    create_topic(&cluster(&[]), &topic, 1, &[]).await;
    let partition = TopicPartition::new(topic.as_str(), 0);
    let coordinator = Coordinator::new(cluster(&[]), &group);
    let commit = async |offset| coordinator.commit(&Identity::none(), &[(partition.clone(), offset)]).await.ok();
    eventually("the offset is committed", async || commit(7).await).await;
    // Found, not committed by this process: an idle partition must not be forgotten after a restart either.
    let mut running = assignment(&topic, &group, &[("TOPICS_REFRESH", "200ms")])
        .committing_again_every(std::time::Duration::from_secs(1));
    assert_eq!(assigned(&mut running).await[0].committed, Some(7));
    let running = tokio::spawn(async move { running.next().await });
    commit(3).await.expect("committed, as if Kafka had forgotten");
    eventually("7 is committed again", async || {
        let committed = coordinator.committed(std::slice::from_ref(&partition)).await.ok()?;
        (committed.get(&partition)?.offset == 7).then_some(())
    })
    .await;
    running.abort();
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_shard_without_partitions_has_nothing_to_read_to_the_end() {
    let topic = unique("shard");
    create_topic(&cluster(&[]), &topic, 1, &[]).await;
    let settings = [("TOPICS", topic.as_str()), ("STOP", "end"), ("TOPICS_REFRESH", "200ms")];
    let mut idle = 0;
    for shard in ["0/2", "1/2"] {
        let subscription = Subscription::new(&config(&settings).topics, None).expect("a subscription");
        let shard = connect_core::config::Setting::parse(shard).expect("a shard");
        let mut part = StaticAssignment::new(cluster(&settings), &unique("g"), subscription, Some(shard));
        if assigned(&mut part).await.is_empty() {
            assert_eq!(next(&mut part).await, Change::NothingLeft);
            idle += 1;
        }
    }
    assert_eq!(idle, 1);
}
