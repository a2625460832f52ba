//! Groups and offsets against a real broker, by the protocol that it offers and by the classic one.

mod support;

use std::collections::BTreeSet;

use connect_core::kafka::coordinator::{Coordinator, Identity};
use connect_core::kafka::{GroupAssignment, StaticAssignment, Subscription};
use connect_core::{Assigned, Assignment, Change, CommitError, TopicPartition};
use support::{add_partitions, cluster, config, create_topic, delete_topic, draft, eventually, produce, unique};
use tokio::sync::{oneshot, watch};

/// A member that does what the supervisor does, and nothing else.
struct Peer {
    owned: watch::Receiver<BTreeSet<TopicPartition>>,
    assigned: watch::Receiver<Vec<Assigned>>,
    revoked: watch::Receiver<usize>,
    error: watch::Receiver<Option<String>>,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Peer {
    fn start(topics: &str, group: &str, settings: &[(&str, &str)]) -> Self {
        let mut all =
            vec![("TOPICS", topics), ("SESSION_TIMEOUT", "6s"), ("REBALANCE_TIMEOUT", "10s"), ("TOPICS_REFRESH", "1s")];
        all.extend(settings);
        let cluster = cluster(&all);
        let subscription = Subscription::new(&config(&all).topics, None).expect("a subscription");
        let mut assignment = GroupAssignment::new(cluster, group, subscription);
        let (owned, owned_seen) = watch::channel(BTreeSet::new());
        let (assigned, assigned_seen) = watch::channel(Vec::new());
        let (revoked, revoked_seen) = watch::channel(0);
        let (error, error_seen) = watch::channel(None);
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            loop {
                let change = tokio::select! {
                    change = assignment.next() => change,
                    _ = &mut stopped => return assignment.leave().await,
                };
                match change {
                    Ok(Change::Assigned(new)) => {
                        owned.send_modify(|owned| owned.extend(new.iter().map(|assigned| assigned.partition.clone())));
                        assigned.send_modify(|all| all.extend(new));
                    }
                    Ok(Change::Revoked { partitions, .. }) => {
                        let offsets: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 42)).collect();
                        assignment.commit(offsets).await.expect("what is given up is committed first");
                        assignment.released(&partitions).await;
                        revoked.send_modify(|count| *count += partitions.len());
                        owned.send_modify(|owned| owned.retain(|partition| !partitions.contains(partition)));
                    }
                    Ok(Change::Lost(partitions)) => {
                        owned.send_modify(|owned| owned.retain(|partition| !partitions.contains(partition)));
                    }
                    Ok(Change::NothingLeft) => {}
                    Err(fatal) => {
                        error.send_replace(Some(fatal.0));
                        return;
                    }
                }
            }
        });
        Self {
            owned: owned_seen,
            assigned: assigned_seen,
            revoked: revoked_seen,
            error: error_seen,
            stop: Some(stop),
            task,
        }
    }

    fn count(&self) -> usize {
        self.owned.borrow().len()
    }

    async fn leave(mut self) {
        self.stop.take().expect("not left yet").send(()).expect("it runs");
        (&mut self.task).await.expect("it left");
    }
}

/// A member that does not say goodbye is one that was killed.
impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const CLASSIC: &[(&str, &str)] = &[("GROUP_PROTOCOL", "classic")];
/// The consumer protocol where the broker offers it, else the classic one.
const AUTO: &[(&str, &str)] = &[];

async fn settled(peers: &[&Peer], sizes: &[usize]) {
    eventually(&format!("the group settles at {sizes:?}"), async || {
        let mut now: Vec<_> = peers.iter().map(|peer| peer.count()).collect();
        now.sort_unstable();
        (now == sizes).then_some(())
    })
    .await;
    let all: BTreeSet<_> = peers.iter().flat_map(|peer| peer.owned.borrow().clone()).collect();
    assert_eq!(all.len(), sizes.iter().sum::<usize>(), "nothing belongs to two");
}

async fn topic(partitions: i32) -> String {
    let topic = unique("group");
    create_topic(&cluster(&[]), &topic, partitions, &[]).await;
    topic
}

async fn members_come_and_go(protocol: &[(&str, &str)]) {
    let (topic, group) = (topic(6).await, unique("g"));
    let first = Peer::start(&topic, &group, protocol);
    settled(&[&first], &[6]).await;
    assert!(first.assigned.borrow().iter().all(|assigned| assigned.committed.is_none() && assigned.topic_id.is_some()));

    let second = Peer::start(&topic, &group, protocol);
    settled(&[&first, &second], &[3, 3]).await;
    assert_eq!(*first.revoked.borrow(), 3, "only what moves is given up");
    assert!(
        second.assigned.borrow().iter().all(|assigned| assigned.committed == Some(42)),
        "committed before it moved"
    );

    let third = Peer::start(&topic, &group, protocol);
    settled(&[&first, &second, &third], &[2, 2, 2]).await;
    second.leave().await;
    settled(&[&first, &third], &[3, 3]).await;
    // Killed: the others wait for the session's end.
    drop(first);
    settled(&[&third], &[6]).await;
    third.leave().await;
    // An empty group keeps its offsets.
    let last = Peer::start(&topic, &group, protocol);
    settled(&[&last], &[6]).await;
    assert!(last.assigned.borrow().iter().any(|assigned| assigned.committed == Some(42)));
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn members_come_and_go_by_the_classic_protocol() {
    members_come_and_go(CLASSIC).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn members_come_and_go_by_the_broker_s_protocol() {
    members_come_and_go(AUTO).await;
}

async fn new_partitions_are_shared(protocol: &[(&str, &str)]) {
    let (prefix, group) = (unique("pattern"), unique("g"));
    let admin = cluster(&[]);
    create_topic(&admin, &format!("{prefix}-a"), 2, &[]).await;
    let peer = Peer::start(&format!("^{prefix}-"), &group, protocol);
    settled(&[&peer], &[2]).await;
    add_partitions(&admin, &format!("{prefix}-a"), 3).await;
    create_topic(&admin, &format!("{prefix}-b"), 2, &[]).await;
    settled(&[&peer], &[5]).await;
    delete_topic(&admin, &format!("{prefix}-a")).await;
    settled(&[&peer], &[2]).await;
    peer.leave().await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn topics_of_a_pattern_come_grow_and_go_in_a_classic_group() {
    new_partitions_are_shared(CLASSIC).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn topics_of_a_pattern_come_grow_and_go_by_the_broker_s_protocol() {
    new_partitions_are_shared(AUTO).await;
}

async fn latest_begins_once(protocol: &[(&str, &str)]) {
    let (topic, group) = (topic(2).await, unique("g"));
    let (admin, latest) = (cluster(&[]), [protocol, &[("START", "latest")]].concat());
    let write = async |number, count: usize| {
        let drafts: Vec<_> = (0..count).map(|_| draft(Some("k"), Some("v"))).collect();
        produce(&admin, &TopicPartition::new(topic.as_str(), number), &drafts).await;
    };
    let starts = |peer: &Peer| {
        let assigned = peer.assigned.borrow();
        let mut starts: Vec<_> = assigned.iter().map(|one| (one.partition.partition, one.start)).collect();
        starts.sort_unstable();
        starts
    };
    write(0, 5).await;
    let first = Peer::start(&topic, &group, &latest);
    settled(&[&first], &[2]).await;
    assert_eq!(starts(&first), [(0, Some(5)), (1, Some(0))]);
    first.leave().await;
    write(0, 3).await;
    add_partitions(&admin, &topic, 3).await;
    write(2, 4).await;
    let second = Peer::start(&topic, &group, &latest);
    settled(&[&second], &[3]).await;
    assert_eq!(starts(&second), [(0, Some(5)), (1, Some(0)), (2, Some(0))], "the later one from its beginning");
    second.leave().await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn latest_begins_once_in_a_classic_group() {
    latest_begins_once(CLASSIC).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn latest_begins_once_by_the_broker_s_protocol() {
    latest_begins_once(AUTO).await;
}

async fn a_restart_moves_nothing(protocol: &[(&str, &str)]) {
    let (topic, group) = (topic(4).await, unique("g"));
    let named = |name: &'static str| [protocol, &[("INSTANCE_ID", name), ("SESSION_TIMEOUT", "30s")]].concat();
    let (first, second) = (Peer::start(&topic, &group, &named("pod-0")), Peer::start(&topic, &group, &named("pod-1")));
    settled(&[&first, &second], &[2, 2]).await;
    let (before, revoked) = (first.owned.borrow().clone(), *second.revoked.borrow());
    first.leave().await;
    let again = Peer::start(&topic, &group, &named("pod-0"));
    settled(&[&again, &second], &[2, 2]).await;
    assert_eq!(*again.owned.borrow(), before);
    assert_eq!(*second.revoked.borrow(), revoked, "the other was left alone");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_restart_with_a_name_of_its_own_moves_nothing_in_a_classic_group() {
    a_restart_moves_nothing(CLASSIC).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_restart_with_a_name_of_its_own_moves_nothing_by_the_broker_s_protocol() {
    a_restart_moves_nothing(AUTO).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn who_is_killed_and_comes_back_under_its_name_has_its_partitions_at_once() {
    let (topic, group) = (topic(4).await, unique("g"));
    // Longer than the test waits: nothing here comes from a session's end.
    let named = |name: &'static str| [CLASSIC, &[("INSTANCE_ID", name), ("SESSION_TIMEOUT", "600s")]].concat();
    let (first, second) = (Peer::start(&topic, &group, &named("pod-0")), Peer::start(&topic, &group, &named("pod-1")));
    settled(&[&first, &second], &[2, 2]).await;
    let (before, revoked) = (first.owned.borrow().clone(), *second.revoked.borrow());
    drop(first);
    let again = Peer::start(&topic, &group, &named("pod-0"));
    settled(&[&again, &second], &[2, 2]).await;
    assert_eq!(*again.owned.borrow(), before);
    assert_eq!(*second.revoked.borrow(), revoked, "the other was left alone");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_group_goes_over_to_the_broker_s_protocol_member_by_member() {
    let (topic, group) = (topic(6).await, unique("g"));
    let (first, second) = (Peer::start(&topic, &group, CLASSIC), Peer::start(&topic, &group, CLASSIC));
    settled(&[&first, &second], &[3, 3]).await;
    let third = Peer::start(&topic, &group, AUTO);
    settled(&[&first, &second, &third], &[2, 2, 2]).await;
    first.leave().await;
    let fourth = Peer::start(&topic, &group, AUTO);
    settled(&[&second, &third, &fourth], &[2, 2, 2]).await;
    second.leave().await;
    settled(&[&third, &fourth], &[3, 3]).await;
    // And back again, as when an update is undone.
    let fifth = Peer::start(&topic, &group, CLASSIC);
    settled(&[&third, &fourth, &fifth], &[2, 2, 2]).await;
    third.leave().await;
    fourth.leave().await;
    settled(&[&fifth], &[6]).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn who_does_not_work_yet_takes_nothing_from_those_who_do() {
    let (topic, group) = (topic(2).await, unique("g"));
    let settings = [("TOPICS", topic.as_str())];
    let subscription = Subscription::new(&config(&settings).topics, None).expect("a subscription");
    let mut idle = GroupAssignment::new(cluster(&settings), &group, subscription);
    let peer = Peer::start(&topic, &group, AUTO);
    settled(&[&peer], &[2]).await;
    idle.leave().await;
    assert!(matches!(idle.next().await, Ok(Change::Assigned(_))), "from here on it is a member");
    settled(&[&peer], &[1]).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_consumer_protocol_is_spoken_when_asked_for_or_its_lack_is_fatal() {
    let (topic, group) = (topic(2).await, unique("g"));
    let peer = Peer::start(&topic, &group, &[("GROUP_PROTOCOL", "consumer")]);
    let error = eventually("it joins or is told", async || {
        let told = peer.error.borrow().clone();
        (told.is_some() || peer.count() == 2).then_some(told)
    })
    .await;
    let old = std::env::var("SYSTEM_TEST_KAFKA_VERSION").is_ok_and(|version| version.starts_with("3."));
    assert_eq!(error.is_some(), old, "{error:?}");
    assert!(error.is_none_or(|error| error.contains("CONNECT_KAFKA_GROUP_PROTOCOL")));
}

async fn a_topic_made_anew_is_another_one(protocol: &[(&str, &str)]) {
    let (topic, group) = (topic(2).await, unique("g"));
    let peer = Peer::start(&topic, &group, protocol);
    settled(&[&peer], &[2]).await;
    let admin = cluster(&[]);
    delete_topic(&admin, &topic).await;
    create_topic(&admin, &topic, 2, &[]).await;
    eventually("both partitions come again, of the new topic", async || {
        let lives: BTreeSet<_> = peer.assigned.borrow().iter().map(|assigned| assigned.topic_id).collect();
        (lives.len() == 2 && peer.assigned.borrow().len() == 4).then_some(())
    })
    .await;
    settled(&[&peer], &[2]).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_topic_made_anew_is_another_one_to_a_classic_group() {
    a_topic_made_anew_is_another_one(CLASSIC).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_topic_made_anew_is_another_one_by_the_broker_s_protocol() {
    a_topic_made_anew_is_another_one(AUTO).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn two_of_one_name_are_told_so() {
    let (topic, group) = (topic(2).await, unique("g"));
    let named = [CLASSIC, &[("INSTANCE_ID", "pod-0")]].concat();
    let first = Peer::start(&topic, &group, &named);
    settled(&[&first], &[2]).await;
    let twin = Peer::start(&topic, &group, &named);
    let error = eventually("the first is told", async || first.error.borrow().clone()).await;
    assert!(error.contains("CONNECT_KAFKA_INSTANCE_ID=pod-0") && error.contains(&group), "{error}");
    assert!(error.contains("127.0.0.1"), "where the twin is: {error}");
    settled(&[&twin], &[2]).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn who_is_no_member_cannot_commit_while_there_are_members() {
    let (topic, group) = (topic(1).await, unique("g"));
    let partition = TopicPartition::new(topic.as_str(), 0);
    let coordinator = Coordinator::new(cluster(&[]), &group);
    let peer = Peer::start(&topic, &group, CLASSIC);
    settled(&[&peer], &[1]).await;
    let stale = Identity { member: "somebody-else".to_owned(), generation: 1, instance: None };
    let refused = coordinator.commit(&stale, &[(partition.clone(), 7)]).await;
    assert!(matches!(refused, Err(CommitError::Fenced(_))), "{refused:?}");
    let refused = coordinator.commit(&Identity::none(), &[(partition.clone(), 7)]).await;
    assert!(matches!(&refused, Err(CommitError::Transient(why)) if why.contains("it has members")), "{refused:?}");
    peer.leave().await;
    assert_eq!(coordinator.committed(&[partition]).await.expect("known").len(), 0);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn without_a_group_offsets_are_kept_under_its_name_all_the_same() {
    let (topic, group) = (topic(4).await, unique("g"));
    let partition = TopicPartition::new(topic.as_str(), 1);
    let start = |shard: Option<&str>| {
        let subscription = Subscription::new(&config(&[("TOPICS", &topic)]).topics, None).expect("a subscription");
        let shard = shard.map(|text| connect_core::config::Setting::parse(text).expect("a shard"));
        StaticAssignment::new(cluster(&[]), &group, subscription, shard)
    };
    let assigned = async |mut assignment: StaticAssignment| match assignment.next().await.expect("a change") {
        Change::Assigned(assigned) => assigned,
        other => panic!("{other:?}"),
    };
    let mut first = start(None);
    assert!(matches!(first.next().await, Ok(Change::Assigned(all)) if all.len() == 4));
    eventually("the offset is committed", async || first.commit(vec![(partition.clone(), 7)]).await.ok()).await;

    let found = assigned(start(None)).await;
    let committed: Vec<_> = found.iter().map(|assigned| assigned.committed).collect();
    assert_eq!(committed, [None, Some(7), None, None]);
    assert!(found.iter().all(|assigned| assigned.topic_id.is_some()));

    let parts = [assigned(start(Some("0/2"))).await, assigned(start(Some("1/2"))).await];
    assert_eq!(parts.concat().len(), 4);
    let all: BTreeSet<_> = parts.concat().into_iter().map(|assigned| assigned.partition).collect();
    assert_eq!(all.len(), 4);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_listed_topic_is_ours_once_it_exists_and_no_longer_when_it_is_gone() {
    let (present, later) = (topic(2).await, unique("later"));
    let all = [("TOPICS", format!("{present},{later}"))];
    let all = [("TOPICS", all[0].1.as_str()), ("TOPICS_REFRESH", "1s")];
    let subscription = Subscription::new(&config(&all).topics, None).expect("a subscription");
    let mut assignment = StaticAssignment::new(cluster(&all), &unique("g"), subscription, None);
    let next = async |assignment: &mut StaticAssignment| {
        let change = tokio::time::timeout(support::LIMIT, assignment.next()).await;
        change.expect("in time").expect("a change")
    };
    let partitions = |change: Change| match change {
        Change::Assigned(all) => all.into_iter().map(|assigned| assigned.partition.to_string()).collect::<Vec<_>>(),
        Change::Lost(all) => all.iter().map(|partition| format!("lost {partition}")).collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(partitions(next(&mut assignment).await), [format!("{present}-0"), format!("{present}-1")]);
    create_topic(&cluster(&[]), &later, 1, &[]).await;
    assert_eq!(partitions(next(&mut assignment).await), [format!("{later}-0")]);
    delete_topic(&cluster(&[]), &later).await;
    assert_eq!(partitions(next(&mut assignment).await), [format!("lost {later}-0")]);
}
