//! The stores of the three connectors, as far as their footprint needs one: emptied, and counted.

use ::elasticsearch::http::Method::Delete;
use anyhow::{Result, bail};

use crate::{
    redis_client,
    services::{Couchbase, CouchbaseOptions, Elasticsearch, ElasticsearchOptions, Redis, RedisOptions},
};

/// A store that runs.
pub enum Store {
    Redis(Box<Redis>),
    Elasticsearch(Box<Elasticsearch>),
    Couchbase(Box<Couchbase>),
}

impl Store {
    /// Starts the store of a connector.
    pub async fn start(sink: &str) -> Result<Self> {
        Ok(match sink {
            "redis" => {
                let options = RedisOptions { memory_only: true, ..RedisOptions::default() };
                Self::Redis(Box::new(Redis::start(options).await?))
            }
            "elasticsearch" => {
                Self::Elasticsearch(Box::new(Elasticsearch::start(ElasticsearchOptions::default()).await?))
            }
            "couchbase" => Self::Couchbase(Box::new(couchbase().await?)),
            _ => bail!("no store is known for {sink}"),
        })
    }

    /// What the connector needs to write to it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Redis(redis) => vec![("CONNECT_REDIS_URL", redis.url())],
            Self::Elasticsearch(server) => vec![("CONNECT_ELASTICSEARCH_URLS", server.url())],
            Self::Couchbase(server) => server.environment().into(),
        }
    }

    /// Removes what was written from a topic.
    pub async fn empty(&mut self, topic: &str) -> Result<()> {
        match self {
            Self::Redis(redis) => redis_client::flush(&redis_client::connect(&redis.url()).await?).await,
            Self::Elasticsearch(server) => match server.client()?.send(Delete, topic, "").await? {
                (200 | 404, _) => Ok(()),
                (status, answer) => bail!("the index {topic} can't be removed ({status}): {answer}"),
            },
            // It has nothing but memory: another one is empty.
            Self::Couchbase(server) => {
                **server = couchbase().await?;
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

async fn couchbase() -> Result<Couchbase> {
    Couchbase::start(CouchbaseOptions { profile: Some("release"), ..CouchbaseOptions::default() }).await
}
