//! Chance that replays: everything random in a simulation comes from one seed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::Notify;

use crate::met::{Encounters, Met};

/// How many calls in a hundred go wrong, for all that share it, and what came up.
#[derive(Debug)]
pub struct Trouble {
    percent: AtomicU64,
    encounters: Encounters,
    /// Steps until everything dies; 0 while nothing is to die.
    fuse: AtomicU64,
    burnt: Notify,
}

impl Trouble {
    /// So many calls in a hundred go wrong.
    pub fn new(percent: u64) -> Arc<Self> {
        Arc::new(Self {
            percent: AtomicU64::new(percent),
            encounters: Encounters::default(),
            fuse: AtomicU64::new(0),
            burnt: Notify::new(),
        })
    }

    /// From here on so many calls in a hundred go wrong.
    pub fn set(&self, percent: u64) {
        self.percent.store(percent, Relaxed);
    }

    /// Whether nothing works at all.
    pub fn is_total(&self) -> bool {
        self.percent.load(Relaxed) >= 100
    }

    /// Whether this call goes wrong.
    pub fn strikes(&self, dice: &Dice) -> bool {
        dice.percent(self.percent.load(Relaxed))
    }

    /// Lets everything die at the `steps`-th step from now; 0 takes that back.
    pub fn light(&self, steps: u64) {
        self.fuse.store(steps, Relaxed);
    }

    /// Waits until that has come.
    pub async fn burnt(&self) {
        self.burnt.notified().await;
    }

    /// A step between two effects. Where the fuse has burnt down nothing follows any more, also when no time passes there.
    pub async fn step(&self) {
        let left = self.fuse.load(Relaxed);
        if left == 0 {
            return;
        }
        self.fuse.store(left - 1, Relaxed);
        if left == 1 {
            self.burnt.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// This came up.
    pub fn met(&self, met: Met) {
        self.encounters.note(met);
    }

    /// Everything that came up.
    pub fn encounters(&self) -> BTreeSet<Met> {
        self.encounters.all()
    }
}

/// A generator that may be shared.
#[derive(Debug)]
pub struct Dice(Mutex<Rng>);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Rng::with_seed(seed)))
    }

    /// Other dice, which depend on these: using one doesn't change how the other falls.
    pub fn fork(&self) -> Self {
        Self::new(self.rng(|rng| rng.u64(..)))
    }

    /// True so many times in a hundred.
    pub fn percent(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&self, end: u64) -> u64 {
        self.rng(|rng| rng.u64(..end))
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.rng(|rng| rng.u64(low..=high))
    }

    /// One of these, each as likely as the others. There must be one.
    pub fn one_of<'a, T>(&self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// A duration of up to `longest`; short ones are as likely as long ones, whatever the unit.
    pub fn time(&self, longest: Duration) -> Duration {
        let longest = (longest.as_millis() as u64).max(1);
        let magnitude = self.between(0, u64::from(longest.ilog2()));
        Duration::from_millis(self.below((2 << magnitude).min(longest)))
    }

    /// A duration below `longest`, each as likely as the others: for what takes a while before it can be met at work, as most of
    /// [`time`](Self::time) is too short for that.
    pub fn even_time(&self, longest: Duration) -> Duration {
        Duration::from_millis(self.below((longest.as_millis() as u64).max(1)))
    }

    fn rng<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
