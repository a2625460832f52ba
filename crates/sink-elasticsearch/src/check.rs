//! Can the cluster be used with these settings? Changes nothing.

mod deletes;
mod scripts;

use connect_core::SinkError;
use elasticsearch::http::Method;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::config::{Action, VersionFrom};
use crate::errors::{Refusal, of_request};
use crate::nodes::{Reply, Request};
use crate::sink::ElasticsearchSink;

pub(crate) async fn check(sink: &ElasticsearchSink) -> Result<(), SinkError> {
    proxy_variables(sink);
    let version = version(sink).await?;
    info!(server = version, needs = needs(sink), "the cluster answers");
    scripts::check(sink).await?;
    privileges(sink).await?;
    alias(sink).await?;
    pipeline(sink).await?;
    template(sink).await?;
    deletes::check(sink).await?;
    if sink.config.action == Action::Create && sink.config.id.is_none() {
        warn!(
            "with CONNECT_ELASTICSEARCH_ACTION=create the first record of a key makes the document and the later ones count \
             as superseded; for a document a record, set CONNECT_ELASTICSEARCH_ID={{topic}}+{{partition}}+{{offset}}"
        );
    }
    Ok(())
}

/// What the settings need of the cluster. All of it is in the free licence.
fn needs(sink: &ElasticsearchSink) -> String {
    let mut needs = vec!["bulk requests"];
    if sink.config.guards_by_offset() || sink.config.version() != VersionFrom::None {
        needs.push("external versions");
    }
    if sink.scripts() {
        needs.push("Painless scripts");
    }
    if sink.config.pipeline.is_some() {
        needs.push("ingest pipelines");
    }
    if sink.config.template_file.is_some() {
        needs.push("index templates");
    }
    needs.join(", ") + " (all without a paid licence)"
}

fn proxy_variables(sink: &ElasticsearchSink) {
    let set = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    if let Some(name) = set.into_iter().find(|name| std::env::var_os(name).is_some())
        && sink.config.proxy.is_none()
    {
        warn!("{name} is set and not used; set CONNECT_ELASTICSEARCH_PROXY if Elasticsearch is behind a proxy");
    }
}

async fn version(sink: &ElasticsearchSink) -> Result<String, SinkError> {
    let reply = sink.nodes.send(&Request::get("", &[])).await?;
    let root = json_of(&reply);
    let (distribution, number) = match root["version"]["number"].as_str() {
        Some(number) => {
            (root["version"]["distribution"].as_str().unwrap_or("elasticsearch").to_owned(), number.to_owned())
        }
        // Some users may not ask for the root, and some builds have none.
        None => {
            refuse_credentials(&reply)?;
            let reply = sink.nodes.send(&Request::get("_nodes/_local", &[("filter_path", "nodes.*.version")])).await?;
            refuse_credentials(&reply)?;
            let nodes = json_of(&reply);
            let number = nodes["nodes"].as_object().and_then(|nodes| nodes.values().next()?["version"].as_str());
            match (number, reply.status) {
                (Some(number), _) => ("elasticsearch".to_owned(), number.to_owned()),
                (None, 403) => {
                    warn!("the connector's user may not ask for the server's version (cluster privilege `monitor`)");
                    return Ok("not known".to_owned());
                }
                (None, 429 | 500..) => {
                    return Err(SinkError::transient(
                        "server",
                        format!("the cluster isn't ready: status {}", reply.status),
                    ));
                }
                (None, status) => {
                    return Err(SinkError::fatal(format!(
                        "what answers at CONNECT_ELASTICSEARCH_URLS is no Elasticsearch and no OpenSearch (status {status})"
                    )));
                }
            }
        }
    };
    let major: u32 = number.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
    let least = if distribution == "opensearch" { 2 } else { 8 };
    if major < least {
        return Err(SinkError::fatal(format!(
            "{distribution} {number} is too old: this connector needs version {least} or newer"
        )));
    }
    Ok(format!("{distribution} {number}"))
}

fn refuse_credentials(reply: &Reply) -> Result<(), SinkError> {
    match of_request(reply.status, &reply.body) {
        Refusal::Error(error) if reply.status == 401 => Err(error),
        Refusal::Busy(error) => Err(error),
        _ => Ok(()),
    }
}

/// The indices that records go to: an index a topic where they are known, and every other placeholder stands for anything.
fn index_patterns(sink: &ElasticsearchSink) -> Vec<String> {
    let template = sink.config.index.to_string();
    let topics = &sink.context.topics;
    // A pattern of topics is written as a regular expression.
    if !template.contains("{topic}") || topics.iter().any(|topic| topic.starts_with('^')) {
        return vec![pattern(&template)];
    }
    topics.iter().map(|topic| pattern(&template.replace("{topic}", topic))).collect()
}

fn pattern(template: &str) -> String {
    let mut pattern = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        pattern.push_str(&rest[..open]);
        pattern.push('*');
        rest = rest[open..].split_once('}').map_or("", |(_, behind)| behind);
    }
    pattern + rest
}

async fn privileges(sink: &ElasticsearchSink) -> Result<(), SinkError> {
    let mut privileges = vec!["auto_configure", "create_doc"];
    if sink.config.action != Action::Create {
        privileges.push("index");
    }
    if sink.deletes() {
        privileges.push("delete");
    }
    let mut wanted = vec![json!({ "names": index_patterns(sink), "privileges": privileges })];
    if sink.config.guards_by_offset() {
        wanted.push(
            json!({ "names": [sink.config.topics_index], "privileges": ["read", "auto_configure", "create_doc"] }),
        );
    }
    let cluster: &[&str] = if sink.config.template_file.is_some() { &["manage_index_templates"] } else { &[] };
    let body = json!({ "cluster": cluster, "index": wanted }).to_string();
    let request = Request::json(Method::Post, "_security/user/_has_privileges", &[], body.into());
    let reply = sink.nodes.send(&request).await?;
    if reply.status == 401 {
        return refuse_credentials(&reply);
    }
    // Without security there is nobody to ask.
    if reply.status != 200 {
        return Ok(());
    }
    let answer = json_of(&reply);
    if answer["has_all_requested"] == true {
        return Ok(());
    }
    let mut missing = Vec::new();
    for (name, privileges) in answer["index"].as_object().into_iter().flatten() {
        for (privilege, has) in privileges.as_object().into_iter().flatten() {
            if *has == false {
                missing.push(format!("{privilege} on {name}"));
            }
        }
    }
    for (privilege, has) in answer["cluster"].as_object().into_iter().flatten() {
        if *has == false {
            missing.push(format!("{privilege} on the cluster"));
        }
    }
    let user = answer["username"].as_str().unwrap_or("the connector's user");
    Err(SinkError::fatal(format!("Elasticsearch does not allow {user}: {}; grant it", missing.join(", "))))
}

/// A delete makes an index where the alias is missing, whatever CONNECT_ELASTICSEARCH_REQUIRE_ALIAS says: so nothing is
/// written before the alias is there.
async fn alias(sink: &ElasticsearchSink) -> Result<(), SinkError> {
    if !sink.config.require_alias {
        return Ok(());
    }
    for alias in index_patterns(sink).iter().filter(|name| !name.contains('*')) {
        let reply = sink.nodes.send(&Request::get(&format!("_alias/{alias}"), &[])).await?;
        if reply.status == 404 {
            return Err(SinkError::transient(
                "alias",
                format!("the alias {alias} isn't there, and CONNECT_ELASTICSEARCH_REQUIRE_ALIAS=true; make it"),
            ));
        }
    }
    Ok(())
}

async fn pipeline(sink: &ElasticsearchSink) -> Result<(), SinkError> {
    let Some(pipeline) = sink.config.pipeline.as_ref().map(ToString::to_string).filter(|name| !name.contains('{'))
    else {
        return Ok(());
    };
    let reply = sink.nodes.send(&Request::get(&format!("_ingest/pipeline/{pipeline}"), &[])).await?;
    match reply.status {
        404 => Err(SinkError::fatal(format!(
            "the ingest pipeline {pipeline} isn't there; make it, or unset CONNECT_ELASTICSEARCH_PIPELINE"
        ))),
        // Who may write through a pipeline may not always look at it.
        _ => Ok(()),
    }
}

async fn template(sink: &ElasticsearchSink) -> Result<(), SinkError> {
    if sink.config.template_file.is_none() {
        return Ok(());
    }
    let name = sink.config.template_name.as_deref().unwrap_or(&sink.context.name);
    let reply = sink.nodes.send(&Request::get(&format!("_index_template/{name}"), &[])).await?;
    match reply.status {
        200 => {
            let version = json_of(&reply)["index_templates"][0]["index_template"]["version"].as_i64();
            info!(name, version, "the index template is there");
        }
        404 => info!(name, "the index template isn't there yet and will be made"),
        status => warn!(name, status, "the index template can't be looked at"),
    }
    Ok(())
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use connect_core::config::Section;
    use connect_core::{Context, Settings};

    use super::*;
    use crate::config::ElasticsearchConfig;

    fn patterns(template: &str, topics: &[&str]) -> Vec<String> {
        let pairs = [("CONNECT_ELASTICSEARCH_URLS", "http://es"), ("CONNECT_ELASTICSEARCH_INDEX", template)];
        let config = ElasticsearchConfig::from_pairs(&pairs).unwrap();
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let context = Context { name: "name".to_owned(), epoch: 0, topics, settings: Settings::default() };
        index_patterns(&ElasticsearchSink::new(config, context).unwrap())
    }

    #[test]
    fn an_index_is_asked_for_by_pattern() {
        assert_eq!(patterns("logs-{topic}-{timestamp:%Y.%m.%d}", &["a", "b"]), ["logs-a-*", "logs-b-*"]);
        assert_eq!(patterns("logs-{topic}", &["^a.*"]), ["logs-*"]);
        assert_eq!(patterns("plain", &["a", "b"]), ["plain"]);
        assert_eq!(patterns("a{key}b", &["a"]), ["a*b"]);
    }
}
