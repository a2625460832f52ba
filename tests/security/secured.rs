//! A broker with a listener for every kind of security, and connectors that reach it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::Utc;
use system_tests::{Scene, exit_code};
use tempfile::TempDir;
use xtask::certificates::Certificates;
use xtask::services::{Kafka, KafkaOptions, Listener, Redis, RedisOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_sink-redis");
pub const PASSWORD: &str = "c0nnector-s3cret";

/// Files, and a broker that wants them.
pub struct Secured {
    pub directory: TempDir,
    pub certificates: Certificates,
    pub kafka: Kafka,
}

impl Secured {
    pub async fn start() -> Result<Self> {
        Self::start_with(Vec::new()).await
    }

    /// The same with more lines for `server.properties`.
    pub async fn start_with(properties: Vec<String>) -> Result<Self> {
        let directory = TempDir::new()?;
        let certificates = Certificates::in_directory(directory.path())?;
        let (keystore, truststore) = present(directory.path(), &certificates)?;
        let tls = vec![
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", keystore.display()),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", truststore.display()),
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
                Listener { name: "BOTH", protocol: "SASL_SSL", properties: [tls.clone(), users].concat() },
                Listener { name: "TOKENS", protocol: "SASL_PLAINTEXT", properties: tokens.clone() },
                Listener { name: "SEALED", protocol: "SASL_SSL", properties: [tls, tokens].concat() },
            ],
            scram_users: ["SCRAM-SHA-256", "SCRAM-SHA-512"]
                .map(|mechanism| format!("{mechanism}=[name=connector,password={PASSWORD}]"))
                .to_vec(),
            properties,
            ..KafkaOptions::default()
        })
        .await?;
        Ok(Self { directory, certificates, kafka })
    }

    /// A topic and a connector that reaches the broker by `listener`; dead letters go by the other connection.
    pub async fn scene(&self, listener: &str, settings: &[(&str, &str)]) -> Result<Scene> {
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

    /// From the next start on the server has these, and trusts nobody else's.
    pub fn rotate(&self, certificates: &Certificates) -> Result<()> {
        present(self.directory.path(), certificates).map(drop)
    }

    /// The connector ends at once with exit code 1 and names what to change.
    pub async fn is_refused(&self, listener: &str, settings: &[(&str, &str)], named: &str) -> Result<()> {
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

/// The server's files: its key and certificate in one, as Kafka wants them, and whom it trusts.
fn present(directory: &Path, certificates: &Certificates) -> Result<(PathBuf, PathBuf)> {
    let (keystore, truststore) = (directory.join("server.pem"), directory.join("trusted.pem"));
    let key = fs::read_to_string(certificates.server_key())?;
    fs::write(&keystore, key + &fs::read_to_string(certificates.server())?)?;
    fs::copy(certificates.authority(), &truststore)?;
    Ok((keystore, truststore))
}

/// A JSON web token that nobody signed, valid for so many seconds.
pub fn token(seconds: i64) -> String {
    let now = Utc::now().timestamp();
    let part = |json: String| BASE64_URL_SAFE_NO_PAD.encode(json);
    let claims = format!(r#"{{"sub":"connector","iat":{now},"exp":{}}}"#, now + seconds);
    format!("{}.{}.", part(r#"{"alg":"none"}"#.to_owned()), part(claims))
}

pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}
