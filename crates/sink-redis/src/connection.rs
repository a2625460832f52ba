//! The connection to Redis: made when it is first needed, and made again when it was lost.
//!
//! The client is not asked to connect again by itself: it would go on for ever with a password that is wrong by now, and
//! the core has its own back-off.

use std::time::Duration;

use connect_core::SinkError;
use connect_core::config::ExposeSecret;
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, ReconnectError, TcpConfig, UnresponsiveConfig};
use fred::types::scripts::Script;
use fred::types::{Builder, ClusterHash, ConnectHandle, CustomCommand, FromValue, Value};
use fred::util::redis_keyslot;
use tokio::sync::Mutex;
use tracing::debug;

use crate::config::RedisConfig;
use crate::{errors, tls};

/// Calls that wait at once, of all partitions: more than there are partitions on one process.
const MOST_CALLS: usize = 4_096;

/// A command and its words.
pub type Request = (&'static str, Vec<Value>);

/// One connection for all partitions: their scripts follow each other on it without waiting for the answers.
pub struct Connection {
    config: Config,
    timeout: Duration,
    live: Mutex<Option<Live>>,
}

/// A client and its one connection. Dropped, it is closed.
pub struct Live {
    client: Client,
    /// Ends with the connection.
    task: ConnectHandle,
}

impl Live {
    /// Whether the connection is up, as far as is known.
    pub fn is_connected(&self) -> bool {
        !self.task.is_finished()
    }

    /// Sends commands one behind the other and waits for all answers, those of Redis that are errors among them.
    ///
    /// # Errors
    /// The connection failed: nothing is known of any of them.
    pub async fn pipeline(&self, commands: Vec<Request>) -> Result<Vec<Result<Value, fred::error::Error>>, SinkError> {
        pipeline(&self.client, commands).await.map_err(|error| errors::of_call(&error))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Prepares a connection without making it.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: &RedisConfig) -> Result<Self, String> {
        let mut config = Config::from_url(settings.url.expose())
            .map_err(|error| format!("CONNECT_REDIS_URL: {}", error.details()))?;
        config.fail_fast = true;
        config.tls = tls::config(settings, config.tls.take())?;
        if let Some(username) = &settings.username {
            config.username = Some(username.clone());
        }
        if let Some(password) = &settings.password {
            config.password = Some(password.expose_secret().to_owned());
        }
        Ok(Self { config, timeout: settings.timeout, live: Mutex::new(None) })
    }

    /// The connected client.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn client(&self) -> Result<Client, SinkError> {
        let mut live = self.live.lock().await;
        if let Some(live) = live.as_ref().filter(|live| live.is_connected()) {
            return Ok(live.client.clone());
        }
        Ok(live.insert(self.open().await?).client.clone())
    }

    /// A connection that nobody else uses.
    ///
    /// # Errors
    /// It can't be made.
    pub async fn open(&self) -> Result<Live, SinkError> {
        let client = self.build()?;
        let task = client.init().await.map_err(|error| errors::of_call(&error))?;
        debug!("connected to redis");
        Ok(Live { client, task })
    }

    fn build(&self) -> Result<Client, SinkError> {
        let timeout = self.timeout;
        let in_cluster = self.config.server.is_clustered();
        let mut builder = Builder::from_config(self.config.clone());
        builder
            .with_connection_config(|connection: &mut ConnectionConfig| {
                connection.connection_timeout = timeout;
                connection.internal_command_timeout = timeout;
                // What is sent again is for the core to decide: only it knows whether the batch still counts. In a
                // cluster to follow MOVED is an attempt too.
                connection.max_command_attempts = if in_cluster { 5 } else { 1 };
                connection.max_command_buffer_len = MOST_CALLS;
                connection.unresponsive =
                    UnresponsiveConfig { max_timeout: Some(timeout), interval: Duration::from_secs(1) };
                connection.reconnect_errors = vec![
                    ReconnectError::ReadOnly,
                    ReconnectError::Loading,
                    ReconnectError::MasterDown,
                    ReconnectError::ClusterDown,
                ];
                connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
            })
            .with_performance_config(|performance: &mut PerformanceConfig| {
                performance.default_command_timeout = timeout;
            });
        builder.build().map_err(|error| errors::of_call(&error))
    }

    /// Runs a script with these keys, of which there is at least one and all lie in one slot. A server that does not know it
    /// is sent its text in the same step.
    ///
    /// # Errors
    /// What Redis or the client says.
    pub async fn run(&self, script: &Script, keys: Vec<Value>, arguments: Vec<Value>) -> Result<Value, SinkError> {
        let client = self.client().await?;
        let first = keys.first().and_then(Value::as_string).unwrap_or_default();
        // The client passes over any other way to say where a command of ours goes: it takes the first word, the script's
        // sum, for a key, and each call begins with a MOVED.
        let hash = ClusterHash::Custom(redis_keyslot(first.as_bytes()));
        let mut words = Vec::with_capacity(2 + keys.len() + arguments.len());
        words.extend([Value::from(script.sha1().clone()), Value::from(keys.len() as i64)]);
        words.extend(keys);
        words.extend(arguments);
        match custom(&client, "EVALSHA", hash.clone(), words.clone()).await {
            Err(error) if error.details().contains("NOSCRIPT") => {
                words[0] = Value::from(script.lua().cloned().unwrap_or_default());
                custom(&client, "EVAL", hash, words).await
            }
            result => result,
        }
        .inspect_err(|error| self.give_up(&client, error))
        .map_err(|error| errors::of_script(&error, &first))
    }

    /// Sends one command.
    ///
    /// # Errors
    /// What Redis or the client says.
    pub async fn command(&self, name: &'static str, words: Vec<Value>) -> Result<Value, SinkError> {
        let client = self.client().await?;
        custom(&client, name, ClusterHash::FirstKey, words)
            .await
            .inspect_err(|error| self.give_up(&client, error))
            .map_err(|error| errors::of_call(&error))
    }

    /// Sends commands one behind the other, on the connection that all share.
    ///
    /// # Errors
    /// The first of what Redis says of them, or what the client says.
    pub async fn commands(&self, commands: Vec<Request>) -> Result<(), SinkError> {
        let client = self.client().await?;
        let answers = pipeline(&client, commands).await.inspect_err(|error| self.give_up(&client, error));
        let failed = answers.and_then(|answers| answers.into_iter().collect::<Result<Vec<_>, _>>());
        failed.map(drop).map_err(|error| errors::of_call(&error))
    }

    /// Forgets a client that failed by itself: it may be lost without knowing. An error of Redis is none of the client's.
    fn give_up(&self, client: &Client, error: &fred::error::Error) {
        if errors::is_reply(error.details()) {
            return;
        }
        // Whoever holds the lock is making a new one.
        if let Ok(mut live) = self.live.try_lock()
            && live.as_ref().is_some_and(|live| live.client.id() == client.id())
        {
            *live = None;
        }
    }
}

/// The answers to commands that are sent one behind the other.
async fn pipeline(
    client: &Client,
    commands: Vec<Request>,
) -> Result<Vec<Result<Value, fred::error::Error>>, fred::error::Error> {
    let pipeline = client.pipeline();
    for (name, words) in commands {
        let () = custom(&pipeline, name, ClusterHash::FirstKey, words).await?;
    }
    let answers = pipeline.try_all::<Value>().await;
    for answer in &answers {
        if let Err(error) = answer
            && !errors::is_reply(error.details())
        {
            return Err(error.clone());
        }
    }
    Ok(answers)
}

async fn custom<R: FromValue>(
    client: &impl ClientLike,
    name: &'static str,
    hash: ClusterHash,
    words: Vec<Value>,
) -> Result<R, fred::error::Error> {
    client.custom(CustomCommand::new_static(name, hash, false), words).await
}
