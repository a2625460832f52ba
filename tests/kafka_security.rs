//! Every way to reach a broker that is secured, by both connections: our own reads, rskafka makes the dead-letter topic.

#[path = "security/secured.rs"]
#[allow(dead_code, reason = "nothing is rotated here")]
mod secured;

use std::fs;

use anyhow::{Context, Result};
use axum::routing::post;
use secured::{PASSWORD, Secured, text, token};
use system_tests::{assert_account_adds_up, metrics_until, record, until};
use xtask::certificates::Certificates;

/// One record arrives, and one that can't be written becomes a dead letter.
async fn works(secured: &Secured, listener: &str, settings: &[(&str, &str)]) -> Result<()> {
    let scene = secured.scene(listener, settings).await?;
    scene.produce([(0, record(Some(b"a"), Some(b"1"))), (0, record(None, Some(b"no key")))]).await?;
    let mut connector = scene.connector()?;
    let both = |metrics: &connect_testkit::scrape::Metrics| {
        metrics.written() == 1 && metrics.sum("connect_records_total", &[("outcome", "dead_lettered")]) == 1.0
    };
    let metrics = metrics_until(&mut connector, "both records are settled", both)
        .await
        .with_context(|| format!("{listener} {settings:?}: {}", scene.logged()))?;
    assert_account_adds_up(&metrics);
    connector.drain().await?;
    assert!(!scene.logged().contains(PASSWORD), "a secret is never logged");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn certificates_of_an_authority_of_ones_own() -> Result<()> {
    let secured = Secured::start().await?;
    let (authority, certificate) = (secured.certificates.authority(), secured.certificates.client());
    let key = secured.certificates.client_key();
    let trusting = [("SECURITY", "tls"), ("CA_FILE", text(&authority)?)];
    for reader in ["kafka", "rskafka"] {
        works(&secured, "TLS", &[&trusting[..], &[("READER", reader)]].concat()).await?;
    }
    let ours = [("CERT_FILE", text(&certificate)?), ("KEY_FILE", text(&key)?)];
    works(&secured, "MUTUAL", &[&trusting[..], &ours].concat()).await?;

    // An authority that signed nothing here; no certificate where one is wanted.
    let other = secured.directory.path().join("other");
    let other = Certificates::in_directory(&other)?.authority();
    let distrusting = [("SECURITY", "tls"), ("CA_FILE", text(&other)?)];
    secured.is_refused("TLS", &distrusting, "CONNECT_KAFKA_CA_FILE").await?;
    secured.is_refused("MUTUAL", &trusting, "CONNECT_KAFKA_CERT_FILE").await?;

    // A listener without TLS hangs up, as a broker does that is just stopping: the connector waits, and says what it may be.
    let scene = secured.scene("USERS", &trusting).await?;
    let _connector = scene.connector()?;
    until("the log names the setting", async || scene.logged().contains("CONNECT_KAFKA_SECURITY")).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn users_with_passwords() -> Result<()> {
    let secured = Secured::start().await?;
    let authority = secured.certificates.authority();
    let user = [("SASL_USERNAME", "connector"), ("SASL_PASSWORD", PASSWORD)];
    for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
        let plain = [("SECURITY", "sasl_plaintext"), ("SASL_MECHANISM", mechanism)];
        works(&secured, "USERS", &[&plain[..], &user].concat()).await?;
        let tls = [("SECURITY", "sasl_tls"), ("SASL_MECHANISM", mechanism), ("CA_FILE", text(&authority)?)];
        works(&secured, "BOTH", &[&tls[..], &user].concat()).await?;
        let wrong = [("SASL_USERNAME", "connector"), ("SASL_PASSWORD", "wr0ng")];
        secured.is_refused("USERS", &[&plain[..], &wrong].concat(), "CONNECT_KAFKA_SASL_PASSWORD").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn tokens_from_a_file_and_from_a_provider() -> Result<()> {
    let secured = Secured::start().await?;
    let bearer = [("SECURITY", "sasl_plaintext"), ("SASL_MECHANISM", "oauthbearer")];
    let file = secured.directory.path().join("token");
    let from_file = [&bearer[..], &[("SASL_TOKEN_FILE", text(&file)?)]].concat();
    fs::write(&file, token(3600))?;
    works(&secured, "TOKENS", &from_file).await?;
    // A token that was rotated too late.
    fs::write(&file, token(-60))?;
    secured.is_refused("TOKENS", &from_file, "token").await?;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/token", listener.local_addr()?);
    let grant = async || format!(r#"{{"access_token":"{}","token_type":"Bearer","expires_in":3600}}"#, token(3600));
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/token", post(grant))).await });
    let client = [("SASL_TOKEN_URL", url.as_str()), ("SASL_USERNAME", "id"), ("SASL_PASSWORD", PASSWORD)];
    works(&secured, "TOKENS", &[&bearer[..], &client].concat()).await
}
