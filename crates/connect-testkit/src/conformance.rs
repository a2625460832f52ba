//! Named checks of a sink against its real store.
//!
//! An author implements [`Harness`], two functions, and calls [`conformance`] in a test:
//!
//! ```no_run
//! # use connect_testkit::conformance::{Harness, conformance};
//! # async fn test(harness: impl Harness) {
//! conformance(&harness).await.assert();
//! # }
//! ```
//!
//! The records are JSON documents with a text key. The harness configures its sink so that a record's value is stored
//! under its key, and a tombstone deletes it; [`Harness::dump`] gives back what the store holds. What a store cannot promise
//! is left out of [`Harness::promises`], and the report says "not promised" for it, never "passed".

mod basics;
mod faults;
mod feed;
mod harness;
mod offsets;
mod rejections;
mod replays;
mod report;
mod restarts;

pub use harness::{Dump, Harness, Place, Promise};
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
