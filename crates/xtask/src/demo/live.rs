//! The live view: a steady stream of events and what becomes of it, until Ctrl-C.

use std::{
    io::{IsTerminal, Write, stdout},
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::Result;
use connect_testkit::scrape::Metrics;
use tokio::time::interval;

use super::stage::{Stage, Store};
use crate::interrupt::interrupted;

const USERS: u64 = 1_000;
/// Users whose latest event is shown.
const SHOWN: usize = 4;
/// How often events are produced.
const TICK: Duration = Duration::from_millis(50);

/// Produces `rate` events a second and shows what becomes of them until interrupted.
///
/// # Errors
/// The set-up failed, or the connector ended by itself.
pub async fn run<S: Store>(rate: u32) -> Result<()> {
    let mut interrupt = pin!(interrupted());
    let mut stage = tokio::select! {
        // First, because the set-up begins with work that doesn't let go of the thread.
        biased;
        _ = &mut interrupt => return Ok(()),
        stage = Stage::<S>::set_up(USERS) => stage?,
    };
    let mut view = View::new(&stage.title, S::NAME);
    tokio::select! {
        result = stream(&mut stage, &mut view, rate) => return result,
        _ = &mut interrupt => {}
    }
    println!("\nstopping: {} finishes what it has in hand", S::CONNECTOR);
    stage.connector.drain().await?;
    drop(stage);
    println!("{} ended with exit code 0; {} and Kafka are stopped", S::CONNECTOR, S::NAME);
    Ok(())
}

async fn stream<S: Store>(stage: &mut Stage<S>, view: &mut View, rate: u32) -> Result<()> {
    let begun = Instant::now();
    let mut produced = 0;
    let mut tick = interval(TICK);
    let mut shown = begun;
    loop {
        tick.tick().await;
        // By the clock and not by the tick, so that a busy machine catches up.
        let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while produced < due {
            stage.produce(produced).await?;
            produced += 1;
        }
        stage.producer.flush().await?;
        if shown.elapsed() < view.refresh() {
            continue;
        }
        shown = Instant::now();
        let metrics = stage.connector.metrics().await?.unwrap_or_default();
        let latest = latest(stage, produced).await?;
        view.show(produced, &metrics, &latest)?;
    }
}

/// What the store has for the users of the latest events.
async fn latest<S: Store>(stage: &Stage<S>, produced: u64) -> Result<Vec<(String, String)>> {
    let mut keys: Vec<String> = Vec::new();
    for number in (0..produced).rev().take(10 * SHOWN) {
        let key = S::key(stage.events.user(number));
        if keys.len() < SHOWN && !keys.contains(&key) {
            keys.push(key);
        }
    }
    let values = stage.store.values(&keys).await?;
    let texts = values.into_iter().map(|value| value.unwrap_or_else(|| "(not there yet)".to_owned()));
    Ok(keys.into_iter().zip(texts).collect())
}

/// On a terminal a block of lines that is written over again and again, otherwise a line now and then.
struct View {
    store: &'static str,
    in_place: bool,
    /// Lines of the block that is on the screen.
    drawn: usize,
    last: Option<(Instant, u64, u64)>,
}

impl View {
    fn new(title: &str, store: &'static str) -> Self {
        println!("\n{title}\n");
        Self { store, in_place: stdout().is_terminal(), drawn: 0, last: None }
    }

    fn refresh(&self) -> Duration {
        Duration::from_millis(if self.in_place { 500 } else { 2_000 })
    }

    fn show(&mut self, produced: u64, metrics: &Metrics, latest: &[(String, String)]) -> Result<()> {
        let (read, written, lag) = (metrics.read(), metrics.written(), metrics.lag());
        let now = Instant::now();
        let (read_rate, write_rate) = match self.last.replace((now, read, written)) {
            Some((then, read_then, written_then)) => {
                let seconds = now.duration_since(then).as_secs_f64();
                let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
                (rate(read, read_then), rate(written, written_then))
            }
            None => (0.0, 0.0),
        };
        if !self.in_place {
            println!("produced {produced}  read {read}  written {written}  lag {lag}  {write_rate:.0} records/s");
            if let Some((key, value)) = latest.first() {
                println!("  {key} = {value}");
            }
            return Ok(());
        }
        let mut lines = vec![
            format!("  produced  {produced:>12}"),
            format!("  read      {read:>12}  {read_rate:>9.0} records/s"),
            format!("  written   {written:>12}  {write_rate:>9.0} records/s"),
            format!("  lag       {lag:>12}"),
            String::new(),
            format!("  in {}, of the users seen last:", self.store),
        ];
        lines.extend(latest.iter().map(|(key, value)| format!("  {key} = {value}")));
        lines.push(String::new());
        lines.push("  Ctrl-C stops everything".to_owned());
        self.draw(&lines)
    }

    fn draw(&mut self, lines: &[String]) -> Result<()> {
        // A line that wraps would take two lines of the screen, and the next block would be drawn too low.
        let width = rustix::termios::tcgetwinsize(stdout())
            .map(|size| usize::from(size.ws_col))
            .ok()
            .filter(|width| *width > 0)
            .unwrap_or(80);
        let mut text = String::new();
        if self.drawn > 0 {
            text = format!("\x1b[{}A", self.drawn);
        }
        for line in lines {
            let line: String = line.chars().take(width - 1).collect();
            text += &format!("\x1b[2K{line}\n");
        }
        // What a longer block left below.
        text += "\x1b[J";
        self.drawn = lines.len();
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}
