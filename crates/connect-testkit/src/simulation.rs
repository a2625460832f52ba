//! Seeded schedules of faults over the real pipeline of `connect-core`.
//!
//! A seed decides everything: the topic, the kind of store, the settings, what goes wrong and when. Time is tokio's paused clock, so that
//! hours pass in milliseconds; there is one thread; nothing depends on the machine. After a phase of trouble the world
//! becomes quiet, the processes catch up, and the result is compared with a model. The same seed replays the same run:
//!
//! ```
//! use connect_testkit::simulation::{Plan, simulate};
//!
//! let plan = Plan::of(7);
//! simulate(&plan).unwrap_or_else(|failure| panic!("seed 7 of {plan:?}: {failure}"));
//! ```

mod audit;
mod plan;
mod world;

pub use plan::{Event, Plan, Rejected};
pub use world::Summary;

/// Runs one schedule.
///
/// # Errors
/// What was found to be wrong, in a few words.
pub fn simulate(plan: &Plan) -> Result<Summary, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(world::run(plan))
}

/// The seeds that a test is asked to run: `CONNECT_SEED` alone when it is set, to replay one; else so many as
/// `CONNECT_SEEDS` says; else `default`, counted from 0.
///
/// # Panics
/// When a variable is not a number.
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
    };
    match number("CONNECT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CONNECT_SEEDS").unwrap_or(default),
    }
}
