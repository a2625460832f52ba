//! Named checks of a sink against its real store.
//!
//! An author gives two functions: `connect` makes the sink as a process does at its start, `dump` tells what the store holds.
//! Each check has a place of its own in the store.
//!
//! ```no_run
//! use connect_testkit::conformance::{Dump, Place, conformance, harness};
//!
//! # use connect_testkit::store::{Effect, Guard, Store};
//! # async fn connect_to_the_store(name: &str) -> Result<Store, connect_core::SinkError> { Ok(Store::new(Guard::PerKey, Effect::Put)) }
//! # async fn everything_in_the_store(name: &str) -> Dump { Dump::new() }
//! # async fn test() {
//! let connect = async |place: &Place| connect_to_the_store(&place.name).await;
//! let dump = async |place: &Place| everything_in_the_store(&place.name).await;
//! conformance(&harness(connect, dump)).await.assert();
//! # }
//! ```
//!
//! The records are JSON documents with a text key. The sink is configured so that a record's value is stored under its key, and
//! a tombstone deletes it. What a store cannot promise is left out ([`Functions::promising`]), and the report says "not promised"
//! for it, never "passed". With the store's address ([`Functions::at`]) a proxy stands before it and disturbs the network. Who
//! needs more, such as a record that only the store refuses, implements [`Harness`].

mod basics;
mod faults;
mod feed;
mod harness;
mod offsets;
mod rejections;
mod replays;
mod report;
mod restarts;

pub use harness::{Dump, Functions, Harness, Place, Promise, harness, start};
pub use report::{Finding, Report};

use report::Run;

/// Runs every check, one after the other, and tells what was found. Never panics by itself: see [`Report::assert`].
pub async fn conformance<H: Harness>(harness: &H) -> Report {
    let mut run = Run::new(harness.promises());
    Box::pin(basics::run(&mut run, harness)).await;
    Box::pin(rejections::run(&mut run, harness)).await;
    Box::pin(replays::run(&mut run, harness)).await;
    Box::pin(offsets::run(&mut run, harness)).await;
    Box::pin(restarts::run(&mut run, harness)).await;
    Box::pin(faults::run(&mut run, harness)).await;
    run.report()
}
