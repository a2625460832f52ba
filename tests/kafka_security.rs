//! Every way to reach a broker that is secured, by both connections: our own reads, rskafka makes the dead-letter topic.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use axum::routing::post;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::Utc;
use system_tests::{Scene, assert_account_adds_up, exit_code, metrics_until, record, until};
use tempfile::TempDir;
use xtask::certificates::Certificates;
use xtask::services::{Kafka, KafkaOptions, Listener, Redis, RedisOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
const PASSWORD: &str = "c0nnector-s3cret";

/// Files, and a broker that wants them.
struct Secured {
    directory: TempDir,
    certificates: Certificates,
    kafka: Kafka,
}

impl Secured {
    async fn start() -> Result<Self> {
        let directory = TempDir::new()?;
        let certificates = Certificates::in_directory(directory.path())?;
        // Kafka wants the key and the certificate in one file.
        let keystore = directory.path().join("server.pem");
        let key = fs::read_to_string(certificates.server_key())?;
        fs::write(&keystore, key + &fs::read_to_string(certificates.server())?)?;
        let tls = vec![
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", keystore.display()),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", certificates.authority().display()),
        ];
        let users = vec![
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned(),
            format!(
                "plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_connector=\"{PASSWORD}\";"
            ),
            "scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;"
                .to_owned(),
            "scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;"
                .to_owned(),
        ];
        // Kafka's own validator of tokens that nobody signed: made for tests, and the protocol is that of any other.
        let tokens = vec![
            "sasl.enabled.mechanisms=OAUTHBEARER".to_owned(),
            "oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
             unsecuredLoginStringClaim_sub=\"broker\";"
                .to_owned(),
        ];
        let mutual = [tls.clone(), vec!["ssl.client.auth=required".to_owned()]].concat();
        let kafka = Kafka::start(KafkaOptions {
            listeners: vec![
                Listener { name: "TLS", protocol: "SSL", properties: tls.clone() },
                Listener { name: "MUTUAL", protocol: "SSL", properties: mutual },
                Listener { name: "USERS", protocol: "SASL_PLAINTEXT", properties: users.clone() },
                Listener { name: "BOTH", protocol: "SASL_SSL", properties: [tls, users].concat() },
                Listener { name: "TOKENS", protocol: "SASL_PLAINTEXT", properties: tokens },
            ],
            scram_users: ["SCRAM-SHA-256", "SCRAM-SHA-512"]
                .map(|mechanism| format!("{mechanism}=[name=connector,password={PASSWORD}]"))
                .to_vec(),
            ..KafkaOptions::default()
        })
        .await?;
        Ok(Self { directory, certificates, kafka })
    }

    /// A topic and a connector that reaches the broker by `listener`; dead letters go by the other connection.
    async fn scene(&self, listener: &str, settings: &[(&str, &str)]) -> Result<Scene> {
        let name = listener.to_lowercase();
        let redis = Redis::start(RedisOptions::default()).await?;
        let scene = Scene::with(BINARY, self.kafka.bootstrap(), redis, &name, 1).await?;
        let letters = format!("topic:{}-letters", scene.topic);
        let scene = scene
            .set("CONNECT_KAFKA_BROKERS", &self.kafka.listener(listener)?)
            .set("CONNECT_DEAD_LETTERS", &letters)
            .set("CONNECT_DEAD_LETTERS_REPLICATION", "1");
        Ok(settings.iter().fold(scene, |scene, (name, value)| scene.set(&format!("CONNECT_KAFKA_{name}"), value)))
    }

    /// One record arrives, and one that can't be written becomes a dead letter.
    async fn works(&self, listener: &str, settings: &[(&str, &str)]) -> Result<()> {
        let scene = self.scene(listener, settings).await?;
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

    /// The connector ends at once with exit code 1 and names what to change.
    async fn is_refused(&self, listener: &str, settings: &[(&str, &str)], named: &str) -> Result<()> {
        let scene = self.scene(listener, settings).await?;
        let mut connector = scene.connector()?;
        let code = exit_code(&mut connector).await.with_context(|| scene.logged())?;
        let log = scene.logged();
        assert_eq!(code, 1, "{settings:?}: {log}");
        assert!(log.contains(named), "{settings:?}: {named} is not named: {log}");
        assert!(!log.contains("wr0ng"), "a secret is never logged: {log}");
        Ok(())
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn certificates_of_an_authority_of_ones_own() -> Result<()> {
    let secured = Secured::start().await?;
    let (authority, certificate) = (secured.certificates.authority(), secured.certificates.client());
    let key = secured.certificates.client_key();
    let trusting = [("SECURITY", "tls"), ("CA_FILE", text(&authority)?)];
    for reader in ["kafka", "rskafka"] {
        secured.works("TLS", &[&trusting[..], &[("READER", reader)]].concat()).await?;
    }
    let ours = [("CERT_FILE", text(&certificate)?), ("KEY_FILE", text(&key)?)];
    secured.works("MUTUAL", &[&trusting[..], &ours].concat()).await?;

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
        secured.works("USERS", &[&plain[..], &user].concat()).await?;
        let tls = [("SECURITY", "sasl_tls"), ("SASL_MECHANISM", mechanism), ("CA_FILE", text(&authority)?)];
        secured.works("BOTH", &[&tls[..], &user].concat()).await?;
        let wrong = [("SASL_USERNAME", "connector"), ("SASL_PASSWORD", "wr0ng")];
        secured.is_refused("USERS", &[&plain[..], &wrong].concat(), "CONNECT_KAFKA_SASL_PASSWORD").await?;
    }
    Ok(())
}

/// A JSON web token that nobody signed, valid for so many seconds.
fn token(seconds: i64) -> String {
    let now = Utc::now().timestamp();
    let part = |json: String| BASE64_URL_SAFE_NO_PAD.encode(json);
    let claims = format!(r#"{{"sub":"connector","iat":{now},"exp":{}}}"#, now + seconds);
    format!("{}.{}.", part(r#"{"alg":"none"}"#.to_owned()), part(claims))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers: cargo xtask test"]
async fn tokens_from_a_file_and_from_a_provider() -> Result<()> {
    let secured = Secured::start().await?;
    let bearer = [("SECURITY", "sasl_plaintext"), ("SASL_MECHANISM", "oauthbearer")];
    let file = secured.directory.path().join("token");
    let from_file = [&bearer[..], &[("SASL_TOKEN_FILE", text(&file)?)]].concat();
    fs::write(&file, token(3600))?;
    secured.works("TOKENS", &from_file).await?;
    // A token that was rotated too late.
    fs::write(&file, token(-60))?;
    secured.is_refused("TOKENS", &from_file, "token").await?;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/token", listener.local_addr()?);
    let grant = async || format!(r#"{{"access_token":"{}","token_type":"Bearer","expires_in":3600}}"#, token(3600));
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/token", post(grant))).await });
    let client = [("SASL_TOKEN_URL", url.as_str()), ("SASL_USERNAME", "id"), ("SASL_PASSWORD", PASSWORD)];
    secured.works("TOKENS", &[&bearer[..], &client].concat()).await
}
