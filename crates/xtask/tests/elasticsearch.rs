//! The servers that the tests of sink-elasticsearch stand on.

#![allow(clippy::unwrap_used, reason = "a test")]

use elasticsearch::http::Method::{Get, Put};
use xtask::{
    elasticsearch_client::Client,
    services::{Elasticsearch, ElasticsearchOptions, OpenSearch, elasticsearch::VERSION_8},
};

async fn version(client: &Client) -> String {
    client.ask(Get, "", "").await.unwrap()["version"]["number"].as_str().unwrap().to_owned()
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn nightly_elasticsearch_9_keeps_its_data_when_it_is_killed() {
    let mut server = Elasticsearch::start(ElasticsearchOptions::default()).await.unwrap();
    let client = server.client().unwrap();
    assert_eq!(version(&client).await, "9.5.3");
    client.ask(Put, "kept/_doc/1", r#"{"n":1}"#).await.unwrap();
    server.stop();
    server.start_again().await.unwrap();
    assert_eq!(client.document("kept", "1").await.unwrap().unwrap()["n"], 1);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn nightly_elasticsearch_8_answers() {
    let options = ElasticsearchOptions { version: Some(VERSION_8.to_owned()), ..ElasticsearchOptions::default() };
    let server = Elasticsearch::start(options).await.unwrap();
    // This build has no `GET /`.
    let nodes = server.client().unwrap().ask(Get, "_nodes/_local?filter_path=nodes.*.version", "").await.unwrap();
    assert!(nodes.to_string().contains(r#""version":"8.19.21""#), "{nodes}");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn nightly_a_secured_elasticsearch_knows_its_users_and_makes_keys() {
    let options = ElasticsearchOptions { secured: true, ..ElasticsearchOptions::default() };
    let server = Elasticsearch::start(options).await.unwrap();
    let key = server.client().unwrap().ask(Put, "_security/api_key", r#"{"name":"test"}"#).await.unwrap();
    assert!(key["encoded"].is_string());
    assert!(Client::new(&server.url()).unwrap().ask(Get, "", "").await.is_err(), "without its authority");
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn nightly_opensearch_answers() {
    let server = OpenSearch::start().await.unwrap();
    assert_eq!(version(&server.client().unwrap()).await, "2.19.1");
}
