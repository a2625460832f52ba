//! The framework's own pipeline over the sink, killed and stopped in the middle of its work.

use std::sync::Arc;
use std::time::Duration;

use connect_core::{Budget, DeadLetters, Fate, Health, Ledgers, Pipeline, RunEnd, Settings, Stop, supervise};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::feed::{Process, assigned, connect, failed, recurring};
use super::harness::{Harness, Place};
use super::report::{Checked, Obstacle, Run};
use crate::dice::{Dice, Trouble};
use crate::group::Group;
use crate::log::{Log, LogSource};

/// Enough for several batches in each life of the process.
const RECORDS: i64 = 400;
/// Each life of the process ends within this time.
const LIFE: Duration = Duration::from_secs(30);
/// What was killed is gone within this time.
const MOMENT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
enum End {
    Killed,
    Stopped,
    Finished,
}

pub(super) async fn run<H: Harness>(run: &mut Run<'_>, harness: &H) {
    run.must("killed in the middle of its work and started again", lives(harness, End::Killed)).await;
    run.must("stopped in the middle of its work and started again", lives(harness, End::Stopped)).await;
}

async fn lives<H: Harness>(harness: &H, end: End) -> Checked {
    let (place, partition) = (Place::new(), assigned().partition);
    let (log, group) = (Log::new([partition.clone()]), Group::new(|_, _| {}));
    let records = recurring(RECORDS);
    for record in &records {
        log.append(&partition, record.clone());
    }
    for number in 0..4 {
        live(harness, &place, &log, &group, number, end).await?;
    }
    live(harness, &place, &log, &group, 4, End::Finished).await?;
    if group.committed(&partition) != Some(RECORDS) {
        return Err(failed(format!("{:?} is committed, and {RECORDS} were written", group.committed(&partition))));
    }
    let reader = Process::start(harness, &place).await?;
    reader.holds(&records).await
}

/// One life of a process, up to its end of one kind or another.
async fn live<H: Harness>(
    harness: &H,
    place: &Place,
    log: &Log,
    group: &Group,
    number: u64,
    end: End,
) -> Result<(), Obstacle> {
    let partition = assigned().partition;
    let sink = connect(harness, place).await?;
    let source = LogSource::new(log.clone(), Budget::new(1 << 20), Dice::new(number), Trouble::new(0));
    let settings = Settings { batch_records: 7, stop: Stop::End, ..Settings::default() };
    let (ledgers, shutdown) = (Arc::<Ledgers>::default(), CancellationToken::new());
    let pipeline = Pipeline::new(Arc::new(source), Arc::new(sink), DeadLetters::Stop, settings, Arc::clone(&ledgers));
    let member = group.join(Dice::new(number), Trouble::new(0));
    let id = member.id();
    group.assign(&partition, id);
    let task = tokio::spawn(supervise(Arc::new(pipeline), member, Arc::<Health>::default(), shutdown.clone()));
    let enough = match end {
        End::Killed | End::Stopped => RECORDS as u64 / 8,
        End::Finished => u64::MAX,
    };
    let deadline = Instant::now() + LIFE;
    while ledgers.of(&partition).records_read() < enough && !task.is_finished() && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
    match end {
        End::Killed => task.abort(),
        End::Stopped => shutdown.cancel(),
        End::Finished => {}
    }
    let result = tokio::time::timeout(LIFE, task).await.map_err(|_| failed("the process never ends".to_owned()))?;
    group.gone(id);
    let killed = match (end, result) {
        (End::Killed, Err(error)) if error.is_cancelled() => true,
        // It may have been faster than its end.
        (End::Killed | End::Stopped, Ok(Ok(RunEnd::Finished | RunEnd::Drained))) => false,
        (End::Finished, Ok(Ok(RunEnd::Finished))) => false,
        (_, other) => return Err(failed(format!("the process ended with {other:?}"))),
    };
    // Only who is killed may give records back unwritten. Its partition's own task may need a moment to end.
    let counts = |fate: &Fate| *fate != Fate::Returned || killed;
    let fates = Fate::ALL.into_iter().filter(counts);
    let settled = || fates.clone().map(|fate| ledgers.of(&partition).count(fate)).sum::<u64>();
    let deadline = Instant::now() + MOMENT;
    while ledgers.of(&partition).records_read() != settled() {
        if Instant::now() >= deadline {
            let read = ledgers.of(&partition).records_read();
            return Err(failed(format!("{read} records were read, and {} met a fate", settled())));
        }
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
