//! The checks themselves: right sinks pass them all, and each check finds out a sink that is wrong about its matter.

mod server;
mod wrong;

use connect_core::mutants::{Mutant, ask};
use connect_testkit::conformance::{Finding, Report, conformance, harness};
use connect_testkit::store::{Effect, Guard, Store};
use futures::future::join_all;
use wrong::{Flaw, Wrongs};

/// The checks that a sink with this flaw must fail.
const TABLE: [(Flaw, Guard, &[&str]); 35] = {
    use Guard::{Atomic, None, PerKey};
    [
        (Flaw::CheckFails, PerKey, &["check answers"]),
        (Flaw::EmptyBatchIsAnError, PerKey, &["an empty batch changes nothing"]),
        (Flaw::AcknowledgesAndWritesNothing, PerKey, &["a record is stored"]),
        (Flaw::TargetIsTheValue, PerKey, &["prepare gives the same answer for the same record"]),
        (Flaw::WritesTheFirstThousand, PerKey, &["10,000 records are stored"]),
        (Flaw::FirstOfABatchWins, PerKey, &["the last write of a key wins in a batch"]),
        (Flaw::KeepsWhatIsThere, PerKey, &["the last write of a key wins across batches"]),
        (Flaw::LowersKeys, PerKey, &["keys of odd characters stay apart"]),
        (Flaw::CutsValues, PerKey, &["a value of 1 MiB is stored"]),
        (Flaw::IgnoresTombstones, PerKey, &["a tombstone deletes"]),
        (Flaw::DeletesLast, PerKey, &["write, delete and write in one batch"]),
        (Flaw::RejectsAbsentTombstones, PerKey, &["a tombstone of an absent key is no error"]),
        (Flaw::NullKeyIsTheLastKey, PerKey, &["a null key is stored, filtered or rejected"]),
        (Flaw::SwallowsEmptyKeys, PerKey, &["an empty key is stored, filtered or rejected"]),
        (Flaw::EmptyValueDeletes, PerKey, &["an empty value is stored, filtered or rejected"]),
        (Flaw::PanicsOnNothing, PerKey, &["a null key and value are no panic"]),
        (Flaw::RepairsValues, PerKey, &["a value of invalid UTF-8 is stored as it is, or rejected"]),
        (Flaw::RepairsKeys, PerKey, &["a key of invalid UTF-8 is stored as it is, or rejected"]),
        (Flaw::RejectsTheNext, PerKey, &["what the store refuses is named exactly"]),
        (Flaw::RetriesTheNext, PerKey, &[PUSHED_BACK]),
        (Flaw::RetriesTheFirst, PerKey, &[PUSHED_BACK]),
        (Flaw::RetriesTheRest, PerKey, &[PUSHED_BACK]),
        (
            Flaw::Accumulates,
            None,
            &[
                "the same batch again changes nothing",
                "an overlapping batch with another boundary ends right",
                "a new process that reads everything again ends right",
                "a connection reset after applying",
                "a connection closed after applying",
            ],
        ),
        (
            Flaw::NoGuard,
            None,
            &["an older batch after newer ones changes nothing", "a late request lands after newer ones"],
        ),
        (Flaw::NotesBeforeItWrites, PerKey, &["write may be dropped at any await"]),
        (
            Flaw::WritesBehind,
            PerKey,
            &[
                "killed in the middle of its work and started again",
                "stopped in the middle of its work and started again",
            ],
        ),
        (Flaw::ResumesFromNothing, Atomic, &["resume names no offset where nothing was written"]),
        (Flaw::ResumesAtTheLast, Atomic, &["resume names the offset behind the last batch"]),
        (Flaw::SkipsEmptyBatches, Atomic, &["a batch without items moves the offset"]),
        (
            Flaw::NoExpectation,
            Atomic,
            &["a batch that expects another offset is refused", "a process that lost its partition can't write"],
        ),
        (Flaw::WrongPasswordPasses, PerKey, &["a wrong password is Fatal"]),
        (Flaw::RefusedIsFatal, PerKey, &["a refused connection is Transient"]),
        (
            Flaw::SilenceIsConsent,
            PerKey,
            &[
                "a connection reset before applying",
                "a connection reset after applying",
                "a connection closed after applying",
                "a store that answers nothing",
            ],
        ),
        (Flaw::ReadsOnce, PerKey, &["answers in slices of 7 bytes"]),
        (
            Flaw::GoesAroundTheProxy,
            PerKey,
            &[
                "a refused connection is Transient",
                "a connection reset before applying",
                "a connection reset after applying",
                "a connection closed after applying",
                "a store that answers nothing",
                "answers in slices of 7 bytes",
                "a late request lands after newer ones",
            ],
        ),
    ]
};
const PUSHED_BACK: &str = "what the store puts off is named exactly";

fn failed(report: &Report) -> Vec<&'static str> {
    let failed = |(_, finding): &&(_, Finding)| matches!(finding, Finding::Failed(_));
    report.findings().iter().filter(failed).map(|(name, _)| *name).collect()
}

#[tokio::test]
async fn right_sinks_conform() {
    for (guard, not_promised) in [(Guard::PerKey, 5), (Guard::Atomic, 1)] {
        let report = conformance(&Wrongs::with(None, guard).await).await;
        report.assert();
        assert_eq!(report.not_promised().len(), not_promised, "{report}");
    }
    let report = conformance(&Wrongs::with(Some(Flaw::Accumulates), Guard::Atomic).await).await;
    report.assert();
}

#[tokio::test]
async fn each_check_finds_out_a_wrong_sink() {
    let reports = join_all(TABLE.map(|(flaw, guard, wanted)| async move {
        let report = Box::pin(conformance(&Wrongs::with(Some(flaw), guard).await)).await;
        (flaw, wanted, report)
    }));
    let (mut never, mut unseen) = (Vec::new(), Vec::new());
    for (flaw, wanted, report) in reports.await {
        println!("{flaw:?} fails {:?}", failed(&report));
        unseen.extend(wanted.iter().filter(|name| !failed(&report).contains(name)).map(|name| (flaw, *name)));
        never = report.findings().iter().map(|(name, _)| *name).collect();
    }
    assert_eq!(unseen, [], "a sink with this flaw passes this check");
    never.retain(|name| !TABLE.iter().any(|(_, _, wanted)| wanted.contains(name)));
    assert_eq!(never, Vec::<&str>::new(), "no flaw fails these checks: nothing is shown about them");
}

#[tokio::test]
async fn who_goes_around_the_proxy_is_told_so() {
    let report = conformance(&Wrongs::with(Some(Flaw::GoesAroundTheProxy), Guard::PerKey).await).await;
    let around =
        |(_, finding): &&(_, Finding)| matches!(finding, Finding::Failed(why) if why.contains("around the proxy"));
    assert_eq!(report.findings().iter().filter(around).count(), 6, "{report}");
}

#[tokio::test]
async fn a_record_without_a_fate_is_noticed() {
    let wrongs = Wrongs::with(Some(Flaw::FiltersEverything), Guard::PerKey).await;
    // There is nothing that the store could refuse.
    assert_eq!(failed(&conformance(&wrongs).await), ["what the store refuses is named exactly"]);
    ask(Some(Mutant::FilteredUncounted));
    let report = conformance(&wrongs).await;
    ask(None);
    let lives = ["killed", "stopped"].map(|end| format!("{end} in the middle of its work and started again"));
    assert_eq!(failed(&report)[1..], lives, "{report}");
}

#[tokio::test]
async fn what_is_not_promised_never_passes() {
    let store = Store::new(Guard::None, Effect::Put);
    let report = conformance(&harness(async |_| Ok(store.clone()), async |_| store.dump()).promising(&[])).await;
    let named = report.not_promised();
    assert_eq!(named.len(), 19, "{report}");
    assert!(named.contains(&"an older batch after newer ones changes nothing"), "{named:?}");
}
