//! What `check` tells of a cluster.

use std::io::Write as _;

use connect_core::{Sink, SinkError};
use elasticsearch::http::Method::Put;
use serde_json::json;

use crate::load::{Load, dice};
use crate::security::secured;
use crate::support::{Shared, every_version, opensearch, sink, unique};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn check_names_the_version_what_is_needed_the_template_and_how_long_deletes_are_remembered() {
    every_version(async |server| {
        let load = Load::new(1, &dice(), &server.url).await;
        let mut template = tempfile::NamedTempFile::new().unwrap();
        write!(template, r#"{{"index_patterns":["{}"],"version":7}}"#, load.topic).unwrap();
        let load = load.set("CONNECT_ELASTICSEARCH_TEMPLATE_FILE", template.path().to_str().unwrap());
        server.client.ask(Put, &load.topic, "").await.unwrap();
        assert!(load.call(&["check"]).await.success(), "{}", load.logged());
        let told = load.logged();
        let version = match server.name {
            "elasticsearch-9" => "elasticsearch 9.",
            "elasticsearch-8" => "elasticsearch 8.",
            _ => "opensearch 2.",
        };
        for part in [
            version,
            "external versions, index templates (all without a paid licence)",
            "the index template isn't there yet",
            "this index forgets deletes soon",
            "60s",
        ] {
            assert!(told.contains(part), "{part} is not in\n{told}");
        }
        server.client.ask(Put, &format!("{}/_settings", load.topic), r#"{"index.gc_deletes":"1h"}"#).await.unwrap();
        assert!(load.call(&["check"]).await.success(), "{}", load.logged());
        assert!(load.logged()[told.len()..].contains("deletes are remembered long enough"), "{}", load.logged());
    })
    .await;
}

/// The builds of Elasticsearch that can be had have no Painless; OpenSearch has it.
async fn painless_is_looked_for(server: &'static Shared) {
    let index = unique("scripts");
    let script = tempfile::NamedTempFile::new().unwrap();
    let file = ("SCRIPT_FILE", script.path().to_str().unwrap());
    for settings in [
        &[("ACTION", "update")][..],
        &[("ACTION", "script"), file],
        &[("ACTION", "script"), file, ("UPDATE_GUARD", "none")],
    ] {
        let checked = sink(&server.url, &[&[("INDEX", index.as_str())], settings].concat()).check().await;
        match (server.name, &checked) {
            ("opensearch-2", Ok(())) => {}
            ("elasticsearch-8" | "elasticsearch-9", Err(SinkError::Fatal(message))) => {
                assert!(message.contains("no Painless"), "{message}");
            }
            _ => panic!("{}: {settings:?}: {checked:?}", server.name),
        }
    }
    let plain = [("INDEX", index.as_str()), ("ACTION", "update"), ("UPDATE_GUARD", "none")];
    sink(&server.url, &plain).check().await.unwrap();
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn check_looks_for_painless_where_the_action_needs_it() {
    every_version(painless_is_looked_for).await;
    painless_is_looked_for(opensearch().await).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn check_says_what_it_may_not_look_at() {
    let server = secured().await;
    let client = server.client().unwrap();
    let files = server.certificates().unwrap();
    let roles = json!({ "writer": { "cluster": [], "indices": [
        { "names": ["load-*"], "privileges": ["auto_configure", "create_doc", "index", "delete"] },
        { "names": ["connect-topics"], "privileges": ["auto_configure", "create_doc", "read"] },
    ] } });
    let key = json!({ "name": "connector", "role_descriptors": roles }).to_string();
    let key = client.ask(Put, "_security/api_key", key).await.unwrap();
    let mut load = Load::new(1, &dice(), &server.url()).await;
    for (name, value) in [
        ("API_KEY", key["encoded"].as_str().unwrap()),
        ("CA_FILE", files.authority().to_str().unwrap()),
        ("CERT_FILE", files.client().to_str().unwrap()),
        ("KEY_FILE", files.client_key().to_str().unwrap()),
    ] {
        load = load.set(&format!("CONNECT_ELASTICSEARCH_{name}"), value);
    }
    client.ask(Put, &load.topic, "").await.unwrap();
    assert!(load.call(&["check"]).await.success(), "{}", load.logged());
    let told = load.logged();
    assert!(
        told.contains("how long deletes are remembered can't be told") && told.contains("\"status\":403"),
        "{told}"
    );
    let load = load.set("CONNECT_ELASTICSEARCH_ACTION", "update");
    assert!(load.call(&["check"]).await.success(), "{}", load.logged());
    let told = &load.logged()[told.len()..];
    assert!(told.contains("whether the cluster has Painless, which the action needs, can't be told"), "{told}");
}
