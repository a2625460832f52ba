//! Credentials that are replaced while a connector runs, and sessions that the broker ends: nothing is lost, and nothing is
//! worth a warning.

#[path = "security/secured.rs"]
#[allow(dead_code, reason = "nothing is refused at the start here")]
mod secured;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use connect_testkit::scrape::Metrics;
use secured::{PASSWORD, Secured, text, token};
use system_tests::{Scene, assert_account_adds_up, metrics_until, record, until};
use tokio::time::{interval, sleep};
use xtask::certificates::Certificates;

/// How long the broker lets a session be: long enough for a busy machine, and much shorter than the test.
const SESSION: Duration = Duration::from_secs(6);

fn settled(written: u64, dead_lettered: u64) -> impl Fn(&Metrics) -> bool {
    move |metrics| {
        let letters = metrics.sum("connect_records_total", &[("outcome", "dead_lettered")]) as u64;
        metrics.written() == written && letters == dead_lettered
    }
}

/// A record to be written, and one that becomes a dead letter, which takes the other connection.
async fn produce(scene: &Scene) -> Result<()> {
    scene.produce([(0, record(Some(b"a"), Some(b"1"))), (0, record(None, Some(b"no key")))]).await
}

/// What a mounted secret holds.
fn mount(certificates: &Certificates, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    fs::copy(certificates.authority(), directory.join("ca.crt"))?;
    fs::copy(certificates.client(), directory.join("tls.crt"))?;
    fs::copy(certificates.client_key(), directory.join("tls.key"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn certificates_that_are_replaced_count_for_new_connections() -> Result<()> {
    let mut secured = Secured::start().await?;
    let mounted = secured.directory.path().join("mounted");
    mount(&secured.certificates, &mounted)?;
    let (ca, cert, key) = (mounted.join("ca.crt"), mounted.join("tls.crt"), mounted.join("tls.key"));
    let settings =
        [("SECURITY", "tls"), ("CA_FILE", text(&ca)?), ("CERT_FILE", text(&cert)?), ("KEY_FILE", text(&key)?)];
    let scene = secured.scene("MUTUAL", &settings).await?;
    let mut connector = scene.connector()?;
    produce(&scene).await?;
    metrics_until(&mut connector, "the first records are settled", settled(1, 1)).await?;

    // Another authority signs both sides from now on; the connector goes on running.
    let newer = Certificates::in_directory(&secured.directory.path().join("newer"))?;
    secured.kafka.shutdown().await?;
    secured.rotate(&newer)?;
    mount(&newer, &mounted)?;
    secured.kafka.start_again().await?;
    produce(&scene).await?;
    let metrics = metrics_until(&mut connector, "the records after it are settled", settled(2, 2)).await;
    assert_account_adds_up(&metrics.with_context(|| scene.logged())?);
    connector.drain().await?;

    // The files that were replaced would be refused by now.
    mount(&secured.certificates, &mounted)?;
    fs::copy(newer.authority(), &ca)?;
    secured.is_refused("MUTUAL", &settings, "CONNECT_KAFKA_CERT_FILE").await
}

/// Records flow for several sessions of every connection. Logging in anew is neither an error nor a warning.
async fn outlives_sessions(scene: &Scene) -> Result<()> {
    let mut connector = scene.connector_named("connector", &[("CONNECT_LOG", "info,connect_core::kafka=debug")])?;
    produce(scene).await?;
    metrics_until(&mut connector, "the first records are settled", settled(1, 1)).await?;
    // Until then a broker that has just been started has reasons of its own.
    let begun = scene.logged().len();
    let (mut written, mut ticks) = (1, interval(Duration::from_millis(200)));
    let connections =
        || scene.logged().lines().filter(|line| line.contains("connecting") && line.contains("Wait")).count();
    until("five connections were made one after the other", async || {
        ticks.tick().await;
        written += 1;
        produce(scene).await.is_ok() && connections() >= 5
    })
    .await
    .with_context(|| scene.logged())?;
    let metrics = metrics_until(&mut connector, "every record is settled", settled(written, written)).await;
    assert_account_adds_up(&metrics.with_context(|| scene.logged())?);
    connector.drain().await?;
    let log = scene.logged();
    let alarming = log[begun..].lines().find(|line| line.contains("WARN") || line.contains("ERROR"));
    assert_eq!(alarming.filter(|line| !line.contains("dead letter")), None);
    assert!(!log.contains(PASSWORD), "a secret is never logged");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_session_that_the_broker_ends_is_followed_by_another() -> Result<()> {
    let secured = Secured::start_with(vec![format!("connections.max.reauth.ms={}", SESSION.as_millis())]).await?;
    let user = [("SASL_USERNAME", "connector"), ("SASL_PASSWORD", PASSWORD)];
    let scram = [("SECURITY", "sasl_plaintext"), ("SASL_MECHANISM", "scram-sha-512")];
    outlives_sessions(&secured.scene("USERS", &[&scram[..], &user].concat()).await?).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn a_token_is_read_again_before_it_ends() -> Result<()> {
    // A session ends with its token where the broker has a limit at all; this one is out of reach.
    let secured = Secured::start_with(vec!["connections.max.reauth.ms=3600000".to_owned()]).await?;
    let file = secured.directory.path().join("token");
    let bearer = [("SECURITY", "sasl_plaintext"), ("SASL_MECHANISM", "oauthbearer"), ("SASL_TOKEN_FILE", text(&file)?)];
    let life = SESSION.as_secs() as i64;
    fs::write(&file, token(life))?;
    let (newer, mounted) = (file.with_extension("newer"), file.clone());
    let rotating = tokio::spawn(async move {
        loop {
            sleep(SESSION / 3).await;
            // Replaced as kubelet does it: at once.
            fs::write(&newer, token(life)).and_then(|()| fs::rename(&newer, &mounted)).expect("written");
        }
    });
    let outlived = outlives_sessions(&secured.scene("TOKENS", &bearer).await?).await;
    rotating.abort();
    outlived
}
