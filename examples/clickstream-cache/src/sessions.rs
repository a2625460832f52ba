//! The cache: a hash a user, which `sink-redis` keeps and lets expire.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use fred::clients::Client;
use fred::interfaces::{ClientLike, HashesInterface};
use fred::types::Builder;
use fred::types::config::{Config, ReconnectPolicy};
use serde_json::Value;

/// A cache that takes longer is as good as none.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// After a lost connection, milliseconds.
const RECONNECT_AFTER: u32 = 100;

/// Sessions in Redis.
pub struct Sessions(Client);

impl Sessions {
    /// Connects, now or as soon as Redis is there.
    ///
    /// # Errors
    /// The URL can't be used.
    pub fn connect(url: &str) -> Result<Self> {
        let client = Builder::from_config(Config::from_url(url)?)
            .with_connection_config(|connection| {
                connection.connection_timeout = ANSWER_WITHIN;
                connection.max_command_attempts = 1;
            })
            .with_performance_config(|performance| performance.default_command_timeout = ANSWER_WITHIN)
            .set_policy(ReconnectPolicy::new_constant(0, RECONNECT_AFTER))
            .build()?;
        client.connect();
        Ok(Self(client))
    }

    /// A user's session: the fields of the hash, which are those of the last event.
    ///
    /// # Errors
    /// Redis does not answer in time.
    pub async fn get(&self, user: &str) -> Result<Option<Value>> {
        let fields: HashMap<String, String> = self.0.hgetall(format!("session:{user}")).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        Ok(Some(fields.into_iter().map(|(name, value)| (name, Value::String(value))).collect()))
    }
}
