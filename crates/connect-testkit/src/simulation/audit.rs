//! What must be true, whatever happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use connect_core::{Fate, Ledgers, Record, Tombstones, TopicPartition};

use super::plan::{Plan, Rejected};
use crate::letters::Letters;
use crate::log::Log;
use crate::store::{Behaviour, Guard, Store, oracle};

/// What becomes of a record in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Stored,
    Expired,
    Filtered,
    Rejected,
}

/// What a plan's settings make of a record.
pub(super) fn end_of(plan: &Plan, record: &Record) -> End {
    match plan.settings.tombstones {
        Tombstones::Ignore if record.value.is_none() => return End::Filtered,
        Tombstones::Reject if record.value.is_none() => return End::Rejected,
        _ => {}
    }
    match Behaviour::of(record) {
        Behaviour::Written => End::Stored,
        Behaviour::Expired => End::Expired,
        Behaviour::Filtered => End::Filtered,
        Behaviour::Rejected | Behaviour::Refused => End::Rejected,
    }
}

/// What the processes leave behind.
pub(super) struct Audit<'a> {
    pub(super) plan: &'a Plan,
    pub(super) log: &'a Log,
    pub(super) store: &'a Store,
    pub(super) letters: &'a Letters,
    /// Of every process that ever ran.
    pub(super) ledgers: &'a [Arc<Ledgers>],
}

impl Audit<'_> {
    pub(super) fn check(&self) -> Result<(), String> {
        self.store_equals_the_model()?;
        self.dead_letters_are_complete()?;
        self.every_record_has_a_fate()?;
        if self.plan.calm { self.every_count_is_exact() } else { Ok(()) }
    }

    fn records(&self) -> Vec<Record> {
        self.log.partitions().iter().flat_map(|partition| self.log.records(partition)).collect()
    }

    /// What is not in the topic any more counts as far as it was read in time.
    fn store_equals_the_model(&self) -> Result<(), String> {
        let mut records = self.records();
        for partition in self.log.partitions() {
            let removed = self.log.removed(&partition).into_iter();
            records.extend(removed.filter(|record| self.store.ever_held(&partition, record.offset)));
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        let effective = records.iter().filter(|record| matches!(end_of(self.plan, record), End::Stored | End::Expired));
        let (mut wanted, mut found) = (oracle(self.store.effect(), effective.clone()), self.store.dump());
        if self.plan.guard == Guard::None {
            // A replay begins with older values, and what retention removed meanwhile does not come again: such a key may hold
            // any of its values.
            let last: BTreeMap<_, _> =
                effective.map(|record| (record.key.as_deref().unwrap_or_default(), record)).collect();
            for (key, record) in last {
                if self.was_removed(&TopicPartition::new(Arc::clone(&record.topic), record.partition), record.offset) {
                    wanted.remove(key);
                    found.remove(key);
                }
            }
        }
        if wanted == found {
            return Ok(());
        }
        let text = |value: Option<&Vec<u8>>| value.map_or("nothing".into(), |v| v.escape_ascii().to_string());
        let keys = wanted.keys().chain(found.keys());
        let differs = keys.clone().find(|key| wanted.get(*key) != found.get(*key));
        Err(differs.map_or("the stores differ".into(), |key| {
            let (wanted, found) = (text(wanted.get(key)), text(found.get(key)));
            format!("the store holds {found} under {}, the model {wanted}", key.escape_ascii())
        }))
    }

    fn dead_letters_are_complete(&self) -> Result<(), String> {
        let mut wanted = BTreeMap::new();
        for record in self.records() {
            if self.plan.rejected != Rejected::Dropped && end_of(self.plan, &record) == End::Rejected {
                wanted.insert((TopicPartition::new(record.topic, record.partition), record.offset), 0);
            }
        }
        for letter in self.letters.all() {
            match wanted.get_mut(&letter) {
                Some(times) => *times += 1,
                None if self.was_removed(&letter.0, letter.1) => {}
                None => return Err(format!("the dead letter {letter:?} is a good record")),
            }
        }
        for ((partition, offset), times) in wanted {
            if times == 0 {
                return Err(format!("the dead letter {partition}@{offset} is missing"));
            }
            if times > 1 && self.plan.calm {
                return Err(format!("the dead letter {partition}@{offset} is there {times} times"));
            }
        }
        Ok(())
    }

    fn was_removed(&self, partition: &TopicPartition, offset: i64) -> bool {
        self.log.removed(partition).iter().any(|record| record.offset == offset)
    }

    fn every_record_has_a_fate(&self) -> Result<(), String> {
        for ledgers in self.ledgers {
            for (partition, ledger) in ledgers.all() {
                let settled: u64 = Fate::ALL.iter().map(|fate| ledger.count(*fate)).sum();
                let read = ledger.records_read();
                if read != settled || ledger.in_flight() != 0 {
                    return Err(format!("{partition}: {read} records were read and {settled} met a fate"));
                }
            }
        }
        Ok(())
    }

    /// Without trouble every record is read once and written once, also across restarts and hand-overs.
    fn every_count_is_exact(&self) -> Result<(), String> {
        if self.compacts() {
            return Ok(());
        }
        let ends: Vec<End> = self.records().iter().map(|record| end_of(self.plan, record)).collect();
        let count = |end: End| ends.iter().filter(|other| **other == end).count() as u64;
        let rejected = match self.plan.rejected {
            Rejected::Dropped => Fate::Dropped,
            Rejected::Kept | Rejected::Held => Fate::DeadLettered,
        };
        let mut wanted = BTreeMap::from([(Fate::Returned.label(), 0), (Fate::Superseded.label(), 0)]);
        wanted.insert(Fate::Written.label(), count(End::Stored));
        wanted.insert(Fate::Expired.label(), count(End::Expired));
        wanted.insert(Fate::Filtered.label(), count(End::Filtered));
        wanted.insert(Fate::DeadLettered.label(), 0);
        wanted.insert(Fate::Dropped.label(), 0);
        wanted.insert(rejected.label(), count(End::Rejected));
        let mut found = BTreeMap::new();
        for (_, ledger) in self.ledgers.iter().flat_map(|ledgers| ledgers.all()) {
            for fate in Fate::ALL {
                *found.entry(fate.label()).or_insert(0) += ledger.count(fate);
            }
        }
        if wanted == found { Ok(()) } else { Err(format!("the counts are {found:?}, and should be {wanted:?}")) }
    }

    fn compacts(&self) -> bool {
        self.plan.events.iter().any(|(_, event)| *event == super::plan::Event::Compact)
    }
}
