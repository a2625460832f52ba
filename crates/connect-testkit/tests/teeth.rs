//! The simulation has teeth: each deliberate bug, of the framework or of a store, is caught, and the seed is told.

use std::process::Command;

use connect_core::mutants::{Mutant, ask};
use connect_testkit::simulation::{Plan, simulate};
use connect_testkit::store::Flaw;

/// A bug that so many schedules don't show is not caught.
const SCHEDULES: u64 = 2_000;

/// The first schedule that fails, and why; the same schedule must pass without the bug.
fn caught(plans: impl Iterator<Item = Plan>, mutant: Option<Mutant>) -> Option<(u64, String)> {
    for plan in plans {
        let with_the_bug = || {
            ask(mutant);
            let result = simulate(&plan).err();
            ask(None);
            result
        };
        if let Some(failure) = with_the_bug() {
            assert_eq!(with_the_bug().as_ref(), Some(&failure), "seed {} does not replay", plan.seed);
            let sound = Plan { flaw: None, ..plan };
            assert_eq!(simulate(&sound).err(), None, "seed {} fails without the bug, too", sound.seed);
            return Some((sound.seed, failure));
        }
    }
    None
}

#[test]
fn no_binary_has_the_bugs() {
    for binary in ["sink-redis", "sink-elasticsearch", "sink-couchbase", "custom-sink"] {
        let tree = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--edges", "features,no-dev", "--package", binary])
            .output()
            .expect("cargo runs");
        let tree = String::from_utf8_lossy(&tree.stdout);
        assert!(tree.contains("connect-core"), "{binary}: {tree}");
        assert!(!tree.contains("mutants"), "{binary} is built with the feature `mutants` of connect-core");
    }
}

#[test]
fn every_bug_of_the_framework_is_caught() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        match caught((0..SCHEDULES).map(Plan::of), Some(mutant)) {
            Some((seed, failure)) => println!("{mutant:?} is caught by seed {seed}: {failure}"),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "{SCHEDULES} schedules don't show {missed:?}");
}

#[test]
fn every_bug_of_a_store_is_caught() {
    let mut missed = Vec::new();
    for (flaw, guard) in Flaw::ALL {
        let plans = (0..SCHEDULES).map(Plan::of).filter(|plan| plan.guard == guard);
        match caught(plans.map(|plan| Plan { flaw: Some(flaw), ..plan }), None) {
            Some((seed, failure)) => println!("{flaw:?} is caught by seed {seed}: {failure}"),
            None => missed.push(flaw),
        }
    }
    assert!(missed.is_empty(), "{SCHEDULES} schedules don't show {missed:?}");
}
