//! A child process that can't outlive us, unless it is meant to.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::{
        OnceLock,
        mpsc::{Sender, channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};
use tokio::time::{Instant, sleep};

use crate::packages::find_program;

/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// How long a child lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Killed when its [`Process`] is dropped, and by the kernel when we die in whatever way.
    Owned,
    /// Stays when the terminal is closed and after [`Process::release`].
    Detached,
}

/// A command that runs `program` with the given lifetime; add arguments and environment, then [`Process::spawn`] it.
///
/// The process that runs is `program` itself under the id of the child: the helpers from util-linux replace
/// themselves by it. Each child leads a process group of its own, so that Ctrl-C on the terminal reaches only us and
/// we decide in which order things stop.
pub fn command(program: impl AsRef<Path>, lifetime: Lifetime) -> Command {
    use std::os::unix::process::CommandExt;

    let program = program.as_ref();
    // By its full path, because the caller may clear the child's environment and PATH with it.
    let program = find_program(program).unwrap_or_else(|| program.to_owned());
    let helper: (&str, &[&str]) = match lifetime {
        Lifetime::Owned => ("setpriv", &["--pdeathsig", "KILL"]),
        Lifetime::Detached => ("setsid", &[]),
    };
    let mut command = match find_program(Path::new(helper.0)) {
        Some(path) => {
            let mut command = Command::new(path);
            command.args(helper.1).arg(program);
            command
        }
        None => Command::new(program),
    };
    // `setsid` makes a group by itself, and would fork if it led one already.
    if lifetime == Lifetime::Owned {
        command.process_group(0);
    }
    command
}

/// A running child. Killed with its process group when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Option<PathBuf>,
}

impl Process {
    /// Starts a command made by [`command`]. `name` is used in messages.
    ///
    /// # Errors
    /// The program can't be started.
    pub fn spawn(name: impl Into<String>, command: Command) -> Result<Self> {
        let name = name.into();
        let child =
            spawn_on_lasting_thread(command).with_context(|| format!("can't start {name}; is it installed?"))?;
        Ok(Self { name, child, log: None })
    }

    /// Starts a command whose output is appended to the file `log`.
    ///
    /// # Errors
    /// The log can't be opened or the program can't be started.
    pub fn spawn_logged(name: impl Into<String>, mut command: Command, log: impl Into<PathBuf>) -> Result<Self> {
        let log = log.into();
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("can't open the log {}", log.display()))?;
        command.stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let mut process = Self::spawn(name, command)?;
        process.log = Some(log);
        Ok(process)
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status if the process has ended.
    ///
    /// # Errors
    /// The operating system refuses to tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// It still runs after `limit`; it is left running.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} (process {}) still runs after {limit:?}", self.name, self.pid());
            }
            sleep(POLL).await;
        }
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// It still runs after `limit`; it is left running.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        // A stopped process takes the signal only when it goes on. One that had nothing to do may have ended by now, and its id is
        // kept until we ask for its status.
        let _ = kill_process(to_pid(self.pid())?, Signal::CONT);
        self.wait(limit).await
    }

    /// Ends the process and its group at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Fails only when the group is gone already, which is what is wanted.
            let _ = to_pid(self.pid()).map(|pid| kill_process_group(pid, Signal::KILL));
            let _ = self.child.wait();
        }
    }

    /// Stops the process where it stands (SIGSTOP): its connections stay open and say nothing.
    ///
    /// # Errors
    /// The process has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    /// The process has ended.
    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends any signal.
    ///
    /// # Errors
    /// The process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // A process that ended is kept by the kernel until asked for, so its id can't be another's yet.
        if let Some(status) = self.exited()? {
            bail!("{} has ended already ({status})", self.name);
        }
        kill_process(to_pid(self.pid())?, signal).with_context(|| format!("can't send a signal to {}", self.name))
    }

    /// The last lines that the process wrote to its log, with the log's name; empty when nothing is logged.
    pub fn log_tail(&self) -> String {
        const LINES: usize = 20;
        let Some(log) = &self.log else {
            return String::new();
        };
        let bytes = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LINES)..].join("\n");
        format!("last lines of {}:\n{tail}", log.display())
    }

    /// Leaves the process running for good; only for [`Lifetime::Detached`].
    pub fn release(self) {
        // The only way not to run `drop`, and the child's handle holds nothing that would be lost.
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks a process that isn't our child to end, and kills it if it doesn't within `limit`. Does nothing when the
/// process that started at `started` (see [`crate::proc::started`]) has ended.
///
/// # Errors
/// The process isn't ours to signal, or can't be killed.
pub async fn stop_stranger(pid: u32, started: u64, limit: Duration) -> Result<()> {
    for signal in [Signal::TERM, Signal::KILL] {
        if crate::proc::started(pid) != Some(started) {
            return Ok(());
        }
        kill_process(to_pid(pid)?, signal).with_context(|| format!("can't stop process {pid}"))?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if crate::proc::started(pid) != Some(started) {
                return Ok(());
            }
            sleep(POLL).await;
        }
    }
    bail!("process {pid} can't be killed")
}

fn to_pid(id: u32) -> Result<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("{id} is no process id"))
}

/// The kernel counts the *thread* that started a child as its parent when it sends the death signal. Tests and async
/// runtimes end threads while the process goes on, so one thread that never ends starts all children.
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    type Request = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, received) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in received {
                let _ = reply.send(command.spawn());
            }
        });
        requests
    });
    let gone = || io::Error::other("the thread that starts children has ended");
    let (reply, answer) = channel();
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        let mut command = command("sleep", Lifetime::Owned);
        command.arg("600");
        let process = Process::spawn("sleep", command).unwrap();
        // Until the helper that asks for the death signal has done so and become `sleep`.
        let name = format!("/proc/{}/comm", process.pid());
        while std::fs::read_to_string(&name).unwrap() != "sleep\n" {
            thread::yield_now();
        }
        process
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let process = sleeper();
        let pid = process.pid();
        assert!(crate::proc::started(pid).is_some());
        drop(process);
        assert_eq!(crate::proc::started(pid), None);
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let (mut process, thread) = thread::spawn(|| {
            let process = sleeper();
            let thread = std::fs::read_link("/proc/thread-self").unwrap();
            (process, Path::new("/proc").join(thread))
        })
        .join()
        .unwrap();
        // The kernel sends the death signal while it takes the thread down, so look when the thread is gone.
        while thread.exists() {
            thread::yield_now();
        }
        assert_eq!(process.exited().unwrap(), None);
    }

    #[tokio::test]
    async fn a_paused_process_still_ends_when_asked_to() {
        let mut process = sleeper();
        process.pause().unwrap();
        let status = process.terminate(Duration::from_secs(30)).await.unwrap();
        assert!(!status.success());
    }

    #[tokio::test]
    async fn a_stranger_with_another_start_time_is_left_alone() {
        let mut process = sleeper();
        let started = crate::proc::started(process.pid()).unwrap();
        stop_stranger(process.pid(), started + 1, Duration::from_secs(1)).await.unwrap();
        assert_eq!(process.exited().unwrap(), None);
        stop_stranger(process.pid(), started, Duration::from_secs(30)).await.unwrap();
        assert!(process.exited().unwrap().is_some());
    }
}
