//! What is no answer: silence, an end, nonsense, a brake.

use std::time::Duration;

use ApiKey::{
    ApiVersions, ConsumerGroupHeartbeat, CreateTopics, Fetch, FindCoordinator, Heartbeat, JoinGroup, ListOffsets,
    Metadata, OffsetCommit, OffsetFetch, Produce, SyncGroup,
};
use connect_testkit::broker::{ApiKey, Brokers, Fault};
use futures::FutureExt;
use futures::future::join_all;

use crate::drive::{Driven, End, drive, drive_rskafka};
use crate::{brokers, put_forward};

const REQUESTS: [ApiKey; 11] = [
    ApiVersions,
    Metadata,
    Fetch,
    ListOffsets,
    FindCoordinator,
    OffsetFetch,
    OffsetCommit,
    JoinGroup,
    SyncGroup,
    Heartbeat,
    ConsumerGroupHeartbeat,
];

/// Whatever happened to the answer: the request is made again and has its effect, and nobody loses a partition by that.
async fn is_made_again(api: ApiKey, fault: Fault) {
    let driven = drive(&brokers().await, api, fault).await;
    assert!(matches!(driven.end, End::Done), "{api:?} and {fault:?}: {:?}", driven.end);
    assert!(!driven.lost, "{api:?} and {fault:?}: a membership was lost");
    assert!(driven.behind.iter().any(|later| later.api == api), "{api:?} and {fault:?}: not asked again");
}

async fn all_are_made_again(faults: &[Fault]) {
    let all = REQUESTS.iter().flat_map(|api| faults.iter().map(|fault| is_made_again(*api, *fault).boxed_local()));
    join_all(all).await;
}

#[tokio::test]
async fn a_connection_that_ends_is_made_again_and_so_is_the_request() {
    all_are_made_again(&[Fault::Close, Fault::CutOff]).await;
}

#[tokio::test]
async fn what_is_no_answer_is_never_taken_for_one() {
    all_are_made_again(&[Fault::WrongId, Fault::Garbage, Fault::NotKafka]).await;
}

/// How long a request may take before its broker counts as gone; members have a session time-out of 3 s here.
fn limit(api: ApiKey) -> Duration {
    Duration::from_secs(match api {
        ApiVersions => 10,
        // The coordinator waits for the other members: for the rebalance time-out of 60 s.
        JoinGroup | SyncGroup => 75,
        Heartbeat | ConsumerGroupHeartbeat => 1,
        Fetch => 16,
        _ => 15,
    })
}

#[tokio::test]
async fn silence_has_an_end() {
    for api in REQUESTS {
        let brokers = brokers().await;
        let driven = until_it_ends(&brokers, limit(api), drive(&brokers, api, Fault::Silence)).await;
        assert!(matches!(driven.end, End::Done), "{api:?}: {:?}", driven.end);
        assert!(!driven.lost, "{api:?}: a membership was lost");
    }
}

/// rskafka by itself waits for ever; dead letters and the simple reader must not.
#[tokio::test]
async fn rskafka_s_silence_has_an_end() {
    for api in [Produce, CreateTopics] {
        let brokers = brokers().await;
        let driven = until_it_ends(&brokers, limit(api), drive(&brokers, api, Fault::Silence)).await;
        assert!(matches!(driven.end, End::Done), "{api:?}: {:?}", driven.end);
    }
    for api in [Metadata, ListOffsets, Fetch] {
        let brokers = brokers().await;
        let driven = until_it_ends(&brokers, limit(api), drive_rskafka(&brokers, api, Fault::Silence)).await;
        assert!(matches!(driven.end, End::Done), "{api:?}: {:?}", driven.end);
    }
}

/// Puts the clock forward when the broker has become silent. Only the request that it left unanswered waits for time to pass: that takes
/// nothing from anybody else.
async fn until_it_ends(brokers: &Brokers, limit: Duration, drive: impl Future<Output = Driven>) -> Driven {
    let clock = async {
        brokers.until("it is silent", |all| all.iter().any(|asked| asked.fault == Some(Fault::Silence))).await;
        put_forward(limit + Duration::from_millis(100)).await;
    };
    tokio::join!(drive, clock).0
}

/// A broker that brakes us answers at once, and takes our next request late. Nothing is lost by that, and nothing begun anew.
#[tokio::test]
async fn a_brake_is_waited_for() {
    const BRAKE: Duration = Duration::from_millis(700);
    for api in [Fetch, OffsetCommit, Heartbeat, ConsumerGroupHeartbeat] {
        let brokers = brokers().await;
        let driven = drive(&brokers, api, Fault::Throttle(BRAKE)).await;
        assert!(matches!(driven.end, End::Done) && !driven.lost, "{api:?}: {:?}", driven.end);
        assert!(driven.behind.iter().all(|later| later.api != ApiVersions), "{api:?}: a connection was made anew");
        if let Some(next) = driven.behind.iter().find(|later| later.api == api) {
            assert!(next.at - driven.asked.at >= BRAKE, "{api:?}: the broker does not brake");
        }
    }
}
