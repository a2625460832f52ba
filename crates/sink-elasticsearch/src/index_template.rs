//! Puts an index template in place before the first write, and never covers a newer one.

use connect_core::SinkError;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::Value;
use tracing::info;

use crate::errors::{Refusal, cause_of, describe, of_request};
use crate::nodes::{Reply, Request};
use crate::sink::ElasticsearchSink;

#[derive(Deserialize)]
struct Found {
    index_templates: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    index_template: Versioned,
}

#[derive(Deserialize)]
struct Versioned {
    version: Option<i64>,
}

/// Puts the template of `CONNECT_ELASTICSEARCH_TEMPLATE_FILE` in place, unless one of the same or a higher version is there.
pub(crate) async fn put(sink: &ElasticsearchSink) -> Result<(), SinkError> {
    let Some(file) = &sink.config.template_file else { return Ok(()) };
    let setting = format!("CONNECT_ELASTICSEARCH_TEMPLATE_FILE={}", file.display());
    let text = std::fs::read(&**file).map_err(|error| SinkError::fatal(format!("{setting}: {error}")))?;
    let template: Value =
        serde_json::from_slice(&text).map_err(|error| SinkError::fatal(format!("{setting} is not JSON: {error}")))?;
    if !template["index_patterns"].is_array() {
        return Err(SinkError::fatal(format!("{setting} is no index template: it has no index_patterns")));
    }
    let name = sink.config.template_name.as_deref().unwrap_or(&sink.context.name);
    let path = format!("_index_template/{name}");
    let reply = sink.nodes.send(&Request::get(&path, &[])).await?;
    match reply.status {
        200 => {
            let found: Found = serde_json::from_slice(&reply.body)
                .map_err(|error| SinkError::transient("answer", format!("{path} can't be read: {error}")))?;
            let theirs = found.index_templates.first().and_then(|found| found.index_template.version);
            // Without a version nobody can tell which is newer: what is there stays.
            if template["version"].as_i64().is_none_or(|ours| theirs.is_some_and(|theirs| theirs >= ours)) {
                info!(name, version = theirs, "the index template is there already");
                return Ok(());
            }
        }
        404 => {}
        _ => return Err(failed(&setting, &reply)),
    }
    let reply = sink.nodes.send(&Request::json(Method::Put, &path, &[], text.into())).await?;
    if reply.status != 200 {
        return Err(failed(&setting, &reply));
    }
    info!(name, version = template["version"].as_i64(), "the index template was put in place");
    Ok(())
}

fn failed(setting: &str, reply: &Reply) -> SinkError {
    match of_request(reply.status, &reply.body) {
        Refusal::Busy(error) => error,
        _ if reply.status == 400 => {
            let reason = cause_of(&reply.body).map_or_else(|| "no reason given".to_owned(), |cause| describe(&cause));
            SinkError::fatal(format!("{setting} was refused: {reason}"))
        }
        Refusal::Error(error) => error,
        Refusal::BadAction(_) | Refusal::TooLarge => SinkError::fatal(format!("{setting} was refused")),
    }
}
