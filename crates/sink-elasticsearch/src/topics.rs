//! Offsets guard documents within one life of a topic: which one it is stands in an index of its own.

use connect_core::{Assigned, SinkError};
use elasticsearch::http::Method;
use serde::{Deserialize, Serialize};

use crate::errors::{Refusal, of_request};
use crate::nodes::{Reply, Request};
use crate::sink::ElasticsearchSink;

#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
struct Life {
    connector: String,
    topic: String,
    topic_id: String,
}

#[derive(Deserialize)]
struct Found {
    #[serde(rename = "_source")]
    source: Life,
}

/// Refuses a topic that was made anew under its old name: its offsets begin again, and every record would count as
/// superseded by those of the old one.
pub(crate) async fn same_life(sink: &ElasticsearchSink, assigned: &Assigned) -> Result<(), SinkError> {
    let Some(topic_id) = assigned.topic_id else { return Ok(()) };
    let topic_id: String = topic_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let topic = assigned.partition.topic.to_string();
    // Neither a connector's name nor a topic's has a character that a path would need to escape.
    let path = format!("{}/_doc/{}", sink.config.topics_index, document(sink, &topic));
    // A second round, when another process wrote it between our look and our write.
    for _ in 0..2 {
        let reply = sink.nodes.send(&Request::get(&path, &[])).await?;
        match reply.status {
            200 => return compare(sink, &reply, &topic, &topic_id),
            404 => {}
            _ => return Err(failed(sink, &reply)),
        }
        let life = Life { connector: sink.context.name.clone(), topic: topic.clone(), topic_id: topic_id.clone() };
        let body = serde_json::to_vec(&life).map_err(|error| SinkError::fatal(error.to_string()))?;
        let query = [("op_type", "create"), ("refresh", "false")];
        let reply = sink.nodes.send(&Request::json(Method::Put, &path, &query, body.into())).await?;
        match reply.status {
            200 | 201 => return Ok(()),
            409 => {}
            _ => return Err(failed(sink, &reply)),
        }
    }
    Err(SinkError::transient("topics", format!("{path} is written by somebody else right now")))
}

/// The id of the document that remembers. Each epoch has its own: in a new one the offsets of a new life are newer.
fn document(sink: &ElasticsearchSink, topic: &str) -> String {
    let (name, epoch) = (&sink.context.name, sink.context.epoch);
    if epoch == 0 { format!("{name}+{topic}") } else { format!("{name}+{topic}+{epoch}") }
}

fn compare(sink: &ElasticsearchSink, reply: &Reply, topic: &str, topic_id: &str) -> Result<(), SinkError> {
    let index = &sink.config.topics_index;
    let found: Found = serde_json::from_slice(&reply.body).map_err(|error| {
        SinkError::fatal(format!(
            "{index} holds something that this connector didn't write ({error}); set CONNECT_ELASTICSEARCH_TOPICS_INDEX"
        ))
    })?;
    if found.source.topic_id == topic_id {
        return Ok(());
    }
    Err(SinkError::fatal(format!(
        "the topic {topic} was deleted and made anew: its offsets begin again, and the documents written from the old one \
         would cover all its records. Choose: write to a new index (CONNECT_ELASTICSEARCH_INDEX) under a new CONNECT_NAME; or \
         set CONNECT_ELASTICSEARCH_VERSION=timestamp; or stop all processes of this connector and run `sink-elasticsearch \
         offsets reset --to earliest --new-epoch`; or, when the documents may go, delete them and the document {} in {index}",
        document(sink, topic)
    )))
}

fn failed(sink: &ElasticsearchSink, reply: &Reply) -> SinkError {
    match of_request(reply.status, &reply.body) {
        Refusal::Busy(error) | Refusal::Error(error) => error,
        Refusal::BadAction(reason) => SinkError::fatal(format!(
            "CONNECT_ELASTICSEARCH_TOPICS_INDEX={} can't be used: {reason}",
            sink.config.topics_index
        )),
        Refusal::TooLarge => SinkError::transient("server", "a request of some bytes was refused for its size"),
    }
}
