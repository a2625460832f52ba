//! What real servers answer, kept as golden files: `src/errors_tests.rs` reads them without a server.
//!
//! `UPDATE_GOLDEN=1` writes them anew.

use elasticsearch::http::Method::{Delete, Post, Put};
use serde_json::{Value, json};

use crate::support::{Shared, elasticsearch_8, elasticsearch_9, opensearch};

/// What the sink asks for; see `src/answer.rs`.
const FILTER: &str = "items.*.status,items.*.result,items.*.error.type,items.*.error.reason,\
     items.*.error.caused_by.type,items.*.error.caused_by.reason,error,status";

async fn answers_are_golden(server: &Shared) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(format!("{directory}/cases.json")).unwrap()).unwrap();
    let _ = server.client.send(Delete, "golden", "").await.unwrap();
    let index = r#"{"settings":{"number_of_replicas":0},"mappings":{"dynamic":"strict","properties":{"n":{"type":"integer"}}}}"#;
    server.client.ask(Put, "golden", index).await.unwrap();
    let mut answers = Vec::new();
    for case in &cases {
        let body = case["body"].as_str().unwrap().to_owned();
        let (status, answer) = server.client.send(Post, &format!("_bulk?filter_path={FILTER}"), body).await.unwrap();
        answers.push(json!({ "name": case["name"], "status": status, "answer": answer }));
    }
    let found = serde_json::to_string_pretty(&answers).unwrap() + "\n";
    let file = format!("{directory}/{}.json", server.name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, found).unwrap();
        return;
    }
    assert_eq!(
        found,
        std::fs::read_to_string(&file).unwrap(),
        "{file} is another answer than the server's: UPDATE_GOLDEN=1 keeps it"
    );
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn elasticsearch_9_answers_as_it_did() {
    answers_are_golden(elasticsearch_9().await).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn nightly_elasticsearch_8_answers_as_it_did() {
    answers_are_golden(elasticsearch_8().await).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn nightly_opensearch_answers_as_it_did() {
    answers_are_golden(opensearch().await).await;
}
