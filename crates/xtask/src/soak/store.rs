//! What the soak does to a store, and what it finds in it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use elasticsearch::http::Method::Post;
use serde_json::Value;

use super::TOPIC;
use crate::{
    redis_client,
    services::{Elasticsearch, Redis, Store},
};

impl Store {
    /// Starts one of each.
    pub(super) async fn all() -> Result<[Self; 3]> {
        let redis = Self::start("sink-redis", None).await?;
        let couchbase = Self::start("sink-couchbase", None).await?;
        let elasticsearch = Self::start("sink-elasticsearch", None).await?;
        Ok([redis, elasticsearch, couchbase])
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
