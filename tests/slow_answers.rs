//! A broker that takes longer to say what topics there are than a session lasts: heartbeats go on meanwhile.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context, Result};
use system_tests::{Scene, assert_account_adds_up, metrics_until, numbered};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use xtask::ports;
use xtask::services::{Kafka, KafkaOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
/// The least that brokers allow members of the classic protocol.
const SESSION: Duration = Duration::from_secs(6);
const SLOW: Duration = Duration::from_secs(7);
/// Kinds of requests that are answered slowly: offsets by time, and metadata.
const QUESTIONS: [[u8; 2]; 2] = [[0, 2], [0, 3]];

/// Passes on what the connector says to a broker, its questions late.
async fn pass(mut connector: TcpStream, broker: SocketAddr, slowed: Arc<AtomicU32>) -> Result<()> {
    let (mut answers, mut requests) = TcpStream::connect(broker).await?.into_split();
    let (mut said, mut heard) = connector.split();
    let passing = async {
        loop {
            let length = said.read_u32().await?;
            let mut request = vec![0; length as usize];
            said.read_exact(&mut request).await?;
            // What the test itself asks comes from a client of another name.
            let is_connector = request.get(10..17) == Some(b"connect");
            if is_connector && QUESTIONS.iter().any(|kind| request.starts_with(kind)) {
                slowed.fetch_add(1, SeqCst);
                sleep(SLOW).await;
            }
            requests.write_u32(length).await?;
            requests.write_all(&request).await?;
        }
    };
    tokio::select! {
        ended = passing => ended,
        ended = copy(&mut answers, &mut heard) => Ok(ended.map(drop)?),
    }
}

async fn keeps_its_membership(protocol: &str) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (advertised, port) = (listener.local_addr()?, ports::free()?);
    let slowed = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&slowed);
    tokio::spawn(async move {
        while let Ok((connector, _)) = listener.accept().await {
            let broker = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            tokio::spawn(pass(connector, broker, Arc::clone(&count)));
        }
    });
    let session = SESSION.as_millis();
    let properties = vec![
        format!("advertised.listeners=PLAINTEXT://{advertised}"),
        format!("group.consumer.session.timeout.ms={session}"),
        format!("group.consumer.min.session.timeout.ms={session}"),
        "group.consumer.heartbeat.interval.ms=1000".to_owned(),
        "group.consumer.min.heartbeat.interval.ms=1000".to_owned(),
    ];
    let _kafka = Kafka::start(KafkaOptions { port: Some(port), properties, ..KafkaOptions::default() }).await?;
    let scene = Scene::on(BINARY, advertised.to_string(), "slow-answers", 2)
        .await?
        .set("CONNECT_KAFKA_ASSIGNMENT", "group")
        .set("CONNECT_KAFKA_GROUP_PROTOCOL", protocol)
        .set("CONNECT_KAFKA_SESSION_TIMEOUT", "6s")
        .set("CONNECT_KAFKA_TOPICS_REFRESH", "100ms");
    scene.produce(numbered(0..100, 2)).await?;
    let mut connector = scene.connector()?;
    let questions = slowed.load(SeqCst) + 6;
    let all = |metrics: &connect_testkit::scrape::Metrics| metrics.written() == 100 && slowed.load(SeqCst) >= questions;
    let metrics = metrics_until(&mut connector, "all is written, and look-ups were slow", all).await;
    assert_account_adds_up(&metrics.with_context(|| scene.logged())?);
    connector.drain().await?;
    let log = scene.logged();
    assert!(!log.contains("lost the membership"), "{log}");
    assert_eq!(log.matches("joined the group").count(), 1, "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn slow_look_ups_cost_no_classic_membership_nightly() -> Result<()> {
    keeps_its_membership("classic").await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn slow_look_ups_cost_no_membership_of_the_new_protocol_nightly() -> Result<()> {
    keeps_its_membership("auto").await
}
