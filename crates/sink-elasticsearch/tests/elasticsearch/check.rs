//! What `check` tells of a cluster.

use std::io::Write as _;

use elasticsearch::http::Method::Put;

use crate::load::{Load, dice};
use crate::support::every_version;

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
