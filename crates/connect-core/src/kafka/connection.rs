//! The rskafka client, with what it lacks: time-outs, an end to its retries, and errors that say what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rskafka::BackoffConfig;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::{Client, ClientBuilder, Credentials, OauthBearerCredentials, SaslConfig};
use secrecy::ExposeSecret;

use super::error::KafkaError;
use super::tls;
use super::token::Tokens;
use crate::config::{KafkaConfig, SaslMechanism};

/// How long one request may take, connecting and rskafka's own retries included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// One client of the cluster, made when it is first needed and made again after it broke.
///
/// rskafka keeps a connection whose broker went silent, and asks only the brokers that it found first; so after a
/// time-out or a failure to connect the whole client is dropped, and the next call starts from `CONNECT_KAFKA_BROKERS`.
pub struct Connection {
    config: KafkaConfig,
    tokens: Arc<Tokens>,
    client: Mutex<Option<Arc<Client>>>,
}

impl Connection {
    /// Takes the settings; connects on first use.
    pub fn new(config: KafkaConfig) -> Arc<Self> {
        Arc::new(Self { config, tokens: Arc::default(), client: Mutex::new(None) })
    }

    /// The settings.
    pub fn config(&self) -> &KafkaConfig {
        &self.config
    }

    /// The client, connected.
    ///
    /// # Errors
    /// [`KafkaError`], see [`explain`](Self::explain).
    pub async fn client(&self) -> Result<Arc<Client>, KafkaError> {
        if let Some(client) = &*self.client.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(client));
        }
        let built = self.bounded(REQUEST_TIMEOUT, self.builder().await?.build()).await;
        let client = Arc::new(built.map_err(|failure| self.explain("connect", &failure))?);
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&client));
        Ok(client)
    }

    /// The partitions of every topic that may be seen.
    ///
    /// # Errors
    /// As for [`client`](Self::client).
    pub async fn topics(&self) -> Result<BTreeMap<String, BTreeSet<i32>>, KafkaError> {
        let client = self.client().await?;
        let topics = self.bounded(REQUEST_TIMEOUT, client.list_topics()).await;
        let topics = topics.map_err(|failure| self.explain("list topics", &failure))?;
        Ok(topics.into_iter().map(|topic| (topic.name, topic.partitions)).collect())
    }

    /// Forgets the client: the next call connects anew.
    pub fn reset(&self) {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Waits for rskafka, but not for ever. A failure of the connection itself resets it.
    ///
    /// # Errors
    /// [`Failure`], which [`explain`](Self::explain) turns into words.
    pub async fn bounded<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Failure> {
        let failure = match tokio::time::timeout(limit, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::Error(error),
            Err(_) => Failure::Silence(limit),
        };
        if failure.is_broken_connection() {
            self.reset();
        }
        Err(failure)
    }

    /// Says what a failure means and what to do about it. Whatever is not known to be for good may pass.
    pub fn explain(&self, what: &str, failure: &Failure) -> KafkaError {
        let brokers = self.brokers().join(",");
        let error = match failure {
            Failure::Error(error) => error,
            Failure::Silence(limit) => {
                return KafkaError::transient(
                    "connection",
                    format!("Kafka: {what}: no answer within {limit:?} (CONNECT_KAFKA_BROKERS={brokers})"),
                );
            }
        };
        if let Error::ServerError { protocol_error, .. } = error {
            return self.explain_refusal(what, *protocol_error);
        }
        let text = error.to_string();
        if is_refused_login(&text) {
            return KafkaError::fatal(format!(
                "Kafka refuses the credentials: check CONNECT_KAFKA_SASL_USERNAME, CONNECT_KAFKA_SASL_PASSWORD and \
                 CONNECT_KAFKA_SASL_MECHANISM ({text})"
            ));
        }
        if let Some(advice) = tls::advice(&text) {
            return KafkaError::fatal(format!("Kafka: {what}: {advice} ({text})"));
        }
        KafkaError::transient(
            "connection",
            format!(
                "Kafka: {what}: brokers cannot be reached (CONNECT_KAFKA_BROKERS={brokers}): {text}{}",
                tls::hint(&text)
            ),
        )
    }

    fn explain_refusal(&self, what: &str, error: ProtocolError) -> KafkaError {
        match error {
            ProtocolError::TopicAuthorizationFailed
            | ProtocolError::ClusterAuthorizationFailed
            | ProtocolError::GroupAuthorizationFailed => {
                let user = self.config.sasl_username.as_deref().unwrap_or("this client");
                KafkaError::fatal(format!("Kafka: {what}: {error}: grant it to {user} (CONNECT_KAFKA_SASL_USERNAME)"))
            }
            ProtocolError::UnsupportedVersion => {
                KafkaError::fatal(format!("Kafka: {what}: {error}: this broker is too old or too new for this request"))
            }
            _ => KafkaError::transient("broker", format!("Kafka: {what}: {error}")),
        }
    }

    fn brokers(&self) -> Vec<String> {
        self.config.brokers.iter().map(ToString::to_string).collect()
    }

    async fn builder(&self) -> Result<ClientBuilder, KafkaError> {
        let config = &self.config;
        let mut builder = ClientBuilder::new(self.brokers()).client_id("connect").backoff_config(BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
            // The framework retries for ever and says so; rskafka only bridges a leader change.
            deadline: Some(Duration::from_secs(2)),
        });
        if config.security.tls() {
            builder = builder.tls_config(tls::settled_client_config(config).await?);
        }
        if config.sasl_mechanism == Some(SaslMechanism::OauthBearer) {
            // A refusal on its way through rskafka's retries could not be told from a provider that is away.
            self.tokens.get(config).await?;
        }
        if config.security.sasl() {
            builder = builder.sasl_config(sasl_config(config, &self.tokens)?);
        }
        Ok(builder)
    }
}

fn sasl_config(config: &KafkaConfig, tokens: &Arc<Tokens>) -> Result<SaslConfig, KafkaError> {
    if config.sasl_mechanism == Some(SaslMechanism::OauthBearer) {
        let (tokens, config) = (Arc::clone(tokens), config.clone());
        return Ok(SaslConfig::Oauthbearer(OauthBearerCredentials {
            // Asked for on each login.
            callback: Arc::new(move || {
                let (tokens, config) = (Arc::clone(&tokens), config.clone());
                Box::pin(async move { Ok(tokens.get(&config).await?.expose_secret().to_owned()) })
            }),
            authz_id: None,
            bearer_kvs: Vec::new(),
        }));
    }
    let (Some(username), Some(password)) = (&config.sasl_username, &config.sasl_password) else {
        return Err(KafkaError::no_credentials());
    };
    let credentials = Credentials::new(username.clone(), password.expose_secret().to_owned());
    match config.sasl_mechanism {
        Some(SaslMechanism::Plain) => Ok(SaslConfig::Plain(credentials)),
        Some(SaslMechanism::ScramSha256) => Ok(SaslConfig::ScramSha256(credentials)),
        Some(SaslMechanism::ScramSha512) => Ok(SaslConfig::ScramSha512(credentials)),
        Some(SaslMechanism::OauthBearer) | None => Err(KafkaError::no_credentials()),
    }
}

/// Why a call of rskafka did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// It said so.
    Error(Error),
    /// It said nothing for this long.
    Silence(Duration),
}

impl Failure {
    /// The broker's own word for it, when there is one.
    pub fn protocol_error(&self) -> Option<ProtocolError> {
        match self {
            Self::Error(Error::ServerError { protocol_error, .. }) => Some(*protocol_error),
            _ => None,
        }
    }

    fn is_broken_connection(&self) -> bool {
        !matches!(self, Self::Error(Error::ServerError { .. } | Error::InvalidResponse(_)))
    }
}

// rskafka retries a refused login like any other failure and hides its type behind "all retries failed"; its text is
// all that is left. A system test logs in with a wrong password, so a new wording does not go unnoticed.
fn is_refused_login(text: &str) -> bool {
    ["API error: ", "Sasl session error: ", "unsupported sasl mechanism", "Invalid SASL config: "]
        .iter()
        .any(|cause| text.contains(&format!("Sasl handshake failed: {cause}")))
}
