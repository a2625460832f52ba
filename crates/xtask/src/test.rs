//! `cargo xtask test`: every check of the project, the cheap and most telling ones first.

mod stopwatch;

use std::{ffi::OsStr, time::Duration};

use anyhow::{Context, Result};
use tokio::process::Command;

use self::stopwatch::Stopwatch;
use crate::{
    cargo::{self, cargo},
    deploy, effort, fuzz, paths,
    services::{Kafka, KafkaOptions, Redis, RedisOptions, kafka, shared},
    soak,
};

/// Says where a real Couchbase cluster is, where there is one.
const CLUSTER_VARIABLE: &str = "COUCHBASE_URL";
/// What is in the name of a test that needs it.
const ON_A_CLUSTER: &str = "real_cluster";

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Everything in full: see [`effort`]; every version of the servers, fuzzing, and the tools for that and for the
    /// dependency check are installed if they aren't there.
    pub nightly: bool,
    /// Only tests whose name contains one of these, and no other checks.
    pub filters: Vec<String>,
}

/// Runs the checks until one fails.
///
/// # Errors
/// A check failed; the message has its name.
pub async fn run(options: &Options) -> Result<()> {
    let mut watch = Stopwatch::default();
    let everything = options.filters.is_empty();
    if everything && options.nightly {
        watch.step("tools of the night", tools_of_the_night()).await?;
    }
    if everything {
        style(&mut watch).await?;
    }
    let mut unit = cargo_command(["test", "--workspace", "--"]);
    watch.tests("unit tests", unit.args(&options.filters)).await?;
    // It takes hours in which the machine has little to do: the rest of the night runs beside it.
    let soaking = (everything && options.nightly).then(|| tokio::spawn(soak_for(7_200)));
    if everything {
        simulation(options.nightly, &mut watch).await?;
        files(options.nightly, &mut watch).await?;
    }
    let versions: &[&str] =
        if options.nightly { &kafka::VERSIONS } else { &kafka::VERSIONS[kafka::VERSIONS.len() - 1..] };
    for version in versions {
        system_tests(version, options, &mut watch).await?;
    }
    if everything && options.nightly {
        watch.step("fuzzing", fuzz::run(fuzz::LENGTH)).await?;
    }
    match soaking {
        Some(soaking) => watch.step("rest of the soak", async { soaking.await? }).await?,
        None if everything => watch.step("soak", soak_for(120)).await?,
        None => {}
    }
    watch.report();
    Ok(())
}

async fn soak_for(seconds: u64) -> Result<()> {
    soak::run(&soak::Options { length: Duration::from_secs(seconds), rate: 1_000, binaries: None }).await
}

/// What would else be found missing after hours.
async fn tools_of_the_night() -> Result<()> {
    deploy::contents::possible().context("the contents of the images can't be tried here")?;
    fuzz::tools().await?;
    cargo::installed("cargo-deny").await.map(drop)
}

async fn style(watch: &mut Stopwatch) -> Result<()> {
    components(watch).await?;
    watch.command("format", &mut cargo_command(["fmt", "--all", "--check"])).await?;
    let mut lint = cargo_command(["clippy", "--workspace", "--all-targets"]);
    watch.command("clippy", lint.args(["--", "--deny", "warnings"])).await
}

/// Seeded schedules of faults over the real pipeline, and the bugs that they must catch; the seeds are printed.
async fn simulation(nightly: bool, watch: &mut Stopwatch) -> Result<()> {
    let seeds = if nightly { "1000000" } else { "20000" };
    let tests = ["test", "--workspace", "--test", "simulation", "--test", "teeth", "--", "--nocapture"];
    watch.tests(&format!("{seeds} simulated schedules"), cargo_command(tests).env("CONNECT_SEEDS", seeds)).await
}

/// What is no test of the code: its documentation, the files for Kubernetes, the licences.
async fn files(nightly: bool, watch: &mut Stopwatch) -> Result<()> {
    let mut docs = cargo_command(["doc", "--workspace", "--no-deps"]);
    watch.command("docs", docs.env("RUSTDOCFLAGS", "--deny warnings")).await?;
    watch.step("deploy", deploy::run(false)).await?;
    if nightly {
        watch.step("contents of the images", deploy::contents::check()).await?;
    }
    dependencies(watch).await
}

/// rustfmt and clippy, which a minimal toolchain doesn't have.
async fn components(watch: &mut Stopwatch) -> Result<()> {
    for (tool, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let there = cargo_command([tool, "--version"]).output().await?;
        if !there.status.success() {
            let mut add = command("rustup");
            watch
                .command(component, add.args(["component", "add", component]))
                .await
                .with_context(|| format!("install it with: rustup component add {component}"))?;
        }
    }
    Ok(())
}

/// Licences, sources and banned crates. The advisories aren't checked: their database is a git repository that a
/// build machine without access to it can't have; `cargo deny check advisories` does it where there is access.
async fn dependencies(watch: &mut Stopwatch) -> Result<()> {
    let Some(program) = cargo::extension("cargo-deny") else {
        println!("dependencies: skipped, no cargo-deny; install it with: cargo install --locked cargo-deny");
        return Ok(());
    };
    let mut check = command(program);
    check.args(["--all-features", "check", "licenses", "bans", "sources"]);
    watch.command("dependencies", &mut check).await
}

async fn system_tests(version: &str, options: &Options, watch: &mut Stopwatch) -> Result<()> {
    let servers = async {
        let kafka = Kafka::start(KafkaOptions { version: Some(version.to_owned()), ..KafkaOptions::default() }).await?;
        Ok((kafka, Redis::start(RedisOptions::default()).await?))
    };
    let (kafka, redis) = watch.step("servers for the system tests", servers).await?;
    // `--tests` leaves out the examples in the documentation that are marked `ignore`. One test at a time: they
    // start and kill servers of their own, and a machine that is busy with several is what makes tests flaky.
    // All of them, also when one has failed: it took an hour to get there.
    let arguments = ["test", "--workspace", "--tests", "--no-fail-fast", "--", "--ignored", "--test-threads=1"];
    let mut tests = cargo_command(arguments);
    if options.nightly {
        tests.env(effort::VARIABLE, "1");
    } else if options.filters.is_empty() {
        tests.args(["--skip", effort::NIGHTLY]);
    }
    if std::env::var_os(CLUSTER_VARIABLE).is_none() {
        println!(
            "not run: the checks on a real Couchbase cluster, because {CLUSTER_VARIABLE} isn't set; see docs/couchbase.md"
        );
        tests.args(["--skip", ON_A_CLUSTER]);
    }
    tests
        .args(&options.filters)
        .env(shared::KAFKA_VARIABLE, kafka.bootstrap())
        .env(shared::REDIS_VARIABLE, redis.url())
        .env(kafka::VERSION_VARIABLE, version);
    watch.tests(&format!("system tests with Kafka {version}"), &mut tests).await
}

fn cargo_command<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::from(cargo());
    command.args(arguments).kill_on_drop(true);
    command
}

fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(paths::workspace()).kill_on_drop(true);
    command
}
