//! The processes, the topic and the store, and what happens to them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use connect_core::{
    Budget, DeadLetters, Fate, Health, Ledgers, Pipeline, Record, RunEnd, Settings, Stop, TopicPartition, supervise,
};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::audit::{Audit, End, end_of};
use super::plan::{Event, Plan, Rejected};
use crate::dice::{Dice, Trouble};
use crate::faulty::{Faults, Faulty};
use crate::group::{Group, MemberId};
use crate::letters::{LetterBox, Letters};
use crate::log::{Log, LogSource};
use crate::met::Met;
use crate::store::{Behaviour, Store};

/// Once nothing goes wrong any more, everything must be written within this time.
const CATCH_UP: Duration = Duration::from_secs(3_600);
/// A step that is to be the last comes within this time, or nothing happens.
const WITHIN: Duration = Duration::from_secs(60);
/// A partition without progress for so long, once nothing goes wrong any more, is held by a record.
const HELD: Duration = Duration::from_secs(300);

/// What a schedule amounted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records in the topic at the end.
    pub records: usize,
    /// Records that the processes read, those read again included.
    pub read: u64,
    /// Processes that ran, restarts included.
    pub processes: usize,
    /// How much time passed in the simulated world.
    pub simulated: Duration,
    /// What came up.
    pub met: BTreeSet<Met>,
}

/// A running process.
struct Process {
    member: MemberId,
    shutdown: CancellationToken,
    task: JoinHandle<Result<RunEnd, String>>,
}

struct World<'a> {
    plan: &'a Plan,
    dice: Dice,
    log: Log,
    store: Store,
    letters: Letters,
    group: Group,
    faults: Arc<Faults>,
    trouble: Arc<Trouble>,
    processes: Vec<Process>,
    ledgers: Vec<Arc<Ledgers>>,
    budgets: Vec<Arc<Budget>>,
    objections: Arc<Mutex<Vec<String>>>,
    /// From here on a person has records kept in a topic that held their partition.
    mended: bool,
}

pub(super) async fn run(plan: &Plan) -> Result<Summary, String> {
    let started = Instant::now();
    let mut world = World::new(plan);
    for _ in 0..plan.processes {
        world.start();
    }
    for (pause, event) in &plan.events {
        sleep(*pause).await;
        world.happen(*event).await?;
        world.give_out();
    }
    world.calm_down().await?;
    let audit = Audit { plan, log: &world.log, store: &world.store, letters: &world.letters, ledgers: &world.ledgers };
    audit.check()?;
    if let Some(budget) = world.budgets.iter().find(|budget| budget.used() != 0) {
        return Err(format!("{} bytes of a memory budget were never given back", budget.used()));
    }
    world.objection()?;
    Ok(Summary {
        records: world.partitions().iter().map(|partition| world.log.records(partition).len()).sum(),
        read: world.ledgers.iter().flat_map(|ledgers| ledgers.all()).map(|(_, ledger)| ledger.records_read()).sum(),
        processes: world.ledgers.len(),
        simulated: started.elapsed(),
        met: world.met(),
    })
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> Self {
        let dice = Dice::new(!plan.seed);
        let log = Log::new((0..plan.partitions).map(|number| TopicPartition::new("simulated", number as i32)));
        let store = Store::new(plan.guard, plan.effect).with_lanes(plan.lanes).with_flaw(plan.flaw);
        let letters = Letters::default();
        let objections = Arc::<Mutex<Vec<String>>>::default();
        let group = {
            let (plan, log, store, letters) = (plan.clone(), log.clone(), store.clone(), letters.clone());
            let objections = Arc::clone(&objections);
            Group::new(move |partition, offset| {
                if let Some(objection) = not_durable(&plan, &log, &store, &letters, partition, offset) {
                    objections.lock().unwrap_or_else(PoisonError::into_inner).push(objection);
                }
            })
        };
        // Without a guard a call must not be given up while it may still land.
        let trouble = Trouble::new(plan.failing);
        let slow = plan.settings.write_timeout * if plan.calm { 0 } else { 2 };
        let faults = Faults::new(dice.fork(), Arc::clone(&trouble), slow, plan.latency, plan.late);
        Self {
            plan,
            dice,
            log,
            store,
            letters,
            group,
            faults,
            trouble,
            processes: Vec::new(),
            ledgers: Vec::new(),
            budgets: Vec::new(),
            objections,
            mended: false,
        }
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.log.partitions()
    }

    fn some_partition(&self) -> TopicPartition {
        let partitions = self.partitions();
        partitions[self.dice.below(partitions.len() as u64) as usize].clone()
    }

    fn some_member(&self) -> Option<MemberId> {
        let count = self.processes.len() as u64;
        (count > 0).then(|| self.processes[self.dice.below(count) as usize].member)
    }

    /// Starts a process with all that is its own.
    fn start(&mut self) {
        self.start_with(self.plan.settings.clone());
    }

    fn start_with(&mut self, settings: Settings) {
        let budget = Budget::new(self.plan.memory);
        let ledgers = Arc::<Ledgers>::default();
        let source = LogSource::new(self.log.clone(), Arc::clone(&budget), self.dice.fork(), Arc::clone(&self.trouble));
        let sink = Faulty::new(Arc::new(self.store.clone()), Arc::clone(&self.faults));
        let letter_box = LetterBox::new(self.letters.clone(), self.dice.fork(), Arc::clone(&self.trouble));
        let dead_letters = match self.plan.rejected {
            Rejected::Dropped => DeadLetters::Drop,
            Rejected::Held if !self.mended => DeadLetters::Stop,
            Rejected::Held | Rejected::Kept => DeadLetters::Topic(Arc::new(letter_box)),
        };
        let pipeline = Pipeline::new(Arc::new(source), Arc::new(sink), dead_letters, settings, Arc::clone(&ledgers));
        let member = self.group.join(self.dice.fork(), Arc::clone(&self.trouble));
        let (id, shutdown) = (member.id(), CancellationToken::new());
        let run = supervise(Arc::new(pipeline), member, Arc::<Health>::default(), shutdown.clone());
        self.processes.push(Process { member: id, shutdown, task: tokio::spawn(run) });
        self.ledgers.push(ledgers);
        self.budgets.push(budget);
        self.give_out();
    }

    /// What nobody owns goes to somebody.
    fn give_out(&self) {
        for partition in self.partitions() {
            if let (None, Some(member)) = (self.group.owner(&partition), self.some_member()) {
                self.group.assign(&partition, member);
            }
        }
    }

    async fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Produce(records) => (0..records).for_each(|_| self.produce(&self.some_partition())),
            Event::Crash(pause) => {
                if let Some(process) = self.take_process() {
                    process.task.abort();
                    let _ = process.task.await;
                    self.group.gone(process.member);
                    self.trouble.met(Met::Crash);
                    sleep(pause).await;
                    self.start();
                }
            }
            Event::CrashAtStep(steps, pause) => {
                self.trouble.light(steps);
                if timeout(WITHIN, self.trouble.burnt()).await.is_ok() {
                    self.trouble.met(Met::CrashAtStep);
                    let killed = std::mem::take(&mut self.processes);
                    for process in &killed {
                        process.task.abort();
                    }
                    for process in killed {
                        let _ = process.task.await;
                        self.group.gone(process.member);
                    }
                    sleep(pause).await;
                    for _ in 0..self.plan.processes {
                        self.start();
                    }
                }
                self.trouble.light(0);
            }
            Event::Restart => {
                if let Some(process) = self.take_process() {
                    self.stop(process).await?;
                    self.trouble.met(Met::Restart);
                    self.start();
                }
            }
            Event::HandOver(within) => {
                if let Some(to) = self.some_member() {
                    self.group.hand_over(&self.some_partition(), to, within);
                }
            }
            Event::Lose(silence) => {
                let partition = self.some_partition();
                if let Some(to) = self.some_member() {
                    if !silence.is_zero() && self.group.owner(&partition).is_some_and(|owner| owner != to) {
                        self.trouble.met(Met::LostUnheard);
                    }
                    self.group.lose(&partition, to, silence);
                }
            }
            Event::Replicate => self.store.replicate(),
            Event::FailOver => {
                self.trouble.met(Met::FailOver);
                self.store.fail_over();
            }
            Event::Retain => {
                let partition = self.some_partition();
                let (start, stable) = self.log.bounds(&partition);
                let offset = self.dice.between(start as u64, stable as u64);
                self.log.delete_below(&partition, offset as i64);
            }
            Event::Compact => {
                let effective = |record: &Record| matches!(end_of(self.plan, record), End::Stored | End::Expired);
                let partition = self.some_partition();
                let before = self.log.removed(&partition).len();
                self.log.compact(&partition, effective);
                if self.log.removed(&partition).len() > before {
                    self.trouble.met(Met::Compacted);
                }
            }
            Event::Begin => self.log.begin(&self.some_partition()),
            Event::Outage(duration) => {
                self.trouble.met(Met::Outage);
                self.trouble.set(100);
                sleep(duration).await;
                self.trouble.set(self.plan.failing);
            }
            Event::Decide => self.decide(),
        }
        Ok(())
    }

    fn decide(&self) {
        for partition in self.partitions() {
            self.log.decide(&partition, self.dice.percent(60));
        }
    }

    fn take_process(&mut self) -> Option<Process> {
        let index = self.dice.below(self.processes.len().max(1) as u64) as usize;
        (index < self.processes.len()).then(|| self.processes.remove(index))
    }

    /// Asks a process to stop and looks at how it ends.
    async fn stop(&self, process: Process) -> Result<(), String> {
        process.shutdown.cancel();
        let end = timeout(CATCH_UP, process.task).await.map_err(|_| "a process never stops".to_owned())?;
        self.group.gone(process.member);
        match end.map_err(|error| format!("a process panicked: {error}"))? {
            Ok(RunEnd::Drained) => Ok(()),
            // A call that began in worse times may still be under way.
            Ok(RunEnd::DrainTimeout) if !self.plan.calm => {
                self.trouble.met(Met::DrainTimeout);
                Ok(())
            }
            other => Err(format!("a process that was asked to stop ended with {other:?}")),
        }
    }

    fn produce(&self, partition: &TopicPartition) {
        let dice = &self.dice;
        if dice.percent(10) {
            self.log.append_gap(partition, dice.between(1, 5) as i64);
        }
        let behaviour = match dice.below(20) {
            0 => Behaviour::Rejected,
            1 => Behaviour::Filtered,
            2 => Behaviour::Refused,
            3 => Behaviour::Expired,
            _ => Behaviour::Written,
        };
        // A key belongs to one partition, as with every partitioner.
        let key = format!("{}-{}", partition.partition, dice.below(self.plan.keys));
        let value = format!("{}.{};", partition.partition, self.log.end(partition));
        self.log.append(
            partition,
            Record {
                topic: Arc::clone(&partition.topic),
                partition: partition.partition,
                offset: 0,
                timestamp: 1,
                key: Some(Bytes::from(key)),
                value: (!dice.percent(10)).then(|| Bytes::from(value)),
                headers: behaviour.headers(),
            },
        );
    }

    /// Ends all trouble, waits until everything is written, and stops the processes.
    async fn calm_down(&mut self) -> Result<(), String> {
        self.trouble.set(0);
        self.decide();
        for partition in self.partitions() {
            // A store that lost writes is found out by the next write.
            self.produce(&partition);
            self.produce_good(&partition);
        }
        self.give_out();
        if self.plan.rejected == Rejected::Held {
            self.mend().await?;
        }
        if self.plan.backfill {
            self.work_to_the_end().await?;
        }
        let deadline = Instant::now() + CATCH_UP;
        while !self.settled() {
            self.objection()?;
            self.give_out();
            if let Some(process) = self.processes.iter().position(|process| process.task.is_finished()) {
                let end = self.processes.remove(process).task.await;
                return Err(format!("a process ended by itself: {end:?}"));
            }
            if Instant::now() > deadline {
                return Err(format!("not everything is written within {CATCH_UP:?}: {}", self.standing()));
            }
            sleep(Duration::from_secs(1)).await;
        }
        self.stop_all().await
    }

    async fn stop_all(&mut self) -> Result<(), String> {
        while let Some(process) = self.processes.pop() {
            self.stop(process).await?;
            self.give_out();
        }
        Ok(())
    }

    /// Waits until a record holds its partition, and has such records kept in a topic.
    async fn mend(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + CATCH_UP;
        while !self.settled() && Instant::now() < deadline {
            self.give_out();
            sleep(Duration::from_secs(1)).await;
            let stalled = self.ledgers.iter().flat_map(|ledgers| ledgers.all());
            if stalled.filter_map(|(_, ledger)| ledger.stalled_seconds()).fold(0.0, f64::max) > HELD.as_secs_f64() {
                self.trouble.met(Met::HeldByRecord);
                break;
            }
        }
        self.mended = true;
        self.stop_all().await?;
        for _ in 0..self.plan.processes {
            self.start();
        }
        Ok(())
    }

    /// One process takes everything, works to the end, and stops by itself.
    async fn work_to_the_end(&mut self) -> Result<(), String> {
        self.stop_all().await?;
        self.start_with(Settings { stop: Stop::End, ..self.plan.settings.clone() });
        let Some(process) = self.processes.pop() else { return Ok(()) };
        let end = timeout(CATCH_UP, process.task).await.map_err(|_| "a backfill never ends".to_owned())?;
        self.group.gone(process.member);
        match end.map_err(|error| format!("a process panicked: {error}"))? {
            Ok(RunEnd::Finished) => self.trouble.met(Met::WorkedToTheEnd),
            other => return Err(format!("a backfill ended with {other:?}")),
        }
        Ok(())
    }

    fn met(&self) -> BTreeSet<Met> {
        if self.group.too_late() > 0 {
            self.trouble.met(Met::HandOverTooLate);
        }
        for (_, ledger) in self.ledgers.iter().flat_map(|ledgers| ledgers.all()) {
            let counts = [
                (Met::RecordsReturned, ledger.count(Fate::Returned)),
                (Met::RecordsSuperseded, ledger.count(Fate::Superseded)),
                (Met::RecordsSkipped, ledger.skipped()),
            ];
            counts.iter().filter(|(_, count)| *count > 0).for_each(|(met, _)| self.trouble.met(*met));
        }
        self.trouble.encounters()
    }

    fn produce_good(&self, partition: &TopicPartition) {
        self.log.append(
            partition,
            Record {
                topic: Arc::clone(&partition.topic),
                partition: partition.partition,
                offset: 0,
                timestamp: 1,
                key: Some(Bytes::from(format!("{}-last", partition.partition))),
                value: Some(Bytes::from_static(b"last;")),
                headers: Vec::new(),
            },
        );
    }

    fn settled(&self) -> bool {
        let committed = |partition: &TopicPartition| self.group.committed(partition) == Some(self.log.end(partition));
        self.faults.under_way() == 0 && self.partitions().iter().all(committed)
    }

    fn standing(&self) -> String {
        let standing = |partition: &TopicPartition| {
            let (committed, end) = (self.group.committed(partition), self.log.end(partition));
            format!("{partition} committed {committed:?} of {end}, owner {:?}", self.group.owner(partition))
        };
        self.partitions().iter().map(standing).collect::<Vec<_>>().join("; ")
    }

    fn objection(&self) -> Result<(), String> {
        self.objections.lock().unwrap_or_else(PoisonError::into_inner).first().cloned().map_or(Ok(()), Err)
    }
}

/// Objects to a commit of what is not durable.
fn not_durable(
    plan: &Plan,
    log: &Log,
    store: &Store,
    letters: &Letters,
    partition: &TopicPartition,
    committed: i64,
) -> Option<String> {
    let lost =
        log.records(partition).into_iter().filter(|record| record.offset < committed).find(|record| {
            match end_of(plan, record) {
                End::Stored | End::Expired => !store.ever_held(partition, record.offset),
                End::Rejected => plan.rejected != Rejected::Dropped && !letters.hold(partition, record.offset),
                End::Filtered => false,
            }
        });
    lost.map(|record| format!("{committed} was committed while {record:?} was not durable"))
}
