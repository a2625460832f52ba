//! The demo with Redis: a session for each user.

use anyhow::Result;

use super::stage::Store;
use crate::{
    events::Events,
    redis_client,
    services::{self, RedisOptions},
};

/// What the keys begin with.
const PREFIX: &str = "session:";

/// Redis, and a client of ours to look into it.
pub struct Redis {
    server: services::Redis,
    client: fred::clients::Client,
}

impl Store for Redis {
    const NAME: &'static str = "Redis";
    const CONNECTOR: &'static str = "sink-redis";

    async fn start() -> Result<Self> {
        let server = services::Redis::start(RedisOptions::default()).await?;
        Ok(Self { client: redis_client::connect(&server.url()).await?, server })
    }

    fn url(&self) -> String {
        self.server.url()
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![("CONNECT_REDIS_URL", self.url()), ("CONNECT_REDIS_KEY", format!("{PREFIX}{{key}}"))]
    }

    fn key(user: u64) -> String {
        format!("{PREFIX}{}", Events::key(user))
    }

    async fn values(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        let values = redis_client::values(&self.client, keys).await?;
        Ok(values.into_iter().map(|value| Some(String::from_utf8_lossy(&value?).into_owned())).collect())
    }

    async fn count(&self) -> Result<usize> {
        redis_client::count(&self.client, PREFIX).await
    }
}
