//! A sink that connects when it writes, and that has one flaw at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use connect_core::{Assigned, Batch, Header, Item, Outcome, Record, Rejection, Resume, Sink, SinkError, Verdict};
use connect_testkit::conformance::{Dump, Harness, Place, Promise};
use connect_testkit::store::{self, Behaviour, Effect, Guard, Store, oracle};
use tokio::time::timeout;

use crate::server::Server;

/// What authors of sinks get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    CheckFails,
    EmptyBatchIsAnError,
    AcknowledgesAndWritesNothing,
    TargetIsTheValue,
    WritesTheFirstThousand,
    FirstOfABatchWins,
    KeepsWhatIsThere,
    LowersKeys,
    CutsValues,
    IgnoresTombstones,
    DeletesLast,
    RejectsAbsentTombstones,
    NullKeyIsTheLastKey,
    SwallowsEmptyKeys,
    EmptyValueDeletes,
    PanicsOnNothing,
    RepairsValues,
    RepairsKeys,
    RejectsTheNext,
    RetriesTheNext,
    RetriesTheFirst,
    RetriesTheRest,
    Accumulates,
    NoGuard,
    NotesBeforeItWrites,
    WritesBehind,
    ResumesFromNothing,
    ResumesAtTheLast,
    SkipsEmptyBatches,
    NoExpectation,
    WrongPasswordPasses,
    RefusedIsFatal,
    SilenceIsConsent,
    ReadsOnce,
    GoesAroundTheProxy,
    /// Nothing is wrong with it; whoever counts the records must count these, too.
    FiltersEverything,
}

/// Its records are pushed back by the store, once.
const LATER: &str = "later";

/// What the processes of one place share.
#[derive(Clone)]
struct Shared {
    store: Store,
    pushed_back: Arc<Mutex<BTreeSet<i64>>>,
}

/// Stores behind one server, and sinks with this flaw.
pub struct Wrongs {
    guard: Guard,
    flaw: Option<Flaw>,
    server: Server,
    places: Mutex<BTreeMap<String, Shared>>,
}

impl Wrongs {
    pub async fn with(flaw: Option<Flaw>, guard: Guard) -> Self {
        Self { guard, flaw, server: Server::start().await, places: Mutex::default() }
    }

    fn at(&self, place: &Place) -> Shared {
        let effect = if self.flaw == Some(Flaw::Accumulates) { Effect::Append } else { Effect::Put };
        let missing_passes = (self.flaw == Some(Flaw::ResumesFromNothing)).then_some(store::Flaw::MissingOffsetPasses);
        let new =
            || Shared { store: Store::new(self.guard, effect).with_flaw(missing_passes), pushed_back: Arc::default() };
        self.places.lock().expect("nobody panics with it").entry(place.name.clone()).or_insert_with(new).clone()
    }
}

impl Harness for Wrongs {
    type Sink = Wrong;

    async fn connect(&self, place: &Place) -> Result<Wrong, SinkError> {
        let (flaw, through) = (self.flaw, place.through.filter(|_| self.flaw != Some(Flaw::GoesAroundTheProxy)));
        if place.wrong_password && flaw == Some(Flaw::WrongPasswordPasses) {
            return Err(SinkError::transient("connection", "the server hung up"));
        }
        if place.wrong_password {
            return Err(SinkError::fatal("the password is wrong"));
        }
        let (shared, server) = (self.at(place), self.server.clone());
        Ok(Wrong { shared, way: through.unwrap_or(server.address), server, flaw, noted: Mutex::default() })
    }

    async fn dump(&self, place: &Place) -> Dump {
        self.at(place).store.dump()
    }

    fn promises(&self) -> &[Promise] {
        use Promise::{Authenticates, Deletes, Fenced, Guarded, KeepsOffsets};
        match self.guard {
            Guard::Atomic => &[Guarded, Deletes, KeepsOffsets, Fenced, Authenticates],
            Guard::None | Guard::PerKey => &[Guarded, Deletes, Authenticates],
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        Some(self.server.address)
    }

    async fn poison(&self, _: &Place, record: Record) -> Option<Record> {
        Some(Record { headers: Behaviour::Refused.headers(), ..record })
    }

    async fn push_back(&self, _: &Place, record: Record) -> Option<Record> {
        let header = Header { key: LATER.into(), value: Some(Bytes::new()) };
        (self.guard != Guard::Atomic).then_some(Record { headers: vec![header], ..record })
    }

    fn expect(&self, records: &[Record]) -> Dump {
        let effect = if self.flaw == Some(Flaw::Accumulates) { Effect::Append } else { Effect::Put };
        if self.flaw == Some(Flaw::FiltersEverything) { Dump::new() } else { oracle(effect, records) }
    }
}

/// What this process took note of, for the flaws that are about that.
#[derive(Default)]
struct Noted {
    begun: BTreeSet<i64>,
    behind: Vec<(usize, Item<Record>)>,
}

pub struct Wrong {
    shared: Shared,
    server: Server,
    way: SocketAddr,
    flaw: Option<Flaw>,
    noted: Mutex<Noted>,
}

impl Wrong {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn is_there(&self, record: &Record) -> bool {
        record.key.as_ref().is_some_and(|key| self.shared.store.dump().contains_key(&key[..]))
    }

    /// What the sink sends of the items that it was given.
    fn sent(&self, mut items: Vec<(usize, Item<Record>)>) -> Vec<(usize, Item<Record>)> {
        let mut keys = BTreeSet::new();
        match self.flaw {
            Some(Flaw::AcknowledgesAndWritesNothing) => items.clear(),
            Some(Flaw::WritesTheFirstThousand) => items.truncate(1_000),
            Some(Flaw::FirstOfABatchWins) => items.retain(|(_, item)| keys.insert(item.op.key.clone())),
            Some(Flaw::KeepsWhatIsThere) => {
                let there = self.shared.store.dump();
                items.retain(|(_, item)| !there.contains_key(item.op.key.as_deref().unwrap_or_default()));
            }
            Some(Flaw::IgnoresTombstones) => items.retain(|(_, item)| item.op.value.is_some()),
            Some(Flaw::DeletesLast) => {
                keys.extend(
                    items.iter().filter(|(_, item)| item.op.value.is_none()).map(|(_, item)| item.op.key.clone()),
                );
                items.retain(|(_, item)| item.op.value.is_none() || !keys.contains(&item.op.key));
            }
            Some(Flaw::SwallowsEmptyKeys) => items.retain(|(_, item)| item.op.key.as_deref() != Some(b"")),
            Some(Flaw::NullKeyIsTheLastKey) => {
                for index in 1..items.len() {
                    let last = items[index - 1].1.op.key.clone();
                    let key = &mut items[index].1.op.key;
                    *key = key.take().or(last);
                }
            }
            Some(Flaw::NotesBeforeItWrites) => {
                let begun = &mut self.noted.lock().expect("nobody panics with it").begun;
                items.retain(|(_, item)| begun.insert(item.offset));
            }
            Some(Flaw::WritesBehind) => {
                std::mem::swap(&mut items, &mut self.noted.lock().expect("nobody panics with it").behind);
            }
            _ => {}
        }
        items
    }

    /// Takes from the items those which the store does not take now, or not as the sink sees it.
    fn put_off(&self, items: &mut Vec<(usize, Item<Record>)>, outcome: &mut Outcome) {
        let (length, mut again) = (items.len(), Vec::new());
        items.retain(|(index, item)| {
            let later = item.op.header(LATER).is_some()
                && self.shared.pushed_back.lock().expect("nobody panics with it").insert(item.offset);
            again.extend(later.then_some(*index));
            !later
        });
        match self.flaw {
            Some(Flaw::RetriesTheNext) => again.iter_mut().for_each(|index| *index += 1),
            Some(Flaw::RetriesTheFirst) => again.truncate(1),
            Some(Flaw::RetriesTheRest) => again = (again.first().copied().unwrap_or(length)..length).collect(),
            Some(Flaw::RejectsAbsentTombstones) => items.retain(|(index, item)| {
                let absent = item.op.value.is_none() && !self.is_there(&item.op);
                if absent {
                    outcome.set(*index, Verdict::Rejected(Rejection::new("not found")));
                }
                !absent
            }),
            _ => {}
        }
        again.into_iter().for_each(|index| outcome.set(index, Verdict::Retry));
    }

    async fn ask(&self, batch: Option<(Store, Batch<<Store as Sink>::Op>)>) -> Result<Outcome, SinkError> {
        let answer = self.server.ask(self.way, batch, self.has(Flaw::ReadsOnce));
        if !self.has(Flaw::SilenceIsConsent) {
            return answer.await;
        }
        match timeout(Duration::from_secs(1), answer).await {
            Ok(Err(SinkError::Transient { .. })) | Err(_) => Ok(Outcome::written()),
            Ok(answer) => answer,
        }
    }
}

impl Sink for Wrong {
    type Op = Record;

    fn atomic(&self) -> bool {
        self.shared.store.atomic()
    }

    fn prepare(&self, record: &Record) -> Result<Option<Record>, Rejection> {
        let mut record = record.clone();
        let repair = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned().into();
        match self.flaw {
            Some(Flaw::PanicsOnNothing) => assert!(record.key.is_some() || record.value.is_some(), "nothing at all"),
            Some(Flaw::NullKeyIsTheLastKey) if record.key.is_none() => return Ok(Some(record)),
            Some(Flaw::FiltersEverything) => return Ok(None),
            Some(Flaw::LowersKeys) => record.key = record.key.map(|key| key.to_ascii_lowercase().into()),
            Some(Flaw::CutsValues) => record.value = record.value.map(|value| value.slice(..value.len().min(64 << 10))),
            Some(Flaw::EmptyValueDeletes) => record.value = record.value.filter(|value| !value.is_empty()),
            Some(Flaw::RepairsValues) => record.value = record.value.as_ref().map(repair),
            Some(Flaw::RepairsKeys) => record.key = record.key.as_ref().map(repair),
            _ => {}
        }
        Ok(self.shared.store.prepare(&record)?.map(|_| record))
    }

    fn target<'a>(&self, op: &'a Record) -> Option<&'a [u8]> {
        if self.has(Flaw::TargetIsTheValue) { op.value.as_deref() } else { op.key.as_deref() }
    }

    async fn write(&self, batch: &Batch<Record>) -> Result<Outcome, SinkError> {
        if batch.items.is_empty() && self.has(Flaw::EmptyBatchIsAnError) {
            return Err(SinkError::fatal("there is nothing to write"));
        }
        if batch.items.is_empty() && batch.first < batch.next && self.has(Flaw::SkipsEmptyBatches) {
            return Ok(Outcome::written());
        }
        let mut outcome = Outcome::written();
        let mut items: Vec<_> = batch.items.iter().cloned().enumerate().collect();
        self.put_off(&mut items, &mut outcome);
        let items = self.sent(items);
        let mut sent = Batch {
            source: batch.source.clone(),
            expected: batch.expected,
            first: batch.first,
            next: batch.next,
            items: Vec::new(),
        };
        let mut indexes = Vec::new();
        for (index, item) in items {
            if let Ok(Some(op)) = self.shared.store.prepare(&item.op) {
                indexes.push(index);
                sent.items.push(Item { offset: item.offset, op });
            }
        }
        if self.has(Flaw::NoExpectation)
            && let Resume::At(stored) = self.shared.store.resume(&Assigned::new(batch.source.clone())).await?
        {
            // The store is told whatever it wants to hear.
            (sent.expected, sent.first) = (Some(stored), stored);
            sent.next = stored + batch.next - batch.first;
            sent.items.iter_mut().for_each(|item| item.offset += stored - batch.first);
        }
        for (index, verdict) in self.ask(Some((self.shared.store.clone(), sent))).await?.into_sorted() {
            let further = usize::from(self.has(Flaw::RejectsTheNext) && matches!(verdict, Verdict::Rejected(_)));
            if !self.has(Flaw::WritesBehind) {
                outcome.set(indexes[index] + further, verdict);
            }
        }
        Ok(outcome)
    }

    async fn check(&self) -> Result<(), SinkError> {
        match self.ask(None).await {
            // Only the first: a process waits until its check succeeds.
            Ok(_)
                if self.has(Flaw::CheckFails) && self.noted.lock().expect("nobody panics with it").begun.insert(-1) =>
            {
                Err(SinkError::transient("status", "the answer was 200"))
            }
            Err(error) if self.has(Flaw::RefusedIsFatal) => Err(SinkError::fatal(error.to_string())),
            answer => answer.map(drop),
        }
    }

    async fn resume(&self, assigned: &Assigned) -> Result<Resume, SinkError> {
        match self.shared.store.resume(assigned).await? {
            Resume::Empty if self.has(Flaw::ResumesFromNothing) => Ok(Resume::At(0)),
            Resume::At(next) if self.has(Flaw::ResumesAtTheLast) => Ok(Resume::At((next - 1).max(0))),
            resume => Ok(resume),
        }
    }
}
