//! Whatever is killed or cut off, the documents end as the topic says.

use std::time::Duration;

use connect_core::{Record, Sink};
use connect_testkit::dice::Dice;
use connect_testkit::proxy::{Fault, Proxy};
use tokio::time::{sleep, timeout};
use xtask::effort::share;
use xtask::elasticsearch_client::Client;

use crate::load::{Load, PATIENCE, dice, until_begun, writes};
use crate::support::{Shared, address, batch, every_version, node, opensearch, record, sink, tombstone, unique, write};

/// Records a second: a rate keeps the work going while it is killed.
const RATE: u64 = 4_000;

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn kills_leave_exactly_what_the_topic_says() {
    let dice = dice();
    every_version(async |server| killed(server, "index", &dice).await).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn kills_leave_updates_applied_once_each() {
    killed(opensearch().await, "update", &dice()).await;
}

async fn killed(server: &Shared, action: &str, dice: &Dice) {
    let (records, kills) = (share(100_000), share(60));
    let load = Load::new(records, dice, &server.url).await.set("CONNECT_ELASTICSEARCH_ACTION", action);
    let mut done = 0;
    for life in 0..kills {
        let mut running = load.start_at(RATE);
        // After so many more writes, so that each life gets somewhere whatever the speed of the machine, and so few that none sees
        // the end of the load; and then anywhere: in the middle of a request, between two.
        let until = done + 1 + dice.below(records / kills);
        let at_work = async {
            while writes(&server.client, &load.topic).await < until {
                sleep(Duration::from_millis(5)).await;
            }
            sleep(Duration::from_millis(dice.below(100))).await;
        };
        tokio::select! {
            ended = running.wait(PATIENCE) => panic!("life {life} was not killed at work ({ended:?}): {}", load.logged()),
            () = at_work => running.kill().await.unwrap(),
        }
        done = writes(&server.client, &load.topic).await;
    }
    println!("{done} of {records} records were written in {kills} lives");
    load.ends_right(load.start(), &server.client).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_node_that_is_killed_in_the_middle_loses_nothing() {
    let (server, shared) = node().await;
    let load = Load::new(40_000, &dice(), &shared.url).await;
    let running = load.start();
    until_begun(&load, &shared.client).await;
    let mut server = server.lock().await;
    server.stop();
    server.start_again().await.unwrap();
    load.ends_right(running, &shared.client).await;
    assert!(load.logged().contains("no answer from Elasticsearch"), "the node was killed too late:\n{}", load.logged());
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_network_that_cuts_delays_and_swallows_loses_nothing() {
    let dice = dice();
    every_version(async |server| {
        let proxy = Proxy::start(address(&server.url)).await.unwrap();
        let load = Load::new(40_000, &dice, &format!("http://{}", proxy.address())).await;
        let load = load.set("CONNECT_ELASTICSEARCH_TIMEOUT", "1s");
        let running = load.start_at(4_000);
        until_begun(&load, &server.client).await;
        for _ in 0..share(100) {
            proxy.set(match dice.below(7) {
                0 => Fault::Reset,
                1 => Fault::ResetOnRequest,
                2 => Fault::ResetOnAnswer,
                3 => Fault::CloseOnAnswer,
                4 => Fault::Delay(Duration::from_millis(dice.below(200))),
                5 => Fault::BlackHole,
                _ => Fault::HoldRequests,
            });
            sleep(dice.time(Duration::from_millis(1_500))).await;
            proxy.set(Fault::None);
            sleep(dice.time(Duration::from_millis(300))).await;
        }
        load.ends_right(running, &server.client).await;
        assert!(load.logged().contains("no answer from Elasticsearch"), "the faults hit nothing:\n{}", load.logged());
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_bulk_that_the_network_held_back_changes_nothing() {
    every_version(async |server| {
        let index = unique("late");
        let late = Late::new(&server.url, &[("INDEX", &index)]).await;
        late.hold(&[record(0, "a", r#"{"n":0}"#), record(1, "b", r#"{"n":1}"#), tombstone(2, "c")]).await;
        let newer = [record(3, "a", r#"{"n":3}"#), tombstone(4, "b"), record(5, "c", r#"{"n":5}"#)];
        assert_eq!(write(&late.direct, &newer).await.unwrap().exceptions(), []);
        late.let_through(&server.client, &index).await;
        assert_eq!(server.client.document(&index, "a").await.unwrap().unwrap()["n"], 3);
        assert_eq!(server.client.document(&index, "b").await.unwrap(), None, "a late write is no resurrection");
        assert_eq!(server.client.document(&index, "c").await.unwrap().unwrap()["n"], 5, "nor a late delete a loss");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn an_update_that_the_network_held_back_changes_nothing() {
    let (server, index) = (opensearch().await, unique("late"));
    let late = Late::new(&server.url, &[("INDEX", &index), ("ACTION", "update")]).await;
    let older = [record(0, "a", r#"{"n":0,"m":0}"#), tombstone(1, "b")];
    late.hold(&older).await;
    // As the framework does: what got no answer comes first again.
    write(&late.direct, &older).await.unwrap();
    write(&late.direct, &[record(3, "a", r#"{"n":3}"#), record(4, "b", r#"{"n":4}"#)]).await.unwrap();
    late.let_through(&server.client, &index).await;
    let a = server.client.document(&index, "a").await.unwrap().unwrap();
    assert_eq!((&a["n"], &a["m"]), (&3.into(), &0.into()));
    assert_eq!(server.client.document(&index, "b").await.unwrap().unwrap()["n"], 4);
}

const LANDED: &str = "landed";

/// A sink behind a proxy, and the same beside it.
struct Late {
    proxy: Proxy,
    held: sink_elasticsearch::ElasticsearchSink,
    direct: sink_elasticsearch::ElasticsearchSink,
}

impl Late {
    async fn new(url: &str, settings: &[(&str, &str)]) -> Self {
        let proxy = Proxy::start(address(url)).await.unwrap();
        let held = sink(&format!("http://{}", proxy.address()), &[settings, &[("TIMEOUT", "1s")]].concat());
        Self { proxy, held, direct: sink(url, settings) }
    }

    /// Sends a request that the network keeps. Its last record tells when it has landed.
    async fn hold(&self, records: &[Record]) {
        self.proxy.set(Fault::HoldRequests);
        let records = [records, &[record(9, LANDED, "{}")]].concat();
        self.held.write(&batch(&self.held, &records)).await.unwrap_err();
        assert!(self.proxy.requested() > 0, "nothing was sent");
        assert_eq!(self.proxy.passed(), 0, "nothing was held back");
    }

    /// Lets it through, and waits until the server has done all of it. Nobody is left to hear the answer.
    async fn let_through(&self, client: &Client, index: &str) {
        assert_eq!(client.document(index, LANDED).await.unwrap(), None);
        self.proxy.set(Fault::None);
        let landed = async {
            while client.document(index, LANDED).await.unwrap().is_none() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), landed).await.expect("the late request lands");
    }
}
