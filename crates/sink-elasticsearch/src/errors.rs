//! What an error of the server means: for the record, for the request, for the connector.

use std::fmt::Write as _;

use connect_core::SinkError;

use crate::answer::{Cause, ItemAnswer};
use crate::epoch;
use crate::op::Kind;
use crate::update::OUT_OF_ORDER;

/// What became of one action.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Written,
    Superseded,
    /// Worth sending again; why, and whether the server has too much to do.
    Retry {
        reason: String,
        busy: bool,
    },
    Rejected(String),
    Fatal(String),
}

/// What a request means that was refused as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// One of its actions is bad: which one is found by halving.
    BadAction(String),
    /// It has too many bytes.
    TooLarge,
    /// The server has too much to do.
    Busy(SinkError),
    /// Anything else.
    Error(SinkError),
}

/// Reads the answer to one action. `epoch` is ours, where offsets are what guards documents.
pub(crate) fn of_item(kind: Kind, item: &ItemAnswer, epoch: Option<u16>) -> Fate {
    let Some(cause) = &item.error else {
        return match item.status {
            200..300 if item.noop => Fate::Superseded,
            200..300 => Fate::Written,
            // What a delete finds gone is as it should be.
            404 if kind == Kind::Delete => Fate::Written,
            status => Fate::Retry { reason: format!("status {status} without a reason"), busy: false },
        };
    };
    if let Some(ours) = epoch
        && let Some(theirs) = epoch::later(cause, ours)
    {
        return Fate::Fatal(epoch::left_behind(theirs, ours));
    }
    if let Some(words) = forbidden_script(cause) {
        return Fate::Fatal(format!(
            "the cluster does not run the script of an update: {words}. Change its settings (script.allowed_types, \
             script.allowed_contexts, script.max_size_in_bytes), or choose {WITHOUT_SCRIPT}"
        ));
    }
    let reason = describe(cause);
    match item.status {
        // Two updates met: the later one has to see what the earlier one wrote.
        409 if kind == Kind::Update => Fate::Retry { reason, busy: false },
        409 if cause.kind == "version_conflict_engine_exception" => Fate::Superseded,
        // The document is gone with its index.
        404 if kind == Kind::Delete && cause.kind == "index_not_found_exception" => Fate::Written,
        401 => Fate::Fatal(credentials(&reason)),
        403 if !is_blocked(cause) => Fate::Fatal(privileges(&reason)),
        400 if is_missing_script_language(cause) => Fate::Fatal(no_painless(&reason)),
        400 if is_compile_error(cause) => {
            Fate::Fatal(format!("the script can't be compiled: {reason}. Mend CONNECT_ELASTICSEARCH_SCRIPT_FILE"))
        }
        400 if is_out_of_order(cause) || is_about_the_cluster(cause) => Fate::Retry { reason, busy: false },
        400 if is_for_creates_only(cause) => {
            Fate::Rejected(format!("{reason}; set CONNECT_ELASTICSEARCH_ACTION=create"))
        }
        400 => Fate::Rejected(reason),
        429 | 503 => Fate::Retry { reason, busy: true },
        _ => Fate::Retry { reason, busy: false },
    }
}

/// Reads an answer that is no answer to a bulk request.
pub(crate) fn of_request(status: u16, body: &[u8]) -> Refusal {
    let cause = cause_of(body);
    let reason = match &cause {
        Some(cause) => describe(cause),
        None => format!("status {status}"),
    };
    match status {
        400 if cause.as_ref().is_some_and(is_about_an_action) => Refusal::BadAction(reason),
        400 => Refusal::Error(SinkError::transient("request", format!("the request was refused: {reason}"))),
        401 => Refusal::Error(SinkError::fatal(credentials(&reason))),
        403 if cause.as_ref().is_some_and(is_blocked) => Refusal::Error(SinkError::transient("blocked", reason)),
        403 => Refusal::Error(SinkError::fatal(privileges(&reason))),
        413 => Refusal::TooLarge,
        429 | 503 => Refusal::Busy(SinkError::transient("busy", format!("the cluster has too much to do: {reason}"))),
        404 => Refusal::Error(SinkError::transient(
            "request",
            format!("nothing answers bulk requests there ({reason}); look at the path of CONNECT_ELASTICSEARCH_URLS"),
        )),
        _ => Refusal::Error(SinkError::transient("server", format!("the server failed: {reason}"))),
    }
}

/// What is left without scripts.
const WITHOUT_SCRIPT: &str = "CONNECT_ELASTICSEARCH_ACTION=update with CONNECT_ELASTICSEARCH_UPDATE_GUARD=none and accept that a \
    replay can regress documents";

/// Painless is missing, and the action needs it.
pub(crate) fn no_painless(reason: &str) -> String {
    format!(
        "the cluster has no Painless, which the action needs: {reason}. Install it (it is a part of every ordinary \
         installation), or choose {WITHOUT_SCRIPT}"
    )
}

fn credentials(reason: &str) -> String {
    format!(
        "Elasticsearch does not know these credentials ({reason}); set CONNECT_ELASTICSEARCH_USERNAME and _PASSWORD, \
         _API_KEY or _TOKEN"
    )
}

fn privileges(reason: &str) -> String {
    format!(
        "Elasticsearch does not allow this to the connector's user ({reason}); docs/elasticsearch.md has the privileges it needs"
    )
}

/// The cause in the answer to a whole request.
pub(crate) fn cause_of(body: &[u8]) -> Option<Cause> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Error {
        Cause(Cause),
        Text(String),
    }
    #[derive(serde::Deserialize)]
    struct Answer {
        error: Error,
    }
    match serde_json::from_slice::<Answer>(body).ok()?.error {
        Error::Cause(cause) => Some(cause),
        Error::Text(reason) => Some(Cause { reason: Some(reason), ..Cause::default() }),
    }
}

/// The server's words up to where they quote a document.
pub(crate) fn describe(cause: &Cause) -> String {
    const QUOTES: [&str; 4] =
        [" Preview of field's value", "Unrecognized token", " at [Source:", " The prefix of the first"];
    let mut text = cause.kind.clone();
    if let Some(reason) = &cause.reason {
        let quote = QUOTES.iter().filter_map(|quote| reason.find(quote)).min();
        let reason = reason[..quote.unwrap_or(reason.len())].trim_end();
        let separator = if text.is_empty() { "" } else { ": " };
        let _ = write!(text, "{separator}{}", shortened(reason));
    }
    // Its reason quotes the value that is wrong.
    if let Some(deeper) = &cause.caused_by {
        let _ = write!(text, " ({})", deeper.kind);
    }
    text
}

fn shortened(text: &str) -> &str {
    const LONGEST: usize = 400;
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whether a request was refused for one of its actions, and not for a header, its path or the cluster's state.
fn is_about_an_action(cause: &Cause) -> bool {
    let kinds = ["illegal_argument_exception", "action_request_validation_exception", "parse_exception", "x_content"];
    let kind = cause.kind.as_str();
    (kinds.iter().any(|known| kind.starts_with(known)) || kind.ends_with("parse_exception"))
        && !is_about_the_cluster(cause)
}

/// Errors with status 400 that a person mends in the cluster, or that pass: no record is to blame for them.
fn is_about_the_cluster(cause: &Cause) -> bool {
    cause.kind == "index_closed_exception"
        || says(cause, "pipeline with id [")
        // An alias of several indices has to say which one is written to.
        || says(cause, "no write index is defined for alias")
        // The limit on shards.
        || (cause.kind == "validation_exception" && cause.reason.as_deref().unwrap_or_default().contains("shards"))
        // Too many scripts were compiled within a while; an update wraps it into an error of its own.
        || any(cause, |cause| cause.kind == "circuit_breaking_exception")
}

/// A guarded update whose predecessor the server has not taken; see `update.rs`.
fn is_out_of_order(cause: &Cause) -> bool {
    any(cause, |cause| cause.reason.as_deref() == Some(OUT_OF_ORDER))
}

/// A data stream.
fn is_for_creates_only(cause: &Cause) -> bool {
    cause.reason.as_deref().is_some_and(|reason| reason.contains("op_type of create are allowed"))
}

/// A block on writes: the disk is full, or somebody has made the index read-only.
fn is_blocked(cause: &Cause) -> bool {
    cause.kind == "cluster_block_exception"
}

fn is_missing_script_language(cause: &Cause) -> bool {
    any(cause, |cause| says(cause, "script_lang not supported"))
}

/// What the cluster's settings forbid about scripts, in the server's words.
fn forbidden_script(cause: &Cause) -> Option<&str> {
    let forbids = |cause: &&Cause| {
        ["cannot execute [inline] scripts", "cannot execute scripts using [", "exceeded max allowed inline script size"]
            .iter()
            .any(|words| says(cause, words))
    };
    chain(cause).find(forbids)?.reason.as_deref()
}

fn is_compile_error(cause: &Cause) -> bool {
    any(cause, |cause| {
        cause.kind == "script_exception"
            && cause.reason.as_deref().is_some_and(|reason| reason.contains("compile error"))
    })
}

/// Whether an error begins with these words. Further on it may quote a document or an id, which can say anything.
fn says(cause: &Cause, words: &str) -> bool {
    cause.kind == "illegal_argument_exception"
        && cause.reason.as_deref().is_some_and(|reason| reason.starts_with(words))
}

fn any(cause: &Cause, test: impl Fn(&Cause) -> bool) -> bool {
    chain(cause).any(test)
}

fn chain(cause: &Cause) -> impl Iterator<Item = &Cause> {
    std::iter::successors(Some(cause), |cause| cause.caused_by.as_deref())
}

#[cfg(test)]
#[path = "errors_tests.rs"]
mod tests;
