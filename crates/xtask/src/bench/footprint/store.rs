//! What the footprint needs of a store: it is emptied, and counted.

use ::elasticsearch::http::Method::Delete;
use anyhow::{Result, bail};

use crate::{redis_client, services::Store};

/// Cargo's profile for the server that is this project's own.
pub const PROFILE: Option<&str> = Some("release");

impl Store {
    /// Removes what was written from a topic.
    pub async fn empty(&mut self, topic: &str) -> Result<()> {
        match self {
            Self::Redis(redis) => redis_client::flush(&redis_client::connect(&redis.url()).await?).await,
            Self::Elasticsearch(server) => match server.client()?.send(Delete, topic, "").await? {
                (200 | 404, _) => Ok(()),
                (status, answer) => bail!("the index {topic} can't be removed ({status}): {answer}"),
            },
            // It has nothing but memory: another one is empty.
            Self::Couchbase(_) => {
                *self = Self::start(self.package(), PROFILE).await?;
                Ok(())
            }
        }
    }

    /// How many records of a topic are there.
    ///
    /// # Errors
    /// The store doesn't answer, or it keeps offsets itself (Redis) and these are not those of its records.
    pub async fn count(&self, topic: &str, name: &str) -> Result<u64> {
        match self {
            Self::Redis(redis) => {
                let client = redis_client::connect(&redis.url()).await?;
                let offsets = redis_client::offsets(&client, &format!("connect:offsets:{name}")).await?;
                let records = redis_client::size(&client).await?;
                if offsets != records {
                    bail!("Redis holds {records} records, but its offsets say {offsets}");
                }
                Ok(records)
            }
            Self::Elasticsearch(server) => server.client()?.count(topic).await,
            Self::Couchbase(server) => Ok(server.documents().await?.len() as u64),
        }
    }
}
