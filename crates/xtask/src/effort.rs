//! How much the tests do: a part in every run, everything nightly.
//!
//! A test that takes long does [`share`] of its kills, records or rounds. One that makes sense only as a whole, or needs servers of
//! its own that take minutes to start, has `nightly` in its name: it runs with `cargo xtask test --nightly`, and whenever a
//! filter names it.

/// Set by `cargo xtask test --nightly`: tests do everything.
pub const VARIABLE: &str = "SYSTEM_TEST_FULL";
/// What is in the name of a test that is left to nightly runs.
pub const NIGHTLY: &str = "nightly";
/// Every run does this part of the whole.
const PART: u64 = 5;

/// Whether everything is to be done.
pub fn full() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// How many of `whole` are to be done: all of them nightly, else a fifth, at least one.
pub fn share(whole: u64) -> u64 {
    if full() { whole } else { whole.div_ceil(PART) }
}
