//! The store of any of the three connectors.

use anyhow::{Result, bail};

use super::{Couchbase, CouchbaseOptions, Elasticsearch, ElasticsearchOptions, Redis, RedisOptions};

/// A store with nothing in it but what a connector writes.
pub enum Store {
    /// Of `sink-redis`.
    Redis(Redis),
    /// Of `sink-elasticsearch`.
    Elasticsearch(Elasticsearch),
    /// Of `sink-couchbase`.
    Couchbase(Couchbase),
}

impl Store {
    /// Starts the store of a connector's package. `profile` is cargo's, for the server that is this project's own.
    ///
    /// # Errors
    /// There is no such connector, or the server can't be started.
    pub async fn start(package: &str, profile: Option<&'static str>) -> Result<Self> {
        Ok(match package {
            "sink-redis" => {
                Self::Redis(Redis::start(RedisOptions { memory_only: true, ..RedisOptions::default() }).await?)
            }
            "sink-elasticsearch" => Self::Elasticsearch(Elasticsearch::start(ElasticsearchOptions::default()).await?),
            "sink-couchbase" => {
                Self::Couchbase(Couchbase::start(CouchbaseOptions { profile, ..CouchbaseOptions::default() }).await?)
            }
            _ => bail!("no store is known for {package}"),
        })
    }

    /// The package, and the binary, of its connector.
    pub fn package(&self) -> &'static str {
        match self {
            Self::Redis(_) => "sink-redis",
            Self::Elasticsearch(_) => "sink-elasticsearch",
            Self::Couchbase(_) => "sink-couchbase",
        }
    }

    /// Tells the connector where it is.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Redis(server) => vec![("CONNECT_REDIS_URL", server.url())],
            Self::Elasticsearch(server) => vec![("CONNECT_ELASTICSEARCH_URLS", server.url())],
            Self::Couchbase(server) => server.environment().into(),
        }
    }
}
