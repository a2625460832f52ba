//! Runs the steps and tells, at the end, where the time went.

use std::{
    future::Future,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Command,
    time::timeout,
};

/// What a command that has ended said is read within this time.
const LAST_LINES: Duration = Duration::from_secs(10);
/// Steps and test programs in the report.
const SHOWN: usize = 15;

/// What has been run, and how long each took.
#[derive(Debug)]
pub(super) struct Stopwatch {
    begun: Instant,
    took: Vec<(String, Duration)>,
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self { begun: Instant::now(), took: Vec::new() }
    }
}

impl Stopwatch {
    /// Runs a step.
    ///
    /// # Errors
    /// It failed; the message has its name.
    pub(super) async fn step<T>(&mut self, name: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
        println!("── {name}");
        let begun = Instant::now();
        let result = step.await.with_context(|| format!("failed: {name}"))?;
        println!("── {name}: {:.1} s", begun.elapsed().as_secs_f64());
        self.took.push((name.to_owned(), begun.elapsed()));
        Ok(result)
    }

    /// Runs a command as a step.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    pub(super) async fn command(&mut self, name: &str, command: &mut Command) -> Result<()> {
        self.step(name, async {
            let status = command.status().await;
            ended(command, status)
        })
        .await
    }

    /// Runs `cargo test` as a step, and takes the time of each test program, too.
    ///
    /// # Errors
    /// As for [`step`](Self::step).
    pub(super) async fn tests(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let mut programs = Vec::new();
        self.step(name, async {
            let program = format!("{:?}", command.as_std().get_program());
            let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
            let mut child = spawned.with_context(|| format!("can't run {program}"))?;
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            // Cargo names a program on one of its outputs, the program tells its time on the other: in the same order.
            let reading = tokio::spawn(async { tokio::try_join!(lines(stderr, running), lines(stdout, finished)) });
            let status = child.wait().await;
            // What a test left behind may hold the outputs open: that is not waited for.
            if let Ok(read) = timeout(LAST_LINES, reading).await {
                let (running, took) = read??;
                programs = running.into_iter().zip(took).collect();
            }
            ended(command, status)
        })
        .await?;
        self.took.extend(programs);
        Ok(())
    }

    /// Prints what took longest, and how long all of it took.
    pub(super) fn report(mut self) {
        self.took.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        println!("── the slowest");
        for (name, took) in self.took.iter().take(SHOWN) {
            println!("{:>9.1} s  {name}", took.as_secs_f64());
        }
        println!("all passed in {:.1} s", self.begun.elapsed().as_secs_f64());
    }
}

fn ended(command: &Command, status: std::io::Result<std::process::ExitStatus>) -> Result<()> {
    let status = status.with_context(|| format!("can't run {:?}", command.as_std().get_program()))?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

/// Passes an output on, line by line, and keeps what is found in it.
async fn lines<T>(output: Option<impl AsyncRead + Unpin>, find: fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    let Some(output) = output else { return Ok(found) };
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).await? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        found.extend(find(text.trim()));
        line.clear();
    }
    Ok(found)
}

/// From `Running tests/drain.rs (target/debug/deps/system_drain-0123)` or `Doc-tests connect_core`.
fn running(line: &str) -> Option<String> {
    if let Some(package) = line.strip_prefix("Doc-tests ") {
        return Some(format!("examples in the docs of {package}"));
    }
    let (source, program) = line.strip_prefix("Running ")?.split_once(" (")?;
    let name = program.trim_end_matches(')').rsplit('/').next()?.rsplit_once('-')?.0;
    Some(format!("{name}, {source}"))
}

/// From `test result: ok. 3 passed; … finished in 1.23s`.
fn finished(line: &str) -> Option<Duration> {
    let (_, seconds) = line.strip_prefix("test result: ")?.split_once("finished in ")?;
    Some(Duration::from_secs_f64(seconds.strip_suffix('s')?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_times_are_found_in_what_cargo_says() {
        let named = running("Running ../../tests/drain.rs (target/debug/deps/system_drain-00f2)");
        assert_eq!(named.as_deref(), Some("system_drain, ../../tests/drain.rs"));
        assert_eq!(running("Doc-tests connect_core").as_deref(), Some("examples in the docs of connect_core"));
        assert_eq!(running("Compiling xtask v0.1.0"), None);
        let result = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1.25s";
        assert_eq!(finished(result), Some(Duration::from_millis(1_250)));
        assert_eq!(finished("test a_thing ... ok"), None);
    }
}
