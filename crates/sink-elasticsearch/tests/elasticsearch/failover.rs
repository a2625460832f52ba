//! Two ways into one cluster, of which one is cut off while records come.

use std::time::Duration;

use connect_testkit::proxy::{Fault, Proxy};
use tokio::time::{sleep, timeout};

use crate::load::{Load, PATIENCE, dice, until_begun, writes};
use crate::support::{address, every_version};

/// Records a second: the load outlives what is done to it.
const RATE: u64 = 4_000;
/// As many are written while one way is cut off.
const MEANWHILE: u64 = 8_000;
/// Requests in flight, which may all have met the fault at once.
const IN_FLIGHT: usize = 4;

/// A record that was rejected would stop its partition, and the load would not end.
#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn while_one_of_two_nodes_is_gone_the_load_goes_on_through_the_other() {
    let dice = dice();
    every_version(async |server| {
        let address = address(&server.url);
        let ways = [Proxy::start(address).await.unwrap(), Proxy::start(address).await.unwrap()];
        let urls = ways.each_ref().map(|way| format!("http://{}", way.address()));
        let load = Load::new(100_000, &dice, &urls.join(",")).await;
        let load = load
            .set("CONNECT_ELASTICSEARCH_TIMEOUT", "2s")
            .set("CONNECT_ELASTICSEARCH_MAX_IN_FLIGHT", &IN_FLIGHT.to_string())
            .set("CONNECT_BATCH_RECORDS", "100");
        let running = load.start_at(RATE);
        until_begun(&load, &server.client).await;
        for (gone, fault) in [(0, Fault::Reset), (1, Fault::BlackHole), (0, Fault::BlackHole), (1, Fault::Reset)] {
            let other = 1 - gone;
            let met = || failures(&load.logged(), &urls[gone]);
            let before = met();
            ways[gone].set(fault);
            let goes_on = async {
                while met() == before {
                    sleep(Duration::from_millis(10)).await;
                }
                let (passed, written) = (ways[other].passed(), writes(&server.client, &load.topic).await);
                while writes(&server.client, &load.topic).await < written + MEANWHILE {
                    sleep(Duration::from_millis(10)).await;
                }
                assert!(ways[other].passed() > passed, "nothing else leads there");
            };
            timeout(PATIENCE, goes_on).await.unwrap_or_else(|_| panic!("{gone} {fault:?}:\n{}", load.logged()));
            let tries = met() - before;
            println!("{fault:?}: {tries} requests met it while {MEANWHILE} records were written");
            assert!(tries <= 3 * IN_FLIGHT, "who does not answer is left alone: {tries}");
            ways[gone].set(Fault::None);
        }
        load.ends_right(running, &server.client).await;
    })
    .await;
}

/// How often a node did not answer.
fn failures(log: &str, url: &str) -> usize {
    log.lines().filter(|line| line.contains("no answer from Elasticsearch") && line.contains(url)).count()
}
