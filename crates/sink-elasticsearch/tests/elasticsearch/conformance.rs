//! The checks of the testkit.

use std::net::SocketAddr;

use connect_core::config::Section;
use connect_core::{Record, SinkError};
use connect_testkit::conformance::{Dump, Harness, Place, Promise, conformance};
use elasticsearch::http::Method::{Get, Post, Put};
use sink_elasticsearch::{ElasticsearchConfig, ElasticsearchSink};

use crate::support::{Shared, context, every_version, opensearch};

struct Server {
    shared: &'static Shared,
    /// `CONNECT_ELASTICSEARCH_ACTION`.
    action: &'static str,
}

impl Harness for Server {
    type Sink = ElasticsearchSink;

    async fn connect(&self, place: &Place) -> Result<ElasticsearchSink, SinkError> {
        let url = match place.through {
            Some(address) => format!("http://{address}"),
            None => self.shared.url.clone(),
        };
        let pairs = [
            ("CONNECT_ELASTICSEARCH_URLS", url.as_str()),
            ("CONNECT_ELASTICSEARCH_INDEX", &place.name),
            ("CONNECT_ELASTICSEARCH_ACTION", self.action),
            ("CONNECT_ELASTICSEARCH_TIMEOUT", "10s"),
        ];
        let config =
            ElasticsearchConfig::from_pairs(&pairs).map_err(|problems| SinkError::fatal(problems.to_string()))?;
        ElasticsearchSink::new(config, context(&place.name)).map_err(SinkError::fatal)
    }

    async fn dump(&self, place: &Place) -> Dump {
        let client = &self.shared.client;
        // The index is made by the first write.
        let (status, _) = client.send(Post, &format!("{}/_refresh", place.name), "").await.unwrap();
        if status == 404 {
            return Dump::new();
        }
        let found = client.ask(Get, &format!("{}/_search?size=10000", place.name), "").await.unwrap();
        let hits = found["hits"]["hits"].as_array().unwrap().iter();
        let documents = hits.map(|hit| {
            let mut source = hit["_source"].clone();
            source.as_object_mut().unwrap().remove("connect_offsets");
            (hit["_id"].as_str().unwrap().into(), source)
        });
        // What an update empties, its readers leave out.
        documents
            .filter(|(_, source)| self.action == "index" || *source != serde_json::json!({}))
            .map(|(id, source)| (id, source.to_string().into()))
            .collect()
    }

    fn promises(&self) -> &[Promise] {
        &[Promise::Guarded, Promise::Deletes]
    }

    fn address(&self) -> Option<SocketAddr> {
        let address = self.shared.url.strip_prefix("http://").and_then(|address| address.parse().ok());
        Some(address.expect("the server's URL is an address: without it the network would not be checked"))
    }

    async fn poison(&self, place: &Place, record: Record) -> Option<Record> {
        let mapping = r#"{"mappings":{"properties":{"poison":{"type":"integer"}}}}"#;
        self.shared.client.send(Put, &place.name, mapping).await.unwrap();
        Some(Record { value: Some(r#"{"poison":"none"}"#.into()), ..record })
    }
}

/// Runs the checks: nothing may be left unsaid but this.
async fn conforms(server: Server) {
    let report = conformance(&server).await;
    report.assert();
    let not_promised = [
        // No document makes a server put off its write alone; the servers of `sink_tests.rs` answer 429.
        "what the store puts off is named exactly",
        "resume names no offset where nothing was written",
        "resume names the offset behind the last batch",
        "a batch without items moves the offset",
        "a batch that expects another offset is refused",
        "a process that lost its partition can't write",
        "a wrong password is Fatal",
    ];
    assert_eq!(report.not_promised(), not_promised);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn every_version_conforms() {
    every_version(async |shared| conforms(Server { shared, action: "index" }).await).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn guarded_updates_conform() {
    conforms(Server { shared: opensearch().await, action: "update" }).await;
}
