//! What a seed decides before anything runs.

use std::time::Duration;

use connect_core::{OutOfRange, Settings, Tombstones};

use crate::dice::Dice;
use crate::store::{Effect, Flaw, Guard};

/// Something that happens to the processes, the topic or the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many records are produced.
    Produce(u64),
    /// A process is killed, and started again after this time.
    Crash(Duration),
    /// All processes are killed at their so-many-th step from now, and started again after this time.
    CrashAtStep(u64, Duration),
    /// A process is asked to stop, and started again once it has.
    Restart,
    /// A partition goes to another process, which waits this long for it.
    HandOver(Duration),
    /// A partition goes to another process, and the old one hears of it only after this time.
    Lose(Duration),
    /// The store's replica catches up.
    Replicate,
    /// The store's replica takes over.
    FailOver,
    /// A partition is compacted.
    Compact,
    /// Retention deletes the oldest records of a partition, whether they were read or not.
    Retain,
    /// A transaction begins.
    Begin,
    /// For this time every call fails, of the store and of Kafka.
    Outage(Duration),
    /// Open transactions are decided.
    Decide,
}

/// What becomes of records that can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// They are dropped.
    Dropped,
    /// They go to a topic.
    Kept,
    /// They hold their partition, until a person has them kept in a topic.
    Held,
}

/// A schedule: the whole of what a seed means.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Nothing goes wrong, and restarts and hand-overs are orderly: then every count is exact.
    pub calm: bool,
    /// How the store guards its writes.
    pub guard: Guard,
    /// A deliberate bug of the store.
    pub flaw: Option<Flaw>,
    /// What a write does.
    pub effect: Effect,
    /// Writes side by side.
    pub lanes: usize,
    /// Partitions of the topic.
    pub partitions: u64,
    /// Keys of each partition.
    pub keys: u64,
    /// Processes.
    pub processes: usize,
    /// What becomes of rejected records.
    pub rejected: Rejected,
    /// Whether retention may delete what was not read.
    pub retention: bool,
    /// Whether the last process works to the end and stops by itself.
    pub backfill: bool,
    /// Whether a request that was given up may still land.
    pub late: bool,
    /// The longest way of a good call to the store, and back.
    pub latency: Duration,
    /// How many calls in a hundred go wrong.
    pub failing: u64,
    /// The byte budget of each process.
    pub memory: usize,
    /// Settings of the pipeline.
    pub settings: Settings,
    /// What happens, and how long after what came before.
    pub events: Vec<(Duration, Event)>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let calm = dice.percent(15);
        let guard = *dice.one_of(&[Guard::None, Guard::PerKey, Guard::Atomic, Guard::Atomic]);
        let effect = if guard == Guard::Atomic && dice.percent(70) { Effect::Append } else { Effect::Put };
        let write_timeout = Duration::from_millis(dice.between(500, 30_000));
        let settings = Settings {
            tombstones: *dice.one_of(&[Tombstones::Delete, Tombstones::Delete, Tombstones::Ignore, Tombstones::Reject]),
            out_of_range: OutOfRange::Earliest,
            batch_records: dice.between(1, 12) as usize,
            batch_bytes: if dice.percent(30) { dice.between(1, 64) as usize } else { 1 << 20 },
            write_timeout,
            drain_timeout: if calm { Duration::from_secs(60) } else { Duration::from_millis(dice.between(1, 30_000)) },
            // A drain doesn't wait for its turn at a rate, and gives records back: no calm count would be exact.
            rate: (!calm && dice.percent(10)).then(|| dice.between(5, 1_000) as u32),
            jitter_seed: seed,
            ..Settings::default()
        };
        let mut plan = Self {
            seed,
            calm,
            guard,
            flaw: None,
            effect,
            lanes: dice.between(1, 4) as usize,
            partitions: dice.between(1, 3),
            keys: dice.between(1, 6),
            processes: dice.between(1, 3) as usize,
            rejected: match dice.below(10) {
                0 | 1 => Rejected::Dropped,
                2 if !calm => Rejected::Held,
                _ => Rejected::Kept,
            },
            retention: !calm && dice.percent(20),
            backfill: dice.percent(20),
            late: !calm && guard != Guard::None,
            latency: Duration::from_millis(dice.between(1, 200)),
            failing: if calm { 0 } else { dice.between(0, 40) },
            memory: if dice.percent(30) { 1_024 } else { 1 << 20 },
            settings,
            events: Vec::new(),
        };
        plan.events = (0..dice.between(3, 14)).map(|_| plan.event(&dice)).collect();
        plan
    }

    fn event(&self, dice: &Dice) -> (Duration, Event) {
        let within = Duration::from_secs(if self.calm { 60 } else { dice.between(1, 30) });
        let event = match dice.below(21) {
            0 | 1 => Event::Restart,
            2 | 3 => Event::HandOver(within),
            4 => Event::Begin,
            5 => Event::Decide,
            6 | 7 if !self.calm => Event::Crash(dice.time(Duration::from_secs(60))),
            // Without a guard two owners at once would do harm that nobody can undo.
            8 | 9 if !self.calm => match self.guard {
                Guard::None => Event::Lose(Duration::ZERO),
                _ => Event::Lose(dice.time(Duration::from_secs(60))),
            },
            10 | 11 if self.loses_writes() => Event::Replicate,
            12 if self.loses_writes() => Event::FailOver,
            14 if !self.calm => Event::Outage(Duration::from_secs(dice.between(20, 180))),
            // What accumulates shows every record: compaction would change the result itself.
            13 if self.effect == Effect::Put => Event::Compact,
            15 | 16 if self.retention => Event::Retain,
            18 | 19 if !self.calm => Event::CrashAtStep(dice.between(1, 40), dice.time(Duration::from_secs(60))),
            _ => Event::Produce(dice.between(1, 30)),
        };
        (dice.time(Duration::from_secs(20)), event)
    }

    /// Only a store that keeps its offset with the data gets back what a fail-over lost, and only while the topic has it.
    fn loses_writes(&self) -> bool {
        !self.calm && self.guard == Guard::Atomic && !self.retention
    }
}
