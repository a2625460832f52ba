//! The demo with Couchbase: the in-memory test server of this project, and a document for each user.

use anyhow::Result;
use serde_json::Value;

use super::stage::Store;
use crate::services::{self, CouchbaseOptions};

/// The test server: there is no package of the real one.
pub struct Couchbase(services::Couchbase);

impl Store for Couchbase {
    const NAME: &'static str = "Couchbase (the in-memory test server of this project)";
    const CONNECTOR: &'static str = "sink-couchbase";

    async fn start() -> Result<Self> {
        let options = CouchbaseOptions { profile: Some("release"), ..CouchbaseOptions::default() };
        Ok(Self(services::Couchbase::start(options).await?))
    }

    fn url(&self) -> String {
        self.0.url()
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        self.0.environment().into()
    }

    async fn values(&self, keys: &[String]) -> Result<Vec<Option<String>>> {
        let documents = self.0.documents().await?;
        Ok(keys.iter().map(|key| Some(documents.get(key)?.to_string())).collect())
    }

    async fn count(&self) -> Result<usize> {
        Ok(self.0.documents().await?.len())
    }

    /// As JSON, whose members may come in another order.
    fn same(value: &str, event: &str) -> bool {
        let read = |text| serde_json::from_str::<Value>(text).ok();
        read(value).is_some_and(|value| Some(value) == read(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_members_is_no_difference() {
        assert!(Couchbase::same(r#"{"a":1,"b":2}"#, r#"{ "b": 2, "a": 1 }"#));
        assert!(!Couchbase::same(r#"{"a":1,"b":2}"#, r#"{"a":1,"b":3}"#));
        assert!(!Couchbase::same("{", "{"), "neither is JSON");
    }
}
