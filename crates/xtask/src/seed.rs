//! The number that decides what a random system test does.

use std::io::Write;

/// Replays a test.
const VARIABLE: &str = "SYSTEM_TEST_SEED";

/// The seed of this run, a new one each time unless `SYSTEM_TEST_SEED` says which. It is told also of a test that passes, whose output
/// the test harness keeps to itself: what was shown was shown by this seed.
pub fn seed() -> u64 {
    let given = std::env::var(VARIABLE).ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| chrono::Utc::now().timestamp_micros() as u64);
    // The harness catches `eprintln!`, and not this.
    let _ = writeln!(std::io::stderr(), "{VARIABLE}={seed} replays this test");
    seed
}
