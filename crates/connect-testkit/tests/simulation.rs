//! The real pipeline keeps its promises through thousands of seeded schedules.
//!
//! `CONNECT_SEEDS=20000` runs so many; `CONNECT_SEED=7 RUST_LOG=debug` replays one and shows the pipeline's log.

use std::time::{Duration, Instant};

use connect_testkit::simulation::{Plan, seeds, simulate};

#[test]
fn what_is_in_the_store_is_what_the_topic_says() {
    let seeds = seeds(500);
    if seeds.end - seeds.start == 1 {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_test_writer().init();
    }
    let (started, mut simulated, mut failures) = (Instant::now(), Duration::ZERO, Vec::new());
    for seed in seeds.clone() {
        match simulate(&Plan::of(seed)) {
            Ok(summary) => simulated += summary.simulated,
            Err(failure) => failures.push((seed, failure)),
        }
    }
    let (count, took) = ((seeds.end - seeds.start) as f64, started.elapsed().as_secs_f64());
    println!("seeds {seeds:?}: {:.0} schedules/s, {:.1} h simulated", count / took, simulated.as_secs_f64() / 3600.0);
    for (seed, failure) in &failures {
        println!("CONNECT_SEED={seed} replays: {failure}");
    }
    if let Some((seed, failure)) = failures.first() {
        panic!("{} of {count} schedules failed; seed {seed}: {failure}\n{:?}", failures.len(), Plan::of(*seed));
    }
}
