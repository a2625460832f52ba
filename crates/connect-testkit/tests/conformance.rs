//! The checks themselves: the stores in memory pass what they promise, and a wrong one is found out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use connect_core::{Record, SinkError};
use connect_testkit::conformance::{Dump, Finding, Harness, Place, Promise, conformance};
use connect_testkit::store::{Behaviour, Effect, Guard, Store, oracle};

struct Memory {
    guard: Guard,
    effect: Effect,
    promises: &'static [Promise],
    stores: Mutex<BTreeMap<String, Store>>,
}

impl Memory {
    fn new(guard: Guard, effect: Effect, promises: &'static [Promise]) -> Self {
        Self { guard, effect, promises, stores: Mutex::default() }
    }

    fn store(&self, place: &Place) -> Store {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.entry(place.name.clone()).or_insert_with(|| Store::new(self.guard, self.effect)).clone()
    }
}

impl Harness for Memory {
    type Sink = Store;

    async fn connect(&self, place: &Place) -> Result<Store, SinkError> {
        Ok(self.store(place))
    }

    async fn dump(&self, place: &Place) -> Dump {
        self.store(place).dump()
    }

    async fn poison(&self, _: &Place, record: Record) -> Option<Record> {
        Some(Record { headers: Behaviour::Refused.headers(), ..record })
    }

    fn promises(&self) -> &[Promise] {
        self.promises
    }

    fn expect(&self, records: &[Record]) -> Dump {
        oracle(self.effect, records)
    }
}

#[tokio::test]
async fn a_plain_store_conforms() {
    conformance(&Memory::new(Guard::None, Effect::Put, &[Promise::Deletes])).await.assert();
}

#[tokio::test]
async fn a_guarded_store_conforms() {
    conformance(&Memory::new(Guard::PerKey, Effect::Put, &[Promise::Deletes, Promise::Guarded])).await.assert();
}

const ATOMIC: &[Promise] = &[Promise::Deletes, Promise::Guarded, Promise::KeepsOffsets, Promise::Fenced];

#[tokio::test]
async fn an_atomic_store_conforms_also_when_writes_accumulate() {
    conformance(&Memory::new(Guard::Atomic, Effect::Put, ATOMIC)).await.assert();
    conformance(&Memory::new(Guard::Atomic, Effect::Append, ATOMIC)).await.assert();
}

#[tokio::test]
async fn what_is_promised_and_not_kept_fails_and_what_is_not_promised_never_passes() {
    let report = conformance(&Memory::new(Guard::None, Effect::Append, ATOMIC)).await;
    for name in [
        "the same batch again changes nothing",
        "an overlapping batch with another boundary ends right",
        "an older batch after newer ones changes nothing",
        "resume names the offset behind the last batch",
        "a process that lost its partition can't write",
    ] {
        let finding = report.findings().iter().find(|(check, _)| *check == name);
        assert!(matches!(finding, Some((_, Finding::Failed(_)))), "{name}: {finding:?}");
    }
    let report = conformance(&Memory::new(Guard::None, Effect::Put, &[])).await;
    let finding = report.findings().iter().find(|(check, _)| check.contains("older batch"));
    assert!(matches!(finding, Some((_, Finding::NotPromised(_)))), "{finding:?}");
}
