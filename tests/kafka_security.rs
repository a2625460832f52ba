//! Every way to reach a broker that is secured, by both connections: our own reads, rskafka makes the dead-letter topic.

#[path = "security/secured.rs"]
#[allow(dead_code, reason = "nothing is rotated here")]
mod secured;

use std::fs;

use anyhow::{Context, Result, ensure};
use axum::http::StatusCode;
use axum::routing::post;
use secured::{PASSWORD, Secured, text, token};
use system_tests::{Scene, assert_account_adds_up, exit_code, metrics_until, record, until};
use xtask::certificates::Certificates;
use xtask::services::kafka::VERSION_VARIABLE;

async fn works(secured: &Secured, listener: &str, settings: &[(&str, &str)]) -> Result<()> {
    settles(secured.scene(listener, settings).await?).await.with_context(|| format!("{listener} {settings:?}"))
}

/// One record arrives, and one that can't be written becomes a dead letter.
async fn settles(scene: Scene) -> Result<()> {
    scene.produce([(0, record(Some(b"a"), Some(b"1"))), (0, record(None, Some(b"no key")))]).await?;
    let mut connector = scene.connector()?;
    let both = |metrics: &connect_testkit::scrape::Metrics| {
        metrics.written() == 1 && metrics.sum("connect_records_total", &[("outcome", "dead_lettered")]) == 1.0
    };
    let settled = metrics_until(&mut connector, "both records are settled", both).await;
    let metrics = settled.with_context(|| scene.logged())?;
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

    // One that the system knows, in its place here.
    let known = secured.scene("TLS", &[("SECURITY", "tls")]).await?.set("SSL_CERT_FILE", text(&authority)?);
    settles(known).await?;
    secured.is_refused("TLS", &[("SECURITY", "tls")], "CONNECT_KAFKA_CA_FILE").await?;

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
    let authority = secured.certificates.authority();
    let tls = [("SECURITY", "sasl_tls"), ("CA_FILE", text(&authority)?), ("SASL_TOKEN_FILE", text(&file)?)];
    works(&secured, "SEALED", &[&tls[..], &[("SASL_MECHANISM", "oauthbearer")]].concat()).await?;
    // A token that was rotated too late.
    fs::write(&file, token(-60))?;
    secured.is_refused("TOKENS", &from_file, "token").await?;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/token", listener.local_addr()?);
    let grant = async || format!(r#"{{"access_token":"{}","token_type":"Bearer","expires_in":3600}}"#, token(3600));
    let refuse = async || (StatusCode::UNAUTHORIZED, r#"{"error":"invalid_client"}"#);
    let provider = axum::Router::new().route("/token", post(grant)).route("/strangers", post(refuse));
    tokio::spawn(async move { axum::serve(listener, provider).await });
    let client = [("SASL_TOKEN_URL", url.as_str()), ("SASL_USERNAME", "id"), ("SASL_PASSWORD", PASSWORD)];
    works(&secured, "TOKENS", &[&bearer[..], &client].concat()).await?;
    let strangers = url.replace("token", "strangers");
    let stranger = [("SASL_TOKEN_URL", strangers.as_str()), ("SASL_USERNAME", "id"), ("SASL_PASSWORD", "wr0ng")];
    secured.is_refused("TOKENS", &[&bearer[..], &stranger].concat(), "CONNECT_KAFKA_SASL_USERNAME (client id)").await
}

/// A cluster in which nobody may do anything but whom the rights are given to; the test itself may do everything.
const AUTHORIZER: [&str; 2] =
    ["authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS"];

/// Gives the user of the tests these rights on a `--topic` or `--group`.
async fn grant(secured: &Secured, on: &str, name: &str, operations: &[&str]) -> Result<()> {
    let is_3 = std::env::var(VERSION_VARIABLE).is_ok_and(|version| version.starts_with("3."));
    let class = if is_3 { "kafka.admin.AclCommand" } else { "org.apache.kafka.tools.AclCommand" };
    let mut tool = tokio::process::Command::from(secured.kafka.tool(class));
    tool.args(["--bootstrap-server", &secured.kafka.bootstrap(), "--add", "--allow-principal", "User:connector"]);
    tool.args(operations.iter().flat_map(|operation| ["--operation", operation])).args([on, name]);
    let output = tool.output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn the_rights_in_the_document_are_needed_and_enough() -> Result<()> {
    let secured = Secured::start_with(AUTHORIZER.map(str::to_owned).to_vec()).await?;
    let user = [("SECURITY", "sasl_plaintext"), ("SASL_MECHANISM", "plain"), ("SASL_USERNAME", "connector")];
    let user = [&user[..], &[("SASL_PASSWORD", PASSWORD)]].concat();
    for assignment in ["static", "group"] {
        let scene = secured.scene("USERS", &[&user[..], &[("ASSIGNMENT", assignment)]].concat()).await?;
        let refused = async |named: &str| -> Result<()> {
            let code = exit_code(&mut scene.connector()?).await.with_context(|| scene.logged())?;
            let log = scene.logged();
            ensure!(code == 1 && log.contains(named), "{assignment}: {named}: {log}");
            Ok(())
        };
        let letters = format!("{}-letters", scene.topic);
        refused("grant").await?;
        grant(&secured, "--topic", &letters, &["Write", "Describe", "Create"]).await?;
        refused("grant Describe and Read").await?;
        grant(&secured, "--topic", &scene.topic, &["Read", "Describe"]).await?;
        refused("CONNECT_KAFKA_GROUP").await?;
        grant(&secured, "--group", &scene.topic, &["Read", "Describe"]).await?;
        settles(scene).await?;
    }
    Ok(())
}
