//! Does the cluster have the language of the scripts that change documents?

use connect_core::SinkError;
use serde_json::Value;
use tracing::{info, warn};

use super::json_of;
use crate::errors::no_painless;
use crate::nodes::Request;
use crate::sink::ElasticsearchSink;

/// Asks the request first that needs the fewest rights.
pub(super) async fn check(sink: &ElasticsearchSink) -> Result<(), SinkError> {
    if !sink.scripts() {
        return Ok(());
    }
    let painless = is_a_module(sink).await?
        || {
            let reply = sink.nodes.send(&Request::get("_script_language", &[])).await?;
            let answer = json_of(&reply);
            if reply.status != 200 || !answer["language_contexts"].is_array() {
                warn!(
                    status = reply.status,
                    "whether the cluster has Painless, which the action needs, can't be told: the connector's user may not ask for \
                 the modules of the nodes (cluster privilege `monitor`) or for the languages of scripts (`manage`). The first \
                 document will tell"
                );
                return Ok(());
            }
            runs_updates(&answer)
        };
    if !painless {
        return Err(SinkError::fatal(no_painless(
            "it runs no Painless script that comes with an update (_script_language)",
        )));
    }
    info!("the cluster has Painless, which the action needs");
    Ok(())
}

/// Whether a node names it among its modules, for which the right to `monitor` is enough. What is not named may be there all
/// the same: a service may hide its modules, and a node that is embedded names classes.
async fn is_a_module(sink: &ElasticsearchSink) -> Result<bool, SinkError> {
    let query = [("filter_path", "nodes.*.modules.name,nodes.*.plugins.name")];
    let reply = sink.nodes.send(&Request::get("_nodes/plugins", &query)).await?;
    let answer = json_of(&reply);
    let nodes = answer["nodes"].as_object().into_iter().flatten();
    let mut parts =
        nodes.flat_map(|(_, node)| [&node["modules"], &node["plugins"]]).filter_map(Value::as_array).flatten();
    Ok(parts.any(|part| part["name"] == "lang-painless"))
}

/// Whether the server's settings let an update bring such a script along.
fn runs_updates(answer: &Value) -> bool {
    let inline = answer["types_allowed"].as_array().is_some_and(|types| types.iter().any(|name| name == "inline"));
    let mut languages = answer["language_contexts"].as_array().into_iter().flatten();
    let contexts =
        languages.find(|language| language["language"] == "painless").and_then(|it| it["contexts"].as_array());
    inline && contexts.is_some_and(|contexts| contexts.iter().any(|name| name == "update"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scripts_that_updates_may_not_bring_along_are_none() {
        let answer = |types: &[&str], language: &str, contexts: &[&str]| {
            json!({ "types_allowed": types, "language_contexts": [
                { "language": "expression", "contexts": ["update"] }, { "language": language, "contexts": contexts },
            ] })
        };
        assert!(runs_updates(&answer(&["inline", "stored"], "painless", &["ingest", "update"])));
        assert!(!runs_updates(&answer(&["stored"], "painless", &["ingest", "update"])));
        assert!(!runs_updates(&answer(&["inline"], "painless", &["ingest"])));
        assert!(!runs_updates(&answer(&["inline"], "mustache", &["update"])));
        assert!(!runs_updates(&json!({ "types_allowed": ["inline"], "language_contexts": [] })));
    }
}
