//! A connector as a black box: its binary, its environment, its `/metrics`, its exit code.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use connect_testkit::scrape::Metrics;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    cargo::cargo,
    ports,
    process::{self, Lifetime, Process},
};

/// A connector answers a probe within this time or is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often a connector is asked what it has written: often enough for figures, seldom enough not to slow it down.
const POLL: Duration = Duration::from_millis(20);
/// Without progress for this long it is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// Records that were read meet their fate within this time, unless the store fails.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// The drain has a deadline of its own, 25 s unless set otherwise.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// Builds the binary of a package with the cargo profile `dev` or `release`, and says where it is.
///
/// # Errors
/// It doesn't compile; cargo has written why.
pub fn build(package: &str, profile: &str) -> Result<PathBuf> {
    // A release is built as it is shipped: with the features that the package itself asks for. All else is built with those of
    // the whole workspace, as the tests are, so that nothing is compiled twice.
    let packages: &[&str] = if profile == "release" { &["--package", package] } else { &["--workspace"] };
    run_cargo(package, cargo().args(["build", "--profile", profile]).args(packages))
}

/// The binary that the tests of this workspace run, built with them when it isn't there: after `cargo test --workspace`
/// nothing is compiled, while [`build`] would compile much of it again with other features.
///
/// # Errors
/// Something of the workspace doesn't compile; cargo has written why.
pub fn tested(package: &str) -> Result<PathBuf> {
    executable(package, cargo().args(["test", "--workspace", "--no-run"]))
}

/// Runs a build of cargo's and says where the package's binary is.
pub(crate) fn run_cargo(package: &str, command: &mut Command) -> Result<PathBuf> {
    executable(package, command.args(["--bin", package]))
}

/// Runs cargo and finds the binary of that name among what it built.
fn executable(package: &str, command: &mut Command) -> Result<PathBuf> {
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("can't run cargo")?;
    if !output.status.success() {
        bail!("{package} can't be built, see above");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == package && message["target"]["kind"][0] == "bin")
        .filter(|message| message["profile"]["test"] == false)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built no executable for {package}"))
}

/// A running connector. Killed when dropped.
#[derive(Debug)]
pub struct Connector {
    process: Process,
    admin: SocketAddr,
}

impl Connector {
    /// Starts a connector that gets its whole configuration from `environment`, and a free port for its metrics.
    ///
    /// # Errors
    /// The binary can't be run.
    pub fn start(binary: &Path, environment: &[(&str, &str)], log: &Path) -> Result<Self> {
        let name = binary.file_name().unwrap_or_default().to_string_lossy();
        Self::start_by(&name, process::command(binary, Lifetime::Owned), environment, log)
    }

    /// The same by a command that becomes the connector.
    ///
    /// # Errors
    /// The command can't be run.
    pub fn start_by(name: &str, mut command: Command, environment: &[(&str, &str)], log: &Path) -> Result<Self> {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        // Nothing of the person's own environment can change what is run here.
        command.env_clear().envs(environment.iter().copied()).env("CONNECT_ADMIN_LISTEN", admin.to_string());
        Ok(Self { process: Process::spawn_logged(name, command, log)?, admin })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it says at `/metrics` now; `None` while it doesn't listen yet.
    ///
    /// # Errors
    /// It has ended (the message has the end of its log), what it says isn't understood, or more records met a fate than were read.
    pub async fn metrics(&mut self) -> Result<Option<Metrics>> {
        if let Some(status) = self.process.exited()? {
            bail!("the connector ended ({status}); {}", self.process.log_tail());
        }
        match Metrics::scrape(self.admin).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            metrics => {
                let metrics = metrics.context("the connector doesn't say its metrics")?;
                match metrics.accounts().iter().find(|(_, account)| account.in_flight() < 0) {
                    Some((partition, account)) => bail!("{partition}: more fates than records: {account:?}"),
                    None => Ok(Some(metrics)),
                }
            }
        }
    }

    /// Waits until it has written so many records since its start; its metrics then.
    ///
    /// # Errors
    /// It has ended, or nothing more was written for a minute; the message has the end of its log.
    pub async fn wait_until_written(&mut self, count: u64) -> Result<Metrics> {
        self.wait_until(count, Metrics::written).await
    }

    /// Waits until so many records have met their fate since its start, whatever it was; its metrics then.
    ///
    /// # Errors
    /// It has ended, or nothing more happened for a minute; the message has the end of its log.
    pub async fn wait_until_done(&mut self, count: u64) -> Result<Metrics> {
        self.wait_until(count, |metrics| metrics.sum("connect_records_total", &[]) as u64).await
    }

    async fn wait_until(&mut self, count: u64, done: impl Fn(&Metrics) -> u64) -> Result<Metrics> {
        let (mut last, mut progress) = (0, Instant::now());
        loop {
            let metrics = self.metrics().await?.unwrap_or_default();
            let now = done(&metrics);
            if now >= count {
                return Ok(metrics);
            }
            if now > last {
                (last, progress) = (now, Instant::now());
            }
            if progress.elapsed() > STUCK_AFTER {
                let tail = self.process.log_tail();
                bail!("only {last} of {count} records were written and nothing more for {STUCK_AFTER:?}; {tail}");
            }
            // The first record is waited for closely; a connector that starts has no work yet that this could disturb.
            sleep(if last == 0 { POLL / 10 } else { POLL }).await;
        }
    }

    /// The status of its answer to a probe: `/livez` or `/readyz`.
    ///
    /// # Errors
    /// It doesn't listen or doesn't answer.
    pub async fn status(&self, path: &str) -> Result<u16> {
        let stream = TcpStream::connect(self.admin).await?;
        let (status, _) = timeout(ANSWER_WITHIN, get(stream, path)).await.context("no answer to a probe")??;
        Ok(status)
    }

    /// Waits until it says its metrics, and by them every record that it has read met its fate, in each partition; its metrics then.
    ///
    /// # Errors
    /// It has ended, or its account never adds up; the message has the figures.
    pub async fn settled(&mut self) -> Result<Metrics> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        loop {
            let open = match self.metrics().await? {
                None => "it says no metrics".to_owned(),
                Some(metrics) => match metrics.adds_up() {
                    Ok(()) => return Ok(metrics),
                    Err(message) => message,
                },
            };
            if Instant::now() >= deadline {
                bail!("{open}; {}", self.process.log_tail());
            }
            sleep(POLL).await;
        }
    }

    /// Has it drained once all that it has read is settled: see [`settled`](Self::settled) and [`drain`](Self::drain).
    ///
    /// # Errors
    /// As for both.
    pub async fn finish(&mut self) -> Result<Metrics> {
        let metrics = self.settled().await?;
        self.drain().await?;
        Ok(metrics)
    }

    /// Asks it to drain (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// It ended with another code than 0, or not at all, or its last account doesn't add up; the message has the end of its
    /// log.
    pub async fn drain(&mut self) -> Result<ExitStatus> {
        let status = self.process.terminate(DRAINED_WITHIN).await?;
        if !status.success() {
            bail!("the connector ended with {status} when asked to drain; {}", self.process.log_tail());
        }
        if self.process.log_tail().contains("the account does not add up") {
            bail!("{}", self.process.log_tail());
        }
        Ok(status)
    }
}

/// Status and body of an answer. HTTP 1.0, where the end of the connection is the end of the body.
///
/// # Errors
/// It is no HTTP, or the connection is lost.
pub async fn get(mut stream: TcpStream, path: &str) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    #[tokio::test]
    async fn a_connector_that_has_not_said_anything_is_not_settled() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = process::command(Path::new("/bin/sleep"), Lifetime::Owned);
        command.arg("60");
        let mut silent = Connector::start_by("silent", command, &[], &directory.path().join("log")).unwrap();
        assert!(timeout(Duration::from_millis(500), silent.settled()).await.is_err());
    }
}
