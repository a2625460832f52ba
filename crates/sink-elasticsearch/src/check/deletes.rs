//! How long an index remembers what was deleted.

use connect_core::SinkError;
use tracing::{info, warn};

use super::{index_patterns, json_of};
use crate::config::VersionFrom;
use crate::nodes::Request;
use crate::sink::ElasticsearchSink;

/// A delete is forgotten after `index.gc_deletes`; a request that is held up for longer brings its document back.
const ENOUGH_MINUTES: f64 = 10.0;

/// Tells how long deletes are remembered, where that is too short.
pub(super) async fn check(sink: &ElasticsearchSink) -> Result<(), SinkError> {
    if !sink.deletes() || sink.config.version() == VersionFrom::None {
        return Ok(());
    }
    let path = format!("{}/_settings/index.gc_deletes", index_patterns(sink).join(","));
    let query = [("flat_settings", "true"), ("include_defaults", "true"), ("ignore_unavailable", "true")];
    let reply = sink.nodes.send(&Request::get(&path, &query)).await?;
    let answer = json_of(&reply);
    let indices = answer.as_object().filter(|indices| reply.status == 200 && !indices.is_empty());
    // Of a pattern, the server leaves out what the user may not look at.
    if indices.is_none() {
        warn!(
            status = reply.status,
            "how long deletes are remembered can't be told: no index is there yet, or the connector's user may not look at it \
             (index privilege `view_index_metadata`). An index whose template doesn't set index.gc_deletes forgets them after \
             60s; set it to 1h there"
        );
    }
    for (index, settings) in indices.into_iter().flatten() {
        let set = &settings["settings"]["index.gc_deletes"];
        let value = set.as_str().or_else(|| settings["defaults"]["index.gc_deletes"].as_str()).unwrap_or("60s");
        if minutes(value).is_some_and(|minutes| minutes < ENOUGH_MINUTES) {
            warn!(
                index,
                gc_deletes = value,
                "this index forgets deletes soon: a request that is held up for longer than that brings a deleted document \
                 back; set index.gc_deletes to 1h"
            );
        } else {
            info!(index, gc_deletes = value, "deletes are remembered long enough");
        }
    }
    Ok(())
}

/// A duration as the server writes it.
fn minutes(text: &str) -> Option<f64> {
    let unit = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != '-')?;
    let number: f64 = text[..unit].parse().ok()?;
    Some(match &text[unit..] {
        "ms" => number / 60_000.0,
        "s" => number / 60.0,
        "m" => number,
        "h" => number * 60.0,
        "d" => number * 1_440.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_server_writes_them() {
        for (text, value) in
            [("60s", Some(1.0)), ("1h", Some(60.0)), ("500ms", Some(1.0 / 120.0)), ("-1", None), ("x", None)]
        {
            assert_eq!(minutes(text), value, "{text}");
        }
    }
}
