//! Each kind of request, made by who makes it in a connector, until it has its effect or is given up.

use std::time::Duration;

use connect_core::config::Isolation;
use connect_core::kafka::coordinator::{Coordinator, Identity};
use connect_core::kafka::{
    Connection, GroupAssignment, KafkaDeadLetterTopic, KafkaError, KafkaSource, RskafkaSource, Subscription,
    list_offsets,
};
use connect_core::{
    Assignment, Budget, Change, CommitError, DeadLetter, DeadLetterError, DeadLetterTopic, Position, Record, Rejection,
    Source, SourceError,
};
use connect_testkit::broker::{ApiKey, Asked, Brokers, Fault, ResponseError};
use tokio::time::{sleep, timeout};

use crate::{cluster, config, draft, partition};

/// How soon a caller asks again: the pipeline itself begins with 100 ms.
const AGAIN: Duration = Duration::from_millis(20);
/// Ends what hangs.
const LIMIT: Duration = Duration::from_secs(120);
pub const GROUP: &str = "g";

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// With the effect that was wanted.
    Done,
    /// Without it, and without an error.
    Nothing,
    /// The offset does not exist.
    OutOfRange,
    /// Somebody else is at work.
    Fenced,
    /// A person must change something.
    Fatal(String),
}

/// What came of a request that was answered wrongly.
pub struct Driven {
    pub end: End,
    /// The request that was.
    pub asked: Asked,
    /// All that was asked behind it.
    pub behind: Vec<Asked>,
    /// Whether partitions were taken for lost.
    pub lost: bool,
}

impl Driven {
    fn new(brokers: &Brokers, end: End, lost: bool) -> Self {
        let journal = brokers.journal();
        let at = journal.iter().position(|asked| asked.fault.is_some()).expect("the wrong answer was given");
        Self { end, asked: journal[at].clone(), behind: journal[at + 1..].to_vec(), lost }
    }
}

/// Makes this request, with one wrong answer to it.
pub async fn drive(brokers: &Brokers, api: ApiKey, fault: Fault) -> Driven {
    drive_times(brokers, api, fault, 1).await
}

/// The same with this many wrong answers.
pub async fn drive_times(brokers: &Brokers, api: ApiKey, fault: Fault, times: usize) -> Driven {
    let script = || brokers.script(api, times, fault);
    let mut lost = false;
    let work = async {
        match api {
            ApiKey::Fetch => read_in_session(brokers, script).await,
            ApiKey::Metadata | ApiKey::ApiVersions => {
                script();
                read_from(&source(brokers), 0).await
            }
            ApiKey::ListOffsets => {
                script();
                look_up(brokers).await
            }
            ApiKey::FindCoordinator | ApiKey::OffsetFetch => {
                script();
                committed(brokers).await
            }
            ApiKey::OffsetCommit => {
                script();
                commit(brokers).await
            }
            ApiKey::Produce | ApiKey::CreateTopics => {
                script();
                write_letters(brokers).await
            }
            ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::Heartbeat | ApiKey::ConsumerGroupHeartbeat => {
                member(brokers, api, fault, times, &mut lost).await
            }
            other => panic!("nobody makes {other:?}"),
        }
    };
    let end = timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{api:?} and {fault:?}: no end within {LIMIT:?}"));
    Driven::new(brokers, end, lost)
}

/// A partition that is behind reads by itself, not with those that wait: the second of two fetches.
pub async fn drive_behind(brokers: &Brokers, fault: Fault) -> Driven {
    let large = "x".repeat(100_000);
    brokers.append(&partition(), &[draft(&large)]);
    brokers.append(&partition(), &[draft(&large)]);
    let source = source(brokers);
    let first = source.fetch(&partition(), 0).await.expect("the first record");
    assert!(first.next < 3, "it is behind");
    brokers.script(ApiKey::Fetch, 1, fault);
    let end = timeout(LIMIT, read_from(&source, first.next)).await.expect("an end");
    Driven::new(brokers, end, false)
}

/// The simple reader makes this request, with one wrong answer to it.
pub async fn drive_rskafka(brokers: &Brokers, api: ApiKey, fault: Fault) -> Driven {
    let source = RskafkaSource::new(Connection::new(config(brokers, &[])), Budget::new(8 << 20));
    brokers.script(api, 1, fault);
    let work = async {
        // Offsets are looked up apart from reading.
        while api == ApiKey::ListOffsets && source.offset(&partition(), Position::Latest).await != Ok(1) {
            sleep(AGAIN).await;
        }
        read_from(&source, 0).await
    };
    let end = timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{api:?} and {fault:?}: no end within {LIMIT:?}"));
    Driven::new(brokers, end, false)
}

fn source(brokers: &Brokers) -> KafkaSource {
    KafkaSource::new(cluster(brokers, &[]), Budget::new(8 << 20))
}

/// The wrong answer comes when the broker keeps a session with what is to be read.
async fn read_in_session(brokers: &Brokers, script: impl Fn()) -> End {
    brokers.keep_sessions(true);
    let source = source(brokers);
    assert!(matches!(read_from(&source, 0).await, End::Done), "the session begins");
    brokers.append(&partition(), &[draft("w")]);
    script();
    read_from(&source, 1).await
}

async fn read_from(source: &impl Source, offset: i64) -> End {
    loop {
        match source.fetch(&partition(), offset).await {
            Ok(fetched) if fetched.records.is_empty() => {}
            Ok(_) => return End::Done,
            Err(SourceError::Transient { .. }) => sleep(AGAIN).await,
            Err(SourceError::OutOfRange { earliest, .. }) => {
                assert_eq!(earliest, 0, "both ends were looked up");
                return End::OutOfRange;
            }
            Err(SourceError::Fatal(message)) => return End::Fatal(message),
        }
    }
}

async fn look_up(brokers: &Brokers) -> End {
    let cluster = cluster(brokers, &[]);
    loop {
        match list_offsets::look_up(&cluster, &partition(), Position::Latest, Isolation::ReadCommitted).await {
            Ok(offset) => return if offset == 1 { End::Done } else { End::Nothing },
            Err(SourceError::Fatal(message)) => return End::Fatal(message),
            Err(_) => sleep(AGAIN).await,
        }
    }
}

async fn committed(brokers: &Brokers) -> End {
    brokers.commit(&partition(), 7);
    let coordinator = Coordinator::new(cluster(brokers, &[]), GROUP);
    loop {
        match coordinator.committed(&[partition()]).await {
            Ok(found) if found.get(&partition()).is_some_and(|found| found.offset == 7) => return End::Done,
            Ok(_) => return End::Nothing,
            Err(KafkaError::Fatal(message)) => return End::Fatal(message),
            Err(_) => sleep(AGAIN).await,
        }
    }
}

async fn commit(brokers: &Brokers) -> End {
    let coordinator = Coordinator::new(cluster(brokers, &[("INSTANCE_ID", "pod-0")]), GROUP);
    let us = Identity { member: "m".to_owned(), generation: 1, instance: None };
    loop {
        match coordinator.commit(&us, &[(partition(), 5)]).await {
            Ok(()) if brokers.committed(&partition()).is_some_and(|(offset, _)| offset == 5) => return End::Done,
            Ok(()) => return End::Nothing,
            Err(CommitError::Fatal(message)) => return End::Fatal(message),
            Err(CommitError::Fenced(_)) => return End::Fenced,
            Err(CommitError::Transient(_)) => sleep(AGAIN).await,
        }
    }
}

fn letter(offset: i64) -> DeadLetter {
    let record = Record {
        topic: partition().topic,
        partition: 0,
        offset,
        timestamp: 0,
        key: None,
        value: Some("bad".into()),
        headers: vec![],
    };
    DeadLetter { record, rejection: Rejection::new("no key") }
}

async fn write_letters(brokers: &Brokers) -> End {
    let connection = Connection::new(config(brokers, &[]));
    let topic = KafkaDeadLetterTopic::new(connection, "c", "dead", Some(1), Some(1));
    loop {
        match topic.write(&[letter(1), letter(2)]).await {
            Ok(()) => return End::Done,
            Err(DeadLetterError::Transient(_)) => sleep(AGAIN).await,
            Err(DeadLetterError::Refused(message)) => return End::Fatal(message),
        }
    }
}

/// A member of the group: has what it may have, and the request has been answered as it should be since.
async fn member(brokers: &Brokers, api: ApiKey, fault: Fault, times: usize, lost: &mut bool) -> End {
    let protocol = if api == ApiKey::ConsumerGroupHeartbeat { "auto" } else { "classic" };
    let mut settings = vec![("GROUP_PROTOCOL", protocol), ("SESSION_TIMEOUT", "3s")];
    // Only those with a name of their own are told of a twin; and only those without are given one.
    let named = [ResponseError::FencedInstanceId, ResponseError::UnreleasedInstanceId].map(Fault::EachPartition);
    if named.contains(&fault) {
        settings.push(("INSTANCE_ID", "pod-0"));
    }
    let config = config(brokers, &settings);
    let subscription = Subscription::new(&config.topics, None).expect("names");
    let mut assignment = GroupAssignment::new(cluster(brokers, &settings), GROUP, subscription);
    // A heartbeat is answered wrongly when there is something to lose. The one that goes along with taking it up may still be on its
    // way then, and its answer is not looked at: the next one would say the same.
    let beats = matches!(api, ApiKey::Heartbeat | ApiKey::ConsumerGroupHeartbeat);
    let asked_since = |from| brokers.journal().iter().skip(from).filter(|asked| asked.api == api).count();
    let mut scripted = false;
    let mut owned = false;
    let mut from = 0;
    loop {
        if !scripted && (!beats || owned && asked_since(from) >= 2) {
            scripted = true;
            from = brokers.journal().len();
            brokers.script(api, times, fault);
        }
        let asked = asked_since(from);
        let classic = brokers.journal().iter().any(|asked| asked.api == ApiKey::SyncGroup);
        let again = asked > times || (classic && api == ApiKey::ConsumerGroupHeartbeat);
        if scripted && owned && again {
            assignment.leave().await;
            return End::Done;
        }
        let change = tokio::select! {
            change = assignment.next() => change,
            () = sleep(AGAIN) => continue,
        };
        match change {
            Ok(Change::Assigned(partitions)) if partitions.is_empty() => {}
            Ok(Change::Assigned(_)) => {
                if !scripted {
                    from = brokers.journal().len();
                }
                owned = true;
            }
            Ok(Change::Lost(_)) => (owned, *lost) = (false, true),
            Ok(other) => panic!("{other:?}"),
            Err(error) => return End::Fatal(error.to_string()),
        }
    }
}
