//! The processes of the group, and what is done to them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use connect_testkit::dice::Dice;
use connect_testkit::scrape::Metrics;
use system_tests::{PATIENCE, Scene, until};
use tokio::time::{Instant, sleep};
use xtask::connector::Connector;
use xtask::redis_client;

use super::pauses::Pauses;

/// Something that happens to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// One more starts.
    Join,
    /// One is asked to stop.
    Leave,
    /// One is killed, and another starts in its place.
    Kill,
    /// One stands still for less than its session.
    ShortStop,
    /// One stands still for longer, and then goes on as if nothing had happened.
    LongStop,
}

impl Event {
    /// Shuffled anew when all have been: each comes, and the group neither dies out nor grows for ever.
    pub fn deck(dice: &Dice, count: usize) -> Vec<Self> {
        let mut deck = Vec::new();
        while deck.len() < count {
            let mut kinds = vec![Self::Join, Self::Leave, Self::Kill, Self::ShortStop, Self::LongStop];
            while !kinds.is_empty() {
                deck.push(kinds.swap_remove(dice.below(kinds.len() as u64) as usize));
            }
        }
        deck.truncate(count);
        deck
    }
}

/// Who has which partition: the member's number.
pub type Owners = BTreeMap<usize, usize>;

/// The processes that run.
pub struct Members<'a> {
    scene: &'a Scene,
    partitions: usize,
    running: BTreeMap<usize, Connector>,
    started: usize,
    /// How those were met that were killed or stopped.
    pub struck: Struck,
}

/// How members were met by what befell them: one that has nothing to do has nothing to lose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Struck {
    /// All of them.
    pub members: usize,
    /// Those that had read from partitions of theirs.
    pub at_work: usize,
    /// Those that held records just then that were not written yet.
    pub with_records_in_hand: usize,
}

impl Struck {
    fn count(&mut self, metrics: Option<&Metrics>) {
        let works = |metrics: &Metrics| metrics.sum("connect_partitions", &[]) > 0.0 && metrics.read() > 0;
        let holds = |metrics: &Metrics| metrics.sum("connect_in_flight_bytes", &[]) > 0.0;
        self.members += 1;
        self.at_work += usize::from(metrics.is_some_and(works));
        self.with_records_in_hand += usize::from(metrics.is_some_and(holds));
    }
}

impl<'a> Members<'a> {
    /// None yet.
    pub fn new(scene: &'a Scene, partitions: usize) -> Self {
        Self { scene, partitions, running: BTreeMap::new(), started: 0, struck: Struck::default() }
    }

    /// One more.
    pub fn join(&mut self) -> Result<()> {
        let name = format!("member-{}", self.started);
        self.running.insert(self.started, self.scene.connector_named(&name, &[])?);
        self.started += 1;
        Ok(())
    }

    /// Lets it happen to one of them.
    pub async fn strike(&mut self, event: Event, dice: &Dice, session: Duration) -> Result<()> {
        if event == Event::Join {
            return self.join();
        }
        let chosen = dice.below(self.running.len() as u64) as usize;
        let number = *self.running.keys().nth(chosen).context("nobody is left")?;
        let mut victim = self.running.remove(&number).context("nobody is left")?;
        if event != Event::Leave {
            self.struck.count(victim.metrics().await?.as_ref());
        }
        match event {
            Event::Join => {}
            Event::Leave => {
                // Before it catches the signal it would simply be ended by it.
                until("it listens", async || victim.metrics().await.is_ok_and(|metrics| metrics.is_some())).await?;
                victim.drain().await?;
            }
            Event::Kill => {
                victim.process().kill();
                sleep(dice.even_time(session)).await;
                self.join()?;
            }
            Event::ShortStop | Event::LongStop => {
                let half = session / 2;
                victim.process().pause()?;
                sleep(if event == Event::LongStop { session + half } else { Duration::ZERO } + dice.even_time(half))
                    .await;
                victim.process().resume()?;
                self.running.insert(number, victim);
            }
        }
        Ok(())
    }

    /// Waits until each partition has one owner and moves on, and each member has its part.
    pub async fn settled(&mut self, pauses: &Pauses) -> Result<Owners> {
        let begun = Instant::now();
        loop {
            let owners = self.owners().await?;
            let part = self.partitions / self.running.len();
            let has_its_part = |member| owners.values().filter(|owner| *owner == member).count() >= part;
            let shared = owners.len() == self.partitions && self.running.keys().all(has_its_part);
            if shared && pauses.all_moved_since(begun) {
                return Ok(owners);
            }
            if begun.elapsed() > PATIENCE {
                bail!("the group does not settle: {owners:?}, {}", self.scene.logs());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The owner of each partition that exactly one member shows as its own.
    async fn owners(&mut self) -> Result<Owners> {
        let mut all: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (member, connector) in &mut self.running {
            let Some(metrics) = connector.metrics().await? else { continue };
            for partition in metrics.label_values("connect_stalled_seconds", "partition") {
                all.entry(partition.parse()?).or_default().push(*member);
            }
        }
        Ok(all
            .into_iter()
            .filter(|(_, owners)| owners.len() == 1)
            .map(|(partition, owners)| (partition, owners[0]))
            .collect())
    }

    /// Waits until all is in Redis and committed to Kafka; by then every process' account must add up.
    pub async fn all_is_written(&mut self, records: u64) -> Result<()> {
        let (store, hash) = (self.scene.store().await?, format!("connect:offsets:{}", self.scene.topic));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stored = redis_client::offsets(&store, &hash).await?;
            let (mut committed, mut wrong) = (0.0, Vec::new());
            for connector in self.running.values_mut() {
                let metrics = connector.metrics().await?.context("it does not listen any more")?;
                committed += metrics.sum("connect_committed_offset", &[]);
                wrong.extend(metrics.adds_up().err());
            }
            if stored == records && committed == records as f64 && wrong.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("of {records} {stored} are stored, {committed} committed; {wrong:?}; {}", self.scene.logs());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks all to stop.
    pub async fn leave_all(&mut self) -> Result<()> {
        for (_, mut connector) in std::mem::take(&mut self.running) {
            connector.drain().await?;
        }
        Ok(())
    }
}
