//! How long partitions stood still, seen from outside: by the offsets that Redis holds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use super::members::{Event, Owners};

/// No pause is known more exactly.
const LOOK: Duration = Duration::from_millis(10);

/// When each partition's offset was seen to have moved.
type Moves = Arc<Mutex<Vec<Vec<Instant>>>>;

/// Watches a connector's hash of offsets.
pub struct Pauses {
    moves: Moves,
    task: JoinHandle<()>,
}

impl Pauses {
    /// Watches from now on.
    pub fn watch(store: Client, topic: &str, partitions: usize) -> Self {
        let moves = Moves::new(Mutex::new(vec![Vec::new(); partitions]));
        let (seen, topic) = (Arc::clone(&moves), topic.to_owned());
        let task = tokio::spawn(async move {
            let (mut looks, mut last) = (interval(LOOK), BTreeMap::<String, String>::new());
            loop {
                looks.tick().await;
                let hash = store.custom(fred::cmd!("HGETALL"), vec![format!("connect:offsets:{topic}")]).await;
                let now: BTreeMap<String, String> = hash.unwrap_or_default();
                for (field, position) in &now {
                    let number =
                        field.strip_prefix(&topic).and_then(|rest| rest.strip_prefix('-')?.parse::<usize>().ok());
                    if let Some(number) = number
                        && last.get(field) != Some(position)
                    {
                        lock(&seen)[number].push(Instant::now());
                    }
                }
                last = now;
            }
        });
        Self { moves, task }
    }

    /// Whether every partition has moved since.
    pub fn all_moved_since(&self, begun: Instant) -> bool {
        lock(&self.moves).iter().all(|moves| moves.last().is_some_and(|last| *last > begun))
    }

    /// Knows only what is told by [`Pauses::moved`].
    pub fn told(partitions: usize) -> Self {
        Self { moves: Moves::new(Mutex::new(vec![Vec::new(); partitions])), task: tokio::spawn(async {}) }
    }

    /// A partition moves now.
    pub fn moved(&self, partition: usize) {
        lock(&self.moves)[partition].push(Instant::now());
    }

    /// Each partition's longest pause that began or ended since.
    pub fn longest_since(&self, begun: Instant) -> Vec<Duration> {
        let longest = |moves: &Vec<Instant>| {
            let since = moves.windows(2).filter(|pair| pair[1] > begun).map(|pair| pair[1] - pair[0]);
            since.max().unwrap_or_default()
        };
        lock(&self.moves).iter().map(longest).collect()
    }
}

impl Drop for Pauses {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pauses by what caused them. A report, not a promise: how long they are depends on the machine.
#[derive(Default)]
pub struct Report(BTreeMap<String, Vec<Duration>>);

impl Report {
    /// One more pause.
    pub fn add(&mut self, cause: impl Into<String>, pause: Duration) {
        self.0.entry(cause.into()).or_default().push(pause);
    }

    /// The pauses since `begun` belong to an event, which changed the owners.
    pub fn add_event(&mut self, event: Event, pauses: &Pauses, begun: Instant, before: &Owners, after: &Owners) {
        for (partition, pause) in pauses.longest_since(begun).into_iter().enumerate() {
            let moved = before.get(&partition) != after.get(&partition);
            self.add(format!("{event:?}, {}", if moved { "new owner" } else { "same owner" }), pause);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "longest pause of a partition   partitions      p50      p95      max")?;
        for (cause, pauses) in &self.0 {
            let mut pauses = pauses.clone();
            pauses.sort_unstable();
            let at = |percent: usize| pauses[(pauses.len() - 1) * percent / 100].as_secs_f64();
            writeln!(f, "{cause:30} {:10} {:6.2} s {:6.2} s {:6.2} s", pauses.len(), at(50), at(95), at(100))?;
        }
        Ok(())
    }
}
