//! What all servers have in common: a directory, a process, and an answer to wait for.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    paths, proc,
    process::{Lifetime, Process},
};

/// A server has this long to answer one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A server has this long to stop when asked to.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A kind of server.
pub trait Service: Send + Sync {
    /// What it is called in messages and files.
    const NAME: &'static str;
    /// It has this long to answer after its start; a Java server on a busy machine needs much of it.
    const READY_WITHIN: Duration = Duration::from_secs(120);

    /// Writes what it needs into its directory. Called before every start, so it leaves data alone that is there.
    ///
    /// # Errors
    /// Something can't be written or run.
    fn prepare(&self, directory: &Path) -> Result<()>;

    /// The command that runs the server in the foreground.
    ///
    /// # Errors
    /// The program isn't there.
    fn command(&self, directory: &Path, lifetime: Lifetime) -> Result<Command>;

    /// Asks the server something in its own protocol.
    fn answers(&self) -> impl Future<Output = Result<()>> + Send;
}

/// A server and its process. Dropped, it is killed and its data removed.
#[derive(Debug)]
pub struct Server<S: Service> {
    pub(super) service: S,
    process: Option<Process>,
    directory: Directory,
    lifetime: Lifetime,
}

#[derive(Debug)]
enum Directory {
    Own(TempDir),
    Given(PathBuf),
}

impl Directory {
    fn new(name: &str, given: Option<PathBuf>) -> Result<Self> {
        let parent = given.clone().unwrap_or_else(|| paths::services().join("run"));
        fs::create_dir_all(&parent).with_context(|| format!("can't make the directory {}", parent.display()))?;
        match given {
            Some(directory) => Ok(Self::Given(directory)),
            None => Ok(Self::Own(
                tempfile::Builder::new()
                    .prefix(&format!("{name}-"))
                    .tempdir_in(parent)
                    .context("can't make a directory for a server")?,
            )),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Own(directory) => directory.path(),
            Self::Given(directory) => directory,
        }
    }
}

impl<S: Service> Server<S> {
    /// Starts the server and waits until it answers. Without a directory it has one of its own, removed at the end.
    pub(super) async fn launch(service: S, directory: Option<PathBuf>, lifetime: Lifetime) -> Result<Self> {
        let mut server = Self { service, process: None, directory: Directory::new(S::NAME, directory)?, lifetime };
        server.start_again().await?;
        Ok(server)
    }

    /// Starts the stopped server again, on the same port and with the data it had, and waits until it answers.
    ///
    /// # Errors
    /// It runs already, or it can't be started, or it doesn't answer; the message has the end of its log.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", S::NAME);
        }
        let directory = self.directory.path();
        self.service.prepare(directory)?;
        let command = self.service.command(directory, self.lifetime)?;
        let process = Process::spawn_logged(S::NAME, command, self.log())?;
        self.process = Some(process);
        let ready = self.wait_until_it_answers().await;
        if ready.is_err() {
            self.stop();
        }
        ready
    }

    /// Waits until the server answers in its protocol.
    ///
    /// # Errors
    /// It ended, or the time is up.
    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else {
            bail!("{} isn't started", S::NAME);
        };
        let deadline = Instant::now() + S::READY_WITHIN;
        loop {
            if let Some(status) = process.exited()? {
                bail!("{} ended while starting ({status}); {}", S::NAME, process.log_tail());
            }
            let answer = timeout(ANSWER_WITHIN, self.service.answers()).await.unwrap_or_else(|late| Err(late.into()));
            let Err(error) = answer else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                let tail = process.log_tail();
                return Err(error.context(format!("{} doesn't answer after {:?}; {tail}", S::NAME, S::READY_WITHIN)));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the server at once (SIGKILL), as a crash would. Its data stays for [`Server::start_again`].
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Stops the server in an orderly way (SIGTERM). Its data stays for [`Server::start_again`].
    ///
    /// # Errors
    /// It didn't stop within 30 s and was killed.
    pub async fn shutdown(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.terminate(STOP_WITHIN).await.map(drop),
            None => Ok(()),
        }
    }

    /// Freezes the server (SIGSTOP): connections stay open, nothing is answered.
    ///
    /// # Errors
    /// It doesn't run.
    pub fn pause(&mut self) -> Result<()> {
        self.running()?.pause()
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Errors
    /// It doesn't run.
    pub fn resume(&mut self) -> Result<()> {
        self.running()?.resume()
    }

    /// Whether its process runs; a frozen one does.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.exited(), Ok(None)))
    }

    /// The id of its process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Where its data and log are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The file that it logs to.
    pub fn log(&self) -> PathBuf {
        self.directory().join(format!("{}.log", S::NAME))
    }

    /// Leaves a detached server running and says how to find it again.
    pub(super) fn release(mut self) -> Result<super::state::Running> {
        let process = self.process.take().context("not started")?;
        let pid = process.pid();
        let started = proc::started(pid).context("ended right after its start")?;
        process.release();
        Ok(super::state::Running { pid, started, directory: self.directory().to_owned() })
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("{} isn't running", S::NAME))
    }
}

impl<S: Service> Drop for Server<S> {
    fn drop(&mut self) {
        self.stop();
        // A failed test's log is worth more than the disk space.
        if std::thread::panicking()
            && let Directory::Own(directory) = &mut self.directory
        {
            directory.disable_cleanup(true);
            eprintln!("kept for you to look at: {}", self.log().display());
        }
    }
}
