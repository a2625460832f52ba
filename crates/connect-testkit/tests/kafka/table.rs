//! What the connector does about each error code. The chapter of `docs/kafka.md` is made from this table.

use std::fmt::Write as _;

use ApiKey::{
    ApiVersions, ConsumerGroupHeartbeat, CreateTopics, Fetch, FindCoordinator, Heartbeat, JoinGroup, ListOffsets,
    Metadata, OffsetCommit, OffsetFetch, Produce, SyncGroup,
};
use ResponseError as E;
use connect_core::config::reference::keep;
use connect_testkit::broker::{ApiKey, Asked, Fault, ResponseError};
use futures::future::join_all;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, FetchRequest, HeartbeatRequest, JoinGroupRequest, SyncGroupRequest,
};

use crate::brokers;
use crate::drive::{Driven, End, drive, drive_behind, drive_times};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reaction {
    Again,
    AsksMetadata,
    FindsCoordinator,
    Rejoins,
    LosesAndRejoins,
    JoinsAnew,
    SpeaksClassic,
    Skips,
    Fenced,
    OutOfRange,
    SendsOneByOne,
    Stops(&'static str),
    Holds(&'static str),
}

use Reaction::*;

impl Reaction {
    fn words(self) -> String {
        let words = match self {
            Again => "asks again",
            AsksMetadata => "asks who leads the partition now, then again",
            FindsCoordinator => "looks for the group's coordinator, then asks again",
            Rejoins => "joins again as the same member; its partitions go on",
            LosesAndRejoins => {
                "stops its partitions uncommitted, for others may have them; joins again as the same member"
            }
            JoinsAnew => "stops its partitions uncommitted, for others may have them; joins as a new member",
            SpeaksClassic => {
                "goes on with the classic protocol; with `CONNECT_KAFKA_GROUP_PROTOCOL=consumer` it ends with exit code 1"
            }
            Skips => "leaves the partition out: its topic is gone, or not there yet",
            Fenced => "does not commit: another process has the partitions. The next heartbeat tells more",
            OutOfRange => "does what `CONNECT_KAFKA_OUT_OF_RANGE` says",
            SendsOneByOne => {
                "sends the letters one by one; before one that is too large by itself the partition stays, and the record is named"
            }
            Stops(names) => return format!("ends with exit code 1; the message says `{names}`"),
            Holds(names) => {
                return format!(
                    "ends with exit code 1 at the start; later the partition stays before the record; the message says `{names}`"
                );
            }
        };
        words.to_owned()
    }
}

/// To any of these requests, any of these codes.
struct Row {
    to: &'static [ApiKey],
    /// Said of the whole request, or of a whole topic, not of a partition.
    whole: bool,
    codes: &'static [ResponseError],
    reaction: Reaction,
}

const fn row(to: &'static [ApiKey], codes: &'static [ResponseError], reaction: Reaction) -> Row {
    Row { to, whole: false, codes, reaction }
}

const fn whole(to: &'static [ApiKey], codes: &'static [ResponseError], reaction: Reaction) -> Row {
    Row { to, whole: true, codes, reaction }
}

const TABLE: &[Row] = &[
    row(&[ApiVersions], &[E::UnsupportedVersion], Stops("Kafka 2.8 or newer")),
    whole(
        &[Metadata],
        &[
            E::UnknownTopicOrPartition,
            E::LeaderNotAvailable,
            E::KafkaStorageError,
            E::RequestTimedOut,
            E::UnknownServerError,
        ],
        Again,
    ),
    row(&[Metadata], &[E::LeaderNotAvailable], Again),
    whole(&[Metadata], &[E::InvalidTopicException], Stops("CONNECT_KAFKA_TOPICS")),
    whole(&[Metadata], &[E::TopicAuthorizationFailed], Stops("grant Describe and Read")),
    row(
        &[Fetch, ListOffsets],
        &[
            E::NotLeaderOrFollower,
            E::LeaderNotAvailable,
            E::FencedLeaderEpoch,
            E::UnknownLeaderEpoch,
            E::UnknownTopicOrPartition,
            E::UnknownTopicId,
            E::InconsistentTopicId,
            E::OffsetNotAvailable,
            E::ReplicaNotAvailable,
            E::KafkaStorageError,
            E::CorruptMessage,
            E::RequestTimedOut,
            E::NetworkException,
            E::UnknownServerError,
        ],
        AsksMetadata,
    ),
    row(&[Fetch], &[E::OffsetOutOfRange], OutOfRange),
    row(
        &[Fetch, ListOffsets],
        &[E::TopicAuthorizationFailed, E::ClusterAuthorizationFailed],
        Stops("CONNECT_KAFKA_SASL_USERNAME"),
    ),
    row(&[Fetch, ListOffsets], &[E::UnsupportedVersion, E::UnsupportedForMessageFormat], Stops("too old")),
    row(&[Fetch], &[E::UnsupportedCompressionType], Stops("too old")),
    whole(
        &[Fetch],
        &[E::FetchSessionIdNotFound, E::InvalidFetchSessionEpoch, E::FetchSessionTopicIdError, E::UnknownServerError],
        Again,
    ),
    row(
        &[FindCoordinator],
        &[E::CoordinatorNotAvailable, E::CoordinatorLoadInProgress, E::RequestTimedOut, E::UnknownServerError],
        FindsCoordinator,
    ),
    whole(
        &[OffsetFetch],
        &[E::NotCoordinator, E::CoordinatorNotAvailable, E::RequestTimedOut, E::UnknownServerError],
        FindsCoordinator,
    ),
    row(
        &[OffsetCommit, JoinGroup, SyncGroup, Heartbeat, ConsumerGroupHeartbeat],
        &[E::NotCoordinator, E::CoordinatorNotAvailable, E::RequestTimedOut, E::UnknownServerError],
        FindsCoordinator,
    ),
    whole(&[OffsetFetch], &[E::CoordinatorLoadInProgress], Again),
    row(&[OffsetFetch], &[E::UnstableOffsetCommit], Again),
    row(&[OffsetCommit, JoinGroup, Heartbeat, ConsumerGroupHeartbeat], &[E::CoordinatorLoadInProgress], Again),
    row(&[OffsetCommit], &[E::RebalanceInProgress, E::StaleMemberEpoch], Again),
    row(&[JoinGroup], &[E::RebalanceInProgress], Again),
    row(&[ConsumerGroupHeartbeat], &[E::UnreleasedInstanceId], Again),
    row(&[OffsetFetch, OffsetCommit], &[E::UnknownTopicOrPartition], Skips),
    row(
        &[OffsetCommit],
        &[E::IllegalGeneration, E::UnknownMemberId, E::FencedMemberEpoch, E::FencedInstanceId],
        Fenced,
    ),
    row(&[OffsetCommit], &[E::OffsetMetadataTooLarge, E::InvalidCommitOffsetSize], Stops("offset.metadata.max.bytes")),
    row(&[JoinGroup], &[E::MemberIdRequired], Rejoins),
    row(&[SyncGroup], &[E::RebalanceInProgress, E::IllegalGeneration, E::CoordinatorLoadInProgress], Rejoins),
    row(&[Heartbeat], &[E::RebalanceInProgress], Rejoins),
    row(&[Heartbeat], &[E::IllegalGeneration], LosesAndRejoins),
    row(&[JoinGroup, SyncGroup, Heartbeat], &[E::UnknownMemberId], JoinsAnew),
    row(&[ConsumerGroupHeartbeat], &[E::FencedMemberEpoch, E::UnknownMemberId, E::GroupIdNotFound], JoinsAnew),
    row(&[ConsumerGroupHeartbeat], &[E::UnsupportedVersion], SpeaksClassic),
    whole(
        &[FindCoordinator, OffsetFetch, OffsetCommit, JoinGroup, SyncGroup, Heartbeat, ConsumerGroupHeartbeat],
        &[E::GroupAuthorizationFailed, E::TopicAuthorizationFailed, E::ClusterAuthorizationFailed, E::InvalidGroupId],
        Stops("CONNECT_KAFKA_GROUP"),
    ),
    row(
        &[JoinGroup, SyncGroup, Heartbeat, ConsumerGroupHeartbeat],
        &[E::FencedInstanceId],
        Stops("CONNECT_KAFKA_INSTANCE_ID"),
    ),
    row(&[JoinGroup], &[E::InvalidSessionTimeout], Stops("CONNECT_KAFKA_SESSION_TIMEOUT")),
    row(&[JoinGroup, SyncGroup], &[E::InconsistentGroupProtocol], Stops("CONNECT_KAFKA_GROUP_PROTOCOL")),
    row(&[ConsumerGroupHeartbeat], &[E::UnsupportedAssignor], Stops("CONNECT_KAFKA_GROUP_PROTOCOL")),
    row(&[JoinGroup, ConsumerGroupHeartbeat], &[E::GroupMaxSizeReached], Stops("group.max.size")),
    row(&[OffsetFetch, OffsetCommit, JoinGroup], &[E::UnsupportedVersion], Stops("too old")),
    row(
        &[Produce],
        &[
            E::NotLeaderOrFollower,
            E::UnknownTopicOrPartition,
            E::NotEnoughReplicas,
            E::NotEnoughReplicasAfterAppend,
            E::KafkaStorageError,
            E::CorruptMessage,
            E::RequestTimedOut,
            E::NetworkException,
        ],
        AsksMetadata,
    ),
    row(&[Produce], &[E::LeaderNotAvailable], Again),
    row(&[Produce], &[E::MessageTooLarge, E::RecordListTooLarge], SendsOneByOne),
    row(
        &[Produce, CreateTopics],
        &[E::TopicAuthorizationFailed, E::ClusterAuthorizationFailed],
        Holds("grant Create and Write"),
    ),
    row(&[Produce], &[E::InvalidRecord, E::InvalidTimestamp], Holds("the topic's settings")),
    row(&[CreateTopics], &[E::NotController, E::RequestTimedOut, E::ThrottlingQuotaExceeded], Again),
    row(&[CreateTopics], &[E::PolicyViolation, E::InvalidPartitions], Holds("create it by hand")),
];

impl Row {
    fn fault(&self, code: ResponseError) -> Fault {
        if self.whole { Fault::Whole(code) } else { Fault::EachPartition(code) }
    }

    async fn check(&self, api: ApiKey, code: ResponseError) -> Vec<String> {
        let driven = drive(&brokers().await, api, self.fault(code)).await;
        let mut judged = vec![self.judge(&driven)];
        if api == Fetch {
            judged.push(judge_session(&driven, self.whole));
        }
        if api == Fetch && !matches!(self.reaction, OutOfRange) {
            judged.push(self.judge(&drive_behind(&brokers().await, self.fault(code)).await));
        }
        if self.reaction == SendsOneByOne {
            let end = drive_times(&brokers().await, api, self.fault(code), usize::MAX).await.end;
            judged.push(match end {
                End::Fatal(text) if text.contains("orders") && text.contains("max.message.bytes") => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
        let failed = judged.into_iter().filter_map(Result::err);
        failed.map(|why| format!("{api:?}: {code:?}: expected {:?}: {why}", self.reaction)).collect()
    }

    /// Whether what was seen is what the row says.
    fn judge(&self, driven: &Driven) -> Result<(), String> {
        let Driven { end, asked, behind, lost } = driven;
        let next = behind.iter().position(|later| later.api == asked.api);
        let before_next = |api| behind[..next.unwrap_or(behind.len())].iter().any(|later| later.api == api);
        let next_join = behind.iter().find(|later| later.api == JoinGroup).map(Asked::request::<JoinGroupRequest>);
        let same = next_join.as_ref().is_some_and(|join| !join.member_id.is_empty() && is_from(asked, &join.member_id));
        let done = matches!(end, End::Done);
        let right = match self.reaction {
            Again => done && !lost && next.is_some() && !before_next(FindCoordinator),
            AsksMetadata => done && before_next(Metadata),
            FindsCoordinator if asked.api == FindCoordinator => done && next.is_some(),
            FindsCoordinator => done && !lost && before_next(FindCoordinator),
            Rejoins => done && !lost && same,
            LosesAndRejoins => done && *lost && same,
            JoinsAnew if asked.api == ConsumerGroupHeartbeat => {
                let next = next.map(|next| behind[next].request::<ConsumerGroupHeartbeatRequest>());
                done && *lost && next.is_some_and(|beat| beat.member_epoch == 0)
            }
            JoinsAnew => {
                let anew = next_join.is_some_and(|join| join.member_id.is_empty());
                done && anew && *lost == (asked.api == Heartbeat)
            }
            SpeaksClassic => done && !lost && next_join.is_some(),
            Skips => matches!(end, End::Nothing),
            Fenced => matches!(end, End::Fenced),
            OutOfRange => matches!(end, End::OutOfRange),
            SendsOneByOne => done && behind.iter().filter(|later| later.api == Produce).count() == 2,
            Stops(names) | Holds(names) => matches!(end, End::Fatal(message) if message.contains(names)),
        };
        let seen = behind.iter().map(|later| later.api).collect::<Vec<_>>();
        if right { Ok(()) } else { Err(format!("{end:?}, lost {lost}, then {seen:?}")) }
    }
}

/// The request was one of a session; and where it was refused as a whole, the next one asks for a new session and names everything.
fn judge_session(driven: &Driven, refused: bool) -> Result<(), String> {
    let asked: FetchRequest = driven.asked.request();
    if asked.session_id == 0 || asked.session_epoch != 1 {
        return Err(format!("no session: {asked:?}"));
    }
    let next = driven.behind.iter().find(|later| later.api == Fetch).map(Asked::request::<FetchRequest>);
    let anew = next.as_ref().is_some_and(|next| next.session_epoch == 0 && next.topics.len() == 1);
    if refused && !anew { Err(format!("the session goes on: {next:?}")) } else { Ok(()) }
}

/// Whether this request was made as this member, or as nobody yet.
fn is_from(asked: &Asked, member: &str) -> bool {
    let said = match asked.api {
        JoinGroup => asked.request::<JoinGroupRequest>().member_id,
        SyncGroup => asked.request::<SyncGroupRequest>().member_id,
        Heartbeat => asked.request::<HeartbeatRequest>().member_id,
        _ => return false,
    };
    said.is_empty() || *said == *member
}

#[tokio::test]
async fn each_code_is_answered_as_the_table_says() {
    let all = TABLE
        .iter()
        .flat_map(|row| row.to.iter().flat_map(move |api| row.codes.iter().map(move |code| (row, *api, *code))));
    let failed = join_all(all.map(|(row, api, code)| row.check(api, code))).await.concat();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Kafka says of each code whether asking again may help. Where it may, nobody is to be called out of bed.
#[test]
fn nothing_that_may_pass_stops_the_process() {
    for row in TABLE {
        for code in row.codes {
            assert!(!(code.is_retriable() && matches!(row.reaction, Stops(_) | Holds(_))), "{code:?} of {:?}", row.to);
        }
    }
}

#[test]
fn the_document_says_what_the_table_says() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kafka.md");
    keep(document, "error codes", "the table of the test", &chapter()).expect("the same");
}

fn chapter() -> String {
    let mut text = "| to | Kafka answers | and the connector |\n|---|---|---|\n".to_owned();
    for row in TABLE {
        let to = row.to.iter().map(|api| format!("{api:?}")).collect::<Vec<_>>().join(", ");
        let codes = row.codes.iter().map(|code| format!("`{}`", name(*code))).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "| {to} | {codes} | {} |", row.reaction.words());
    }
    text
}

/// As Kafka's documentation has it: `NOT_LEADER_OR_FOLLOWER`.
fn name(code: ResponseError) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
