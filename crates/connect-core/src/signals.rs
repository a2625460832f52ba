//! What SIGTERM and SIGINT do.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The two signals, caught from now on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them.
    ///
    /// # Errors
    /// When the system refuses, in words for the log.
    pub fn catch() -> Result<Self, String> {
        let catch = |kind| signal(kind).map_err(|error| format!("signals can't be caught: {error}"));
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// The first signal starts the drain. A person who sends another one does not want to wait for its end: this
    /// returns then, and as nothing is committed that is not durable, nothing is lost.
    pub async fn forward(mut self, shutdown: CancellationToken) {
        let signal = self.next().await;
        info!(signal, "stopping: finishing and committing what is in hand; another signal ends at once");
        shutdown.cancel();
        let signal = self.next().await;
        warn!(signal, "ending at once; what is in hand is not committed and will be read again");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_first_signal_asks_and_the_second_ends() {
        let shutdown = CancellationToken::new();
        let signals = Signals::catch().expect("signals");
        let forward = tokio::spawn(signals.forward(shutdown.clone()));
        kill_process(getpid(), Signal::TERM).expect("sent");
        timeout(PATIENCE, shutdown.cancelled()).await.expect("asked to stop");
        assert!(!forward.is_finished());
        kill_process(getpid(), Signal::INT).expect("sent");
        timeout(PATIENCE, forward).await.expect("ended").expect("no panic");
    }
}
