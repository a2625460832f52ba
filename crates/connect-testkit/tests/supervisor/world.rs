//! A topic, a store that can be told to hang, and processes that share a group.

use std::future::pending;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use connect_core::{
    Assigned, Assignment, AssignmentError, Batch, Budget, Change, CommitError, DeadLetters, Fetched, Health, Ledgers,
    Outcome, Pipeline, Position, Record, Rejection, Resume, RunEnd, Settings, Sink, SinkError, Source, SourceError,
    TopicPartition, supervise,
};
use connect_testkit::dice::{Dice, Trouble};
use connect_testkit::group::{Group, Member, MemberId};
use connect_testkit::log::{Log, LogSource};
use connect_testkit::store::{Behaviour, Effect, Guard, Store, Write};
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A store that can be told to hang, or to fail for good.
#[derive(Clone)]
pub struct Moody {
    pub store: Store,
    pub mood: Arc<AtomicU8>,
}

pub const WELL: u8 = 0;
pub const HANGING: u8 = 1;
pub const BROKEN: u8 = 2;
pub const AWAY: u8 = 3;

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

/// A member of the group whose commits are taken, and answered only when they are let.
struct HeldBack {
    member: Member,
    commits: Commits,
}

/// The test's view of them.
#[derive(Clone)]
pub struct Commits {
    /// How many have been begun.
    pub begun: Arc<AtomicUsize>,
    answers: Arc<Semaphore>,
}

impl Commits {
    pub async fn until_begun(&self, commits: usize) {
        until(|| self.begun.load(Relaxed) >= commits).await;
    }

    pub fn answer(&self, commits: usize) {
        self.answers.add_permits(commits);
    }
}

impl Assignment for HeldBack {
    async fn next(&mut self) -> Result<Change, AssignmentError> {
        self.member.next().await
    }

    fn commit(&self, offsets: Vec<(TopicPartition, i64)>) -> BoxFuture<'static, Result<(), CommitError>> {
        let (taken, answers) = (self.member.commit(offsets), Arc::clone(&self.commits.answers));
        self.commits.begun.fetch_add(1, Relaxed);
        Box::pin(async move {
            let taken = taken.await;
            answers.acquire().await.expect("never closed").forget();
            taken
        })
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
pub struct World {
    pub log: Log,
    /// Where reading began, each time.
    pub fetches: Arc<Mutex<Vec<i64>>>,
    pub group: Group,
    pub sink: Moody,
    pub settings: Settings,
}

pub struct Process {
    pub member: MemberId,
    pub ledgers: Arc<Ledgers>,
    pub health: Arc<Health>,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<Result<RunEnd, String>>,
}

impl Process {
    pub async fn end(self) -> Result<RunEnd, String> {
        self.task.await.expect("it doesn't panic")
    }

    pub async fn stop(self) -> Result<RunEnd, String> {
        self.shutdown.cancel();
        self.end().await
    }
}

pub fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("topic", number)
}

impl World {
    pub fn new(guard: Guard, settings: Settings) -> Self {
        let sink = Moody { store: Store::new(guard, Effect::Put), mood: Arc::default() };
        let log = Log::new([partition(0), partition(1)]);
        Self { log, fetches: Arc::default(), group: Group::new(|_, _| {}), sink, settings }
    }

    /// Appends one record a key; each is of the second that is its offset.
    pub fn produce(&self, number: i32, keys: &[&str], behaviour: Behaviour) {
        for key in keys {
            let partition = partition(number);
            let timestamp = self.log.end(&partition) * 1_000;
            let (key, value) = (Some(Bytes::from(key.to_string())), Some(Bytes::from_static(b"v")));
            let (topic, headers) = (Arc::clone(&partition.topic), behaviour.headers());
            self.log.append(&partition, Record { topic, partition: number, offset: 0, timestamp, key, value, headers });
        }
    }

    pub fn start(&self) -> Process {
        self.start_with(DeadLetters::Drop)
    }

    pub fn start_with(&self, dead_letters: DeadLetters) -> Process {
        let member = self.group.join(Dice::new(2), Trouble::new(0));
        self.start_as(member.id(), member, dead_letters)
    }

    pub fn start_as(&self, id: MemberId, assignment: impl Assignment, dead_letters: DeadLetters) -> Process {
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

    /// Starts a process that owns these partitions, has written the record "a" of partition 0, and waits for the answer to its
    /// commit. None is answered until it is let.
    pub async fn start_with_a_commit_under_way(&self, partitions: &[i32]) -> (Process, Commits) {
        let member = self.group.join(Dice::new(2), Trouble::new(0));
        let commits = Commits { begun: Arc::default(), answers: Arc::new(Semaphore::new(0)) };
        let held_back = HeldBack { commits: commits.clone(), member };
        let process = self.start_as(held_back.member.id(), held_back, DeadLetters::Drop);
        self.assign(&process, partitions);
        self.produce(0, &["a"], Behaviour::Written);
        commits.until_begun(1).await;
        (process, commits)
    }

    /// Starts a process that owns these partitions.
    pub fn start_on(&self, partitions: &[i32]) -> Process {
        let process = self.start();
        self.assign(&process, partitions);
        process
    }

    pub fn assign(&self, process: &Process, partitions: &[i32]) {
        for number in partitions {
            self.group.assign(&partition(*number), process.member);
        }
    }

    pub fn keys(&self) -> Vec<String> {
        self.sink.store.dump().into_keys().map(|key| String::from_utf8_lossy(&key).into_owned()).collect()
    }

    /// Two processes: the first one has partition 0, and a write in hand that hangs.
    pub async fn start_with_a_hanging_write(&self) -> (Process, Process) {
        let first = self.start_on(&[0]);
        let second = self.start();
        self.mood(HANGING);
        self.produce(0, &["a"], Behaviour::Written);
        until(|| first.ledgers.of(&partition(0)).in_flight() == 1).await;
        (first, second)
    }

    pub fn mood(&self, mood: u8) {
        self.sink.mood.store(mood, Relaxed);
    }

    pub async fn until_committed(&self, number: i32, offset: i64) {
        until(|| self.group.committed(&partition(number)) == Some(offset)).await;
    }
}

/// Waits, for an hour of simulated time at most.
pub async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(3_600);
    while !condition() {
        assert!(Instant::now() < deadline, "it never comes");
        sleep(Duration::from_millis(100)).await;
    }
}

pub fn with(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}
