//! Kafka's own producers in Java, for transactions as they are in the world: those of our own encoder could share a mistake with our
//! decoder.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{default_version, jars, java};
use crate::{java::compile, packages::JAVA, paths, process::Lifetime};

/// Longer than a coordinator takes to be there on a new broker.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A process with as many transactional producers as are named to it. It is killed when dropped, and what is open then stays open.
#[derive(Debug)]
pub struct Transactions {
    _process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _classes: TempDir,
}

impl Transactions {
    /// Compiles and starts it, with the client of the Kafka version that the tests use.
    ///
    /// # Errors
    /// Java, the jars or the compiler aren't there and can't be had.
    pub fn start(bootstrap: &str) -> Result<Self> {
        let (jars, classes) = (jars(&default_version())?, TempDir::new()?);
        let sources = paths::workspace().join("crates/xtask/services/kafka/transactions");
        compile(Path::new(JAVA.program), 17, &jars, &sources, classes.path())?;
        let mut command = Command::from(java(&jars, "128m", Lifetime::Owned));
        // The later class path is the one that counts.
        command.arg("-cp").arg(format!("{}:{}", classes.path().display(), jars.join("*").display()));
        command.args(["-XX:TieredStopAtLevel=1", "Transactions", bootstrap]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("can't run java")?;
        let orders = process.stdin.take().context("no input")?;
        let answers = BufReader::new(process.stdout.take().context("no output")?).lines();
        Ok(Self { _process: process, orders, answers, _classes: classes })
    }

    /// Tells the producer `name` to do something, and waits until it is done: `begin`, `send TOPIC PARTITION KEY VALUE`, `flush`,
    /// `commit` or `abort`. No word may hold a space.
    ///
    /// # Errors
    /// It can't; what it says is on our own error output.
    pub async fn tell(&mut self, name: &str, what: &str) -> Result<()> {
        let order = format!("{name} {what}");
        let done = async {
            self.orders.write_all(format!("{order}\n").as_bytes()).await?;
            self.answers.next_line().await
        };
        let answer = timeout(ANSWER_WITHIN, done).await.with_context(|| format!("{order}: no answer"))??;
        ensure!(answer.as_ref() == Some(&order), "{order}: {answer:?}");
        Ok(())
    }
}
