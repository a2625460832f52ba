//! Does the cluster have the language of the scripts that change documents?

use connect_core::SinkError;
use tracing::{info, warn};

use super::json_of;
use crate::errors::no_painless;
use crate::nodes::Request;
use crate::sink::ElasticsearchSink;

/// What the module with the language is called, in Elasticsearch and in OpenSearch.
const MODULE: &str = "lang-painless";

/// Looks at the modules of the nodes, for which the right to `monitor` is enough. To run a script on trial
/// (`_scripts/painless/_execute`) or to list the languages (`_script_language`), the user would have to manage the cluster.
pub(super) async fn check(sink: &ElasticsearchSink) -> Result<(), SinkError> {
    if !sink.scripts() {
        return Ok(());
    }
    let query = [("filter_path", "nodes.*.modules.name,nodes.*.plugins.name")];
    let reply = sink.nodes.send(&Request::get("_nodes/plugins", &query)).await?;
    let answer = json_of(&reply);
    let nodes = answer["nodes"].as_object().into_iter().flatten();
    let parts = nodes.flat_map(|(_, node)| [&node["modules"], &node["plugins"]]).filter_map(|parts| parts.as_array());
    let names: Vec<_> = parts.flatten().filter_map(|part| part["name"].as_str()).collect();
    if names.contains(&MODULE) {
        info!("the cluster has Painless, which the action needs");
        return Ok(());
    }
    // A service that shows nothing of its nodes may have it all the same.
    if names.is_empty() {
        warn!(
            status = reply.status,
            "whether the cluster has Painless, which the action needs, can't be told: the connector's user may not ask for the \
             modules of the nodes (cluster privilege `monitor`)"
        );
        return Ok(());
    }
    Err(SinkError::fatal(no_painless(&format!("none of its nodes has the module {MODULE}"))))
}
