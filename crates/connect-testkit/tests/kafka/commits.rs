//! How often offsets are committed, and what becomes of a process whose offsets cannot be.

use std::sync::Arc;
use std::time::Duration;

use connect_core::kafka::{GroupAssignment, KafkaSource, Subscription};
use connect_core::{Budget, DeadLetters, Health, Ledgers, Pipeline, RunEnd, Settings, supervise};
use connect_testkit::broker::{ApiKey, Asked, Brokers, FOREVER, Fault, ResponseError};
use connect_testkit::store::{Effect, Guard, Store};
use kafka_protocol::messages::OffsetCommitRequest;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::drive::GROUP;
use crate::{brokers, cluster, config, draft, partition};

/// A whole connector but for its store.
fn start(brokers: &Brokers, shutdown: CancellationToken) -> JoinHandle<Result<RunEnd, String>> {
    let cluster = cluster(brokers, &[]);
    let subscription = Subscription::new(&config(brokers, &[]).topics, None).expect("names");
    let assignment = GroupAssignment::new(Arc::clone(&cluster), GROUP, subscription);
    let source = Arc::new(KafkaSource::new(cluster, Budget::new(8 << 20)));
    let sink = Arc::new(Store::new(Guard::PerKey, Effect::Put));
    let ledgers = Arc::new(Ledgers::default());
    let pipeline = Pipeline::new(source, sink, DeadLetters::Stop, Settings::default(), ledgers);
    tokio::spawn(supervise(Arc::new(pipeline), assignment, Arc::new(Health::default()), shutdown))
}

fn offset(commit: &Asked) -> i64 {
    commit.request::<OffsetCommitRequest>().topics[0].partitions[0].committed_offset
}

/// However fast the records come: each second at most one commit, and one more when the process is asked to stop.
#[tokio::test]
async fn offsets_are_committed_once_a_second_and_at_the_end() {
    let brokers = brokers().await;
    let shutdown = CancellationToken::new();
    let started = Instant::now();
    let process = start(&brokers, shutdown.clone());
    let load = async {
        let mut tick = interval(Duration::from_millis(5));
        loop {
            tick.tick().await;
            brokers.append(&partition(), &[draft("w")]);
        }
    };
    tokio::select! {
        () = load => {}
        _ = brokers.asked(ApiKey::OffsetCommit, 4) => {}
    }
    let end = brokers.append(&partition(), &[draft("last")]) + 1;
    // What is in hand is written before a stop, what was not read yet need not be.
    brokers.until("all is read", |all| all.iter().any(|asked| is_fetch_from(asked, end))).await;
    shutdown.cancel();
    let ended = timeout(Duration::from_secs(60), process).await.expect("it stops").expect("no panic");
    assert_eq!(ended, Ok(RunEnd::Drained));

    let commits = brokers.asked(ApiKey::OffsetCommit, 5).await;
    let last = &commits[commits.len() - 1];
    assert_eq!(offset(last), end, "the last one is of all that was written");
    assert!(commits.is_sorted_by(|a, b| offset(a) < offset(b)), "each of something new");
    // One at once, one at the end, and one for each second between.
    let seconds = (last.at - started).as_secs();
    assert!(commits.len() as u64 <= seconds + 2, "{} commits in {seconds} s", commits.len());
}

fn is_fetch_from(asked: &Asked, offset: i64) -> bool {
    asked.api == ApiKey::Fetch
        && asked
            .request::<kafka_protocol::messages::FetchRequest>()
            .topics
            .iter()
            .any(|topic| topic.partitions.iter().any(|partition| partition.fetch_offset == offset))
}

#[tokio::test]
async fn a_process_that_may_not_commit_ends_and_says_what_to_change() {
    for (code, names) in [
        (ResponseError::GroupAuthorizationFailed, "CONNECT_KAFKA_GROUP"),
        (ResponseError::OffsetMetadataTooLarge, "offset.metadata.max.bytes"),
    ] {
        let brokers = brokers().await;
        brokers.script(ApiKey::OffsetCommit, FOREVER, Fault::EachPartition(code));
        let process = start(&brokers, CancellationToken::new());
        let ended = timeout(Duration::from_secs(20), process).await.expect("sooner than a drain may take");
        let message = ended.expect("no panic").expect_err("fatal");
        assert!(message.contains(names), "{message}");
    }
}

/// A coordinator that is away for a while costs nothing but the wait.
#[tokio::test]
async fn a_commit_that_is_refused_for_now_is_made_later() {
    let brokers = brokers().await;
    brokers.script(ApiKey::OffsetCommit, 2, Fault::EachPartition(ResponseError::RebalanceInProgress));
    let shutdown = CancellationToken::new();
    let process = start(&brokers, shutdown.clone());
    let commits = brokers.asked(ApiKey::OffsetCommit, 3).await;
    assert!(commits.iter().all(|commit| offset(commit) == 1), "the same again");
    shutdown.cancel();
    assert_eq!(process.await.expect("no panic"), Ok(RunEnd::Drained));
    assert_eq!(brokers.committed(&partition()).map(|(offset, _)| offset), Some(1));
}
