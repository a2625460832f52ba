//! What real servers answer, kept as golden files: `src/errors_tests.rs` reads them without a server.
//!
//! `UPDATE_GOLDEN=1` writes them anew.

use elasticsearch::http::Method::{Delete, Post, Put};
use serde_json::{Value, json};

use crate::support::{Shared, every_version};

/// What the sink asks for; see `src/answer.rs`.
const FILTER: &str = "items.*.status,items.*.result,items.*.error.type,items.*.error.reason,\
     items.*.error.caused_by.type,items.*.error.caused_by.reason,items.*.error.caused_by.caused_by.type,\
     items.*.error.caused_by.caused_by.reason,error,status";

async fn answers_are_golden(server: &'static Shared) {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(format!("{directory}/cases.json")).unwrap()).unwrap();
    let _ = server.client.send(Delete, "golden", "").await.unwrap();
    let index = r#"{"settings":{"number_of_replicas":0},"mappings":{"dynamic":"strict","properties":{"n":{"type":"integer"}}}}"#;
    server.client.ask(Put, "golden", index).await.unwrap();
    // An alias of two indices, neither of which says that it is the one that is written to.
    for index in ["golden-a", "golden-b"] {
        let _ = server.client.send(Delete, index, "").await.unwrap();
        server.client.ask(Put, index, r#"{"aliases":{"golden-both":{}}}"#).await.unwrap();
    }
    let mut answers = Vec::new();
    for case in &cases {
        let body = case["body"].as_str().unwrap().to_owned();
        let (status, answer) = server.client.send(Post, &format!("_bulk?filter_path={FILTER}"), body).await.unwrap();
        answers.push(json!({ "name": case["name"], "status": status, "answer": answer }));
    }
    let file = format!("{directory}/{}.json", server.name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, serde_json::to_string_pretty(&answers).unwrap() + "\n").unwrap();
        return;
    }
    // By value: the order of names depends on what else is built.
    let kept: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (found, kept) in answers.iter().zip(&kept) {
        assert_eq!(found, kept, "{file} is another answer than the server's: UPDATE_GOLDEN=1 keeps it");
    }
    assert_eq!(answers.len(), kept.len());
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn servers_answer_as_they_did() {
    every_version(answers_are_golden).await;
}
