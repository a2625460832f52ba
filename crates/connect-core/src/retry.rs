//! Trying again: how long to wait, what to say about it, and when to give the memory back.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use metrics::counter;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::sink::SinkError;

/// The first delay.
pub(crate) const FIRST: Duration = Duration::from_millis(100);
/// No delay is longer, apart from its jitter.
pub(crate) const LONGEST: Duration = Duration::from_secs(10);
/// An error that stays is logged again this often.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// After this long a write gives its buffers back, so that partitions which can go on are not starved of memory by
/// those which can't.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One run of failures of one thing, from the first failure to the success that ends it.
pub(crate) struct Retry {
    what: String,
    seed: u64,
    delays: Option<ExponentialBackoff>,
    since: Instant,
    said: Option<Instant>,
}

impl Retry {
    /// `what` is being tried: it appears in the log. `seed` is [`Settings::jitter_seed`](crate::Settings::jitter_seed).
    pub(crate) fn new(what: impl Display, seed: u64) -> Self {
        Self { what: what.to_string(), seed, delays: None, since: Instant::now(), said: None }
    }

    /// Logs and counts a failure and waits before the next try.
    pub(crate) async fn wait(&mut self, reason: &'static str, message: &impl Display) {
        counter!("connect_retries_total", "reason" => reason).increment(1);
        let now = Instant::now();
        if self.delays.is_none() {
            self.since = now;
        }
        if self.said.is_none_or(|said| now - said >= SAY_AGAIN) {
            self.said = Some(now);
            let failing = humantime::format_duration(Duration::from_secs((now - self.since).as_secs()));
            warn!(reason, failing_for = %failing, "{}: {message}; trying again until it works", self.what);
        }
        let delays = self.delays.get_or_insert_with(|| {
            let delays = ExponentialBuilder::new().with_min_delay(FIRST).with_max_delay(LONGEST).with_factor(2.0);
            delays.without_max_times().with_jitter().with_jitter_seed(jitter(&self.what, self.seed)).build()
        });
        sleep(delays.next().unwrap_or(LONGEST)).await;
    }

    /// It worked.
    pub(crate) fn succeeded(&mut self) {
        if self.said.take().is_some() {
            info!(after = ?self.since.elapsed(), "{}: works again", self.what);
        }
        self.delays = None;
    }

    /// It does not work yet, but it moves: patience starts anew.
    pub(crate) fn moved(&mut self) {
        self.since = Instant::now();
    }

    /// Whether it has failed for longer than [`PATIENCE`].
    pub(crate) fn out_of_patience(&self) -> bool {
        self.delays.is_some() && self.since.elapsed() >= PATIENCE
    }
}

/// Jitter differs from partition to partition and from process to process, and yet a simulation replays.
fn jitter(what: &str, seed: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = ahash::RandomState::with_seeds(seed, 0, 0, 0).build_hasher();
    hasher.write(what.as_bytes());
    hasher.finish()
}

/// Bounds a call to the store.
pub(crate) async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, SinkError>>,
) -> Result<T, SinkError> {
    timeout(limit, call).await.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(SinkError::transient("timeout", format!("no answer from the store within CONNECT_WRITE_TIMEOUT={limit}")))
    })
}
