//! Runs a real binary and kills it, again and again.
//!
//! ```no_run
//! # async fn test() -> std::io::Result<()> {
//! use connect_testkit::{dice::Dice, kill::Binary};
//! use std::time::Duration;
//!
//! let binary = Binary::new("target/debug/sink-fancy").env("CONNECT_NAME", "crash-test");
//! // Twenty lives of up to two seconds each, and one more that is left to finish its work.
//! let mut last = binary.kill_at_random(&Dice::new(7), 20, Duration::from_secs(2)).await?;
//! // Here the test polls until the work is done …
//! last.terminate()?;
//! assert!(last.wait(Duration::from_secs(30)).await?.success());
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::dice::Dice;

/// A program with its environment, and nothing of ours.
#[derive(Clone, Debug)]
pub struct Binary {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    log: Option<PathBuf>,
}

impl Binary {
    /// A program that is started without arguments.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), environment: BTreeMap::new(), log: None }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Appends what it says, on both of its outputs, to this file; else it is thrown away.
    pub fn log(self, file: impl Into<PathBuf>) -> Self {
        Self { log: Some(file.into()), ..self }
    }

    /// Starts it. It is killed when the result is dropped.
    ///
    /// # Errors
    /// When it can't be started, or its log can't be opened.
    pub fn start(&self) -> io::Result<Running> {
        let output = || match &self.log {
            Some(file) => OpenOptions::new().create(true).append(true).open(file).map(Stdio::from),
            None => Ok(Stdio::null()),
        };
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(&self.environment).stdin(Stdio::null()).kill_on_drop(true);
        Ok(Running { child: command.stdout(output()?).stderr(output()?).spawn()? })
    }

    /// Lets it live `kills` times, each for a time below `longest` that the dice decide, and kills it with `SIGKILL`; then starts
    /// it once more and gives that to the caller. A life that ends by itself, with success, is left as it is.
    ///
    /// # Errors
    /// When it can't be started or killed, or ends by itself without success.
    pub async fn kill_at_random(&self, dice: &Dice, kills: usize, longest: Duration) -> io::Result<Running> {
        for _ in 0..kills {
            let mut running = self.start()?;
            if let Ok(status) = timeout(dice.even_time(longest), running.child.wait()).await {
                let status = status?;
                if !status.success() {
                    return Err(io::Error::other(format!("{} ended with {status}", self.program.display())));
                }
            } else {
                running.child.kill().await?;
            }
            // The port of its probes is free again at once; its connections take a moment.
            sleep(dice.time(Duration::from_millis(50))).await;
        }
        self.start()
    }
}

/// A process, killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Its process id; `None` once it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks it to stop, with `SIGTERM`.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn terminate(&self) -> io::Result<()> {
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let id = id.ok_or_else(|| io::Error::other("the process has ended already"))?;
        Ok(kill_process(id, Signal::TERM)?)
    }

    /// Kills it, with `SIGKILL`, and waits until it is gone.
    ///
    /// # Errors
    /// When it has ended already.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it doesn't within `limit`.
    pub async fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no end within {limit:?}"));
        timeout(limit, self.child.wait()).await.map_err(late)?
    }
}
