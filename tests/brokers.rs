//! Three brokers that are restarted, killed and frozen under a group: leaders and the coordinator move, and nothing is lost or
//! has its effect twice.

#[path = "torture/load.rs"]
mod load;
#[path = "torture/members.rs"]
#[allow(dead_code, reason = "the members are left alone here")]
mod members;
#[path = "torture/pauses.rs"]
#[allow(dead_code, reason = "the pauses are not told here")]
mod pauses;

use std::time::Duration;

use anyhow::{Context, Result};
use connect_testkit::dice::Dice;
use load::{Contents, Load};
use members::Members;
use pauses::Pauses;
use system_tests::{Scene, report, seed, until};
use tokio::time::{Instant, sleep};
use xtask::effort::{full, share};
use xtask::services::{Kafka, KafkaOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
const PARTITIONS: usize = 6;

/// What happens to a broker.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Restart,
    Kill,
    Freeze,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn three_brokers_are_restarted_and_killed_and_each_effect_is_there_once_nightly() -> Result<()> {
    let seed = seed();
    let dice = Dice::new(seed);
    let mut brokers = Kafka::cluster(KafkaOptions::default()).await?;
    let scene = Scene::on(BINARY, brokers[0].bootstrap(), "brokers", PARTITIONS as i32)
        .await?
        .set("CONNECT_KAFKA_ASSIGNMENT", "group")
        .set("CONNECT_REDIS_COMMAND", "rpush");
    let load = Load::start(&scene, PARTITIONS, share(300_000));
    let pauses = Pauses::watch(scene.store().await?, &scene.topic, PARTITIONS);
    let mut members = Members::new(&scene, PARTITIONS);
    members.join()?;
    members.join()?;
    members.settled(&pauses).await?;

    // One after the other: whoever leads a partition or the group is among them.
    let mut faults: Vec<(Fault, usize)> = (0..3).map(|broker| (Fault::Restart, broker)).collect();
    if full() {
        faults.extend((0..3).map(|broker| (Fault::Kill, broker)));
        faults.extend((0..3).map(|broker| (Fault::Freeze, broker)));
    } else {
        faults.push((Fault::Kill, dice.below(3) as usize));
    }
    for (fault, broker) in faults {
        let begun = Instant::now();
        let broker = &mut brokers[broker];
        match fault {
            Fault::Restart => {
                broker.shutdown().await?;
                broker.start_again().await?;
            }
            Fault::Kill => {
                broker.stop();
                sleep(dice.time(Duration::from_secs(5))).await;
                broker.start_again().await?;
            }
            Fault::Freeze => {
                broker.pause()?;
                // Longer than the controller takes to find another leader.
                sleep(Duration::from_secs(20)).await;
                broker.resume()?;
            }
        }
        until("the broker has caught up", async || broker.is_replicated().await.is_ok_and(|all| all)).await?;
        members.settled(&pauses).await.with_context(|| format!("after {fault:?}; seed {seed}"))?;
        report(&format!("{fault:?}: all goes on after {:.1} s", begun.elapsed().as_secs_f64()));
    }

    load.finish().await.with_context(|| format!("the records could not be sent; seed {seed}"))?;
    let contents = Contents::read(&scene, PARTITIONS).await?;
    members.all_is_written(contents.records).await?;
    members.leave_all().await?;
    contents.check(&scene.store().await?).await.with_context(|| format!("{}; seed {seed}", scene.logs()))
}
