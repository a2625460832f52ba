//! The stores: what a connector must know to write to one, and what it holds.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use elasticsearch::http::Method::Post;
use serde_json::Value;

use super::TOPIC;
use crate::{
    redis_client,
    services::{Couchbase, CouchbaseOptions, Elasticsearch, ElasticsearchOptions, Redis, RedisOptions},
};

/// A store with nothing in it but what a connector writes.
pub(super) enum Store {
    Redis(Redis),
    Elasticsearch(Elasticsearch),
    Couchbase(Couchbase),
}

impl Store {
    /// Starts one of each.
    pub(super) async fn all() -> Result<[Self; 3]> {
        let redis = Redis::start(RedisOptions { memory_only: true, ..RedisOptions::default() }).await?;
        let couchbase = Couchbase::start(CouchbaseOptions::default()).await?;
        let elasticsearch = Elasticsearch::start(ElasticsearchOptions::default()).await?;
        Ok([Self::Redis(redis), Self::Elasticsearch(elasticsearch), Self::Couchbase(couchbase)])
    }

    /// The package, and the binary, of the connector for it.
    pub(super) fn package(&self) -> &'static str {
        match self {
            Self::Redis(_) => "sink-redis",
            Self::Elasticsearch(_) => "sink-elasticsearch",
            Self::Couchbase(_) => "sink-couchbase",
        }
    }

    /// Tells the connector where it is.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Redis(server) => vec![("CONNECT_REDIS_URL", server.url())],
            Self::Elasticsearch(server) => vec![("CONNECT_ELASTICSEARCH_URLS", server.url())],
            Self::Couchbase(server) => server.environment().to_vec(),
        }
    }

    /// Freezes it, or lets it go on.
    pub(super) fn freeze(&mut self, freeze: bool) -> Result<()> {
        match (self, freeze) {
            (Self::Redis(server), true) => server.pause(),
            (Self::Redis(server), false) => server.resume(),
            (Self::Elasticsearch(server), true) => server.pause(),
            (Self::Elasticsearch(server), false) => server.resume(),
            (Self::Couchbase(server), true) => server.pause(),
            (Self::Couchbase(server), false) => server.resume(),
        }
    }

    /// Its documents.
    pub(super) async fn contents(&self) -> Result<BTreeMap<String, Value>> {
        match self {
            Self::Redis(server) => redis(server).await,
            Self::Elasticsearch(server) => elasticsearch(server).await,
            Self::Couchbase(server) => server.documents().await,
        }
    }
}

async fn redis(server: &Redis) -> Result<BTreeMap<String, Value>> {
    let client = redis_client::connect(&server.url()).await?;
    let keys = redis_client::keys(&client, "user-").await?;
    let values = redis_client::values(&client, &keys).await?;
    let document = |(key, value): (String, Option<bytes::Bytes>)| {
        Ok((key, serde_json::from_slice(&value.context("a key that was there is gone")?)?))
    };
    keys.into_iter().zip(values).map(document).collect()
}

async fn elasticsearch(server: &Elasticsearch) -> Result<BTreeMap<String, Value>> {
    let client = server.client()?;
    client.ask(Post, &format!("{TOPIC}/_refresh"), "").await?;
    // The most that a search gives at once, and more than there are keys.
    let mut answer = client.ask(Post, &format!("{TOPIC}/_search?size=10000"), "").await?;
    let hits = answer["hits"]["hits"].as_array_mut().context("no hits in the answer")?;
    let document = |hit: &mut Value| Some((hit["_id"].as_str()?.to_owned(), hit["_source"].take()));
    hits.iter_mut().map(|hit| document(hit).context("a hit without an id")).collect()
}
