//! One promise of the framework a test, where the simulation would not point at the line.

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use connect_core::{
    Assigned, Assignment, AssignmentError, Batch, Budget, Change, CommitError, DeadLetters, Fate, Fetched, Health,
    Ledgers, OutOfRange, Outcome, Pipeline, Position, Record, Rejection, Resume, RunEnd, Settings, Sink, SinkError,
    Source, SourceError, Start, Stop, TopicPartition, supervise,
};
use connect_testkit::dice::{Dice, Trouble};
use connect_testkit::group::{Group, Member, MemberId};
use connect_testkit::log::{Log, LogSource};
use connect_testkit::store::{Behaviour, Effect, Guard, Store, Write};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A store that can be told to hang, or to fail for good.
#[derive(Clone)]
struct Moody {
    store: Store,
    mood: Arc<AtomicU8>,
}

const WELL: u8 = 0;
const HANGING: u8 = 1;
const BROKEN: u8 = 2;
const AWAY: u8 = 3;

impl Sink for Moody {
    type Op = Write;

    fn atomic(&self) -> bool {
        self.store.atomic()
    }

    fn prepare(&self, record: &Record) -> Result<Option<Write>, Rejection> {
        self.store.prepare(record)
    }

    fn target<'a>(&self, op: &'a Write) -> Option<&'a [u8]> {
        self.store.target(op)
    }

    async fn write(&self, batch: &Batch<Write>) -> Result<Outcome, SinkError> {
        match self.mood.load(Relaxed) {
            HANGING => pending().await,
            BROKEN => Err(SinkError::fatal("the disk is full")),
            _ => self.store.write(batch).await,
        }
    }

    async fn check(&self) -> Result<(), SinkError> {
        match self.mood.load(Relaxed) {
            AWAY => Err(SinkError::transient("connection", "nobody answers")),
            _ => Ok(()),
        }
    }

    async fn resume(&self, partition: &Assigned) -> Result<Resume, SinkError> {
        self.store.resume(partition).await
    }
}

/// A member of the group whose Kafka swallows each commit.
struct Unheard {
    member: Member,
    /// A commit is under way.
    commits: Arc<AtomicBool>,
}

impl Assignment for Unheard {
    async fn next(&mut self) -> Result<Change, AssignmentError> {
        self.member.next().await
    }

    async fn commit(&mut self, _: &[(TopicPartition, i64)]) -> Result<(), CommitError> {
        self.commits.store(true, Relaxed);
        pending().await
    }

    async fn released(&mut self, partitions: &[TopicPartition]) {
        self.member.released(partitions).await;
    }

    async fn leave(&mut self) {
        self.member.leave().await;
    }
}

/// A source that remembers from where it was read.
struct Traced {
    source: LogSource,
    fetches: Arc<Mutex<Vec<i64>>>,
}

impl Source for Traced {
    async fn fetch(&self, partition: &TopicPartition, offset: i64) -> Result<Fetched, SourceError> {
        self.fetches.lock().expect("nobody panics").push(offset);
        self.source.fetch(partition, offset).await
    }

    async fn offset(&self, partition: &TopicPartition, position: Position) -> Result<i64, SourceError> {
        self.source.offset(partition, position).await
    }
}

/// A topic, a store, and the processes that move the one into the other.
struct World {
    log: Log,
    /// Where reading began, each time.
    fetches: Arc<Mutex<Vec<i64>>>,
    group: Group,
    sink: Moody,
    settings: Settings,
}

struct Process {
    member: MemberId,
    ledgers: Arc<Ledgers>,
    health: Arc<Health>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<RunEnd, String>>,
}

impl Process {
    async fn end(self) -> Result<RunEnd, String> {
        self.task.await.expect("it doesn't panic")
    }

    async fn stop(self) -> Result<RunEnd, String> {
        self.shutdown.cancel();
        self.end().await
    }
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("topic", number)
}

impl World {
    fn new(guard: Guard, settings: Settings) -> Self {
        let sink = Moody { store: Store::new(guard, Effect::Put), mood: Arc::default() };
        let log = Log::new([partition(0), partition(1)]);
        Self { log, fetches: Arc::default(), group: Group::new(|_, _| {}), sink, settings }
    }

    /// Appends one record a key; each is of the second that is its offset.
    fn produce(&self, number: i32, keys: &[&str], behaviour: Behaviour) {
        for key in keys {
            let partition = partition(number);
            let timestamp = self.log.end(&partition) * 1_000;
            let (key, value) = (Some(Bytes::from(key.to_string())), Some(Bytes::from_static(b"v")));
            let (topic, headers) = (Arc::clone(&partition.topic), behaviour.headers());
            self.log.append(&partition, Record { topic, partition: number, offset: 0, timestamp, key, value, headers });
        }
    }

    fn start(&self) -> Process {
        self.start_with(DeadLetters::Drop)
    }

    fn start_with(&self, dead_letters: DeadLetters) -> Process {
        let member = self.group.join(Dice::new(2), Trouble::new(0));
        self.start_as(member.id(), member, dead_letters)
    }

    fn start_as(&self, id: MemberId, assignment: impl Assignment, dead_letters: DeadLetters) -> Process {
        let (ledgers, health, shutdown) =
            (Arc::<Ledgers>::default(), Arc::<Health>::default(), CancellationToken::new());
        let source = LogSource::new(self.log.clone(), Budget::new(1 << 20), Dice::new(1), Trouble::new(0));
        let source = Traced { source, fetches: Arc::clone(&self.fetches) };
        let sink = Arc::new(self.sink.clone());
        let settings = self.settings.clone();
        let pipeline = Pipeline::new(Arc::new(source), sink, dead_letters, settings, Arc::clone(&ledgers));
        let run = supervise(Arc::new(pipeline), assignment, Arc::clone(&health), shutdown.clone());
        Process { member: id, ledgers, health, shutdown, task: tokio::spawn(run) }
    }

    /// Starts a process that owns these partitions.
    fn start_on(&self, partitions: &[i32]) -> Process {
        let process = self.start();
        self.assign(&process, partitions);
        process
    }

    fn assign(&self, process: &Process, partitions: &[i32]) {
        for number in partitions {
            self.group.assign(&partition(*number), process.member);
        }
    }

    fn keys(&self) -> Vec<String> {
        self.sink.store.dump().into_keys().map(|key| String::from_utf8_lossy(&key).into_owned()).collect()
    }

    /// Two processes: the first one has partition 0, and a write in hand that hangs.
    async fn start_with_a_hanging_write(&self) -> (Process, Process) {
        let first = self.start_on(&[0]);
        let second = self.start();
        self.mood(HANGING);
        self.produce(0, &["a"], Behaviour::Written);
        until(|| first.ledgers.of(&partition(0)).in_flight() == 1).await;
        (first, second)
    }

    fn mood(&self, mood: u8) {
        self.sink.mood.store(mood, Relaxed);
    }

    async fn until_committed(&self, number: i32, offset: i64) {
        until(|| self.group.committed(&partition(number)) == Some(offset)).await;
    }
}

/// Waits, for an hour of simulated time at most.
async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3_600);
    while !condition() {
        assert!(Instant::now() < deadline, "it never comes");
        sleep(Duration::from_millis(100)).await;
    }
}

fn with(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

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
    world.produce(0, &["a"], Behaviour::Written);
    let (member, commits) = (world.group.join(Dice::new(2), Trouble::new(0)), Arc::<AtomicBool>::default());
    let id = member.id();
    let unheard = Unheard { member, commits: Arc::clone(&commits) };
    let process = world.start_as(id, unheard, DeadLetters::Drop);
    world.assign(&process, &[0]);
    until(|| commits.load(Relaxed)).await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(process.health.alive(), Ok(()), "waiting for Kafka is not hanging");
    let asked = Instant::now();
    let health = Arc::clone(&process.health);
    process.shutdown.cancel();
    until(|| health.ready() == Err("draining")).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "it is not waited for the commit: {:?}", asked.elapsed());
    assert_eq!(process.end().await, Ok(RunEnd::DrainTimeout), "the last offsets are not committed, and it says so");
    let limit = Settings::default().drain_timeout + Duration::from_secs(4);
    assert!(asked.elapsed() < limit, "{:?}", asked.elapsed());
}
