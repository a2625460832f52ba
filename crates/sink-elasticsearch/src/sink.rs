//! Writes batches by bulk requests until each item has met its fate.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use connect_core::{
    Assigned, Batch, Context, Item, Outcome, Record, Rejection, Replay, Resume, Sink, SinkError, Tombstones, Verdict,
};
use elasticsearch::http::Method;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::bulk::Bulk;
use crate::config::{Action, ElasticsearchConfig, IdFrom};
use crate::errors::{Fate, Refusal, of_item, of_request};
use crate::nodes::{Nodes, Request};
use crate::op::{Mapper, Op};
use crate::pace::{Load, Pace};
use crate::update::Update;
use crate::{answer, check, index_template, topics};

/// Why items are sent again is logged this often.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// A cluster that records are written to.
pub struct ElasticsearchSink {
    pub(crate) config: ElasticsearchConfig,
    pub(crate) context: Context,
    pub(crate) nodes: Nodes,
    mapper: Mapper,
    pace: Pace,
    /// How long after the begin of a write its last request is sent, so that there is time left for the answer.
    time_to_send: Duration,
    prepared: OnceCell<()>,
    said: Mutex<Option<Instant>>,
}

/// What became of a request.
enum Sent {
    /// Every item has its verdict.
    Settled,
    /// The same, and the cluster has too much to do.
    Busy,
    /// It has to be halved.
    Halve(Halve),
}

enum Halve {
    /// One of its actions is bad.
    BadAction(String),
    /// It is too large.
    TooLarge,
}

impl ElasticsearchSink {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// A file that can't be read or used, or a setting that doesn't go with the framework's, named.
    pub fn new(config: ElasticsearchConfig, context: Context) -> Result<Self, String> {
        let most_bytes = usize::try_from(config.request_bytes.as_u64()).unwrap_or(usize::MAX);
        let write_timeout = context.settings.write_timeout;
        let timeout = config.timeout.unwrap_or(write_timeout * 2 / 3);
        let Some(time_to_send) = write_timeout.checked_sub(timeout) else {
            return Err(format!(
                "CONNECT_ELASTICSEARCH_TIMEOUT={timeout:?} is longer than CONNECT_WRITE_TIMEOUT={write_timeout:?}: no write \
                 would live to see the answer to its request"
            ));
        };
        Ok(Self {
            nodes: Nodes::new(config.clone(), timeout)?,
            mapper: Mapper::new(&config)?.in_epoch(context.epoch),
            pace: Pace::new(config.max_in_flight.get(), most_bytes),
            time_to_send,
            prepared: OnceCell::new(),
            said: Mutex::new(None),
            context,
            config,
        })
    }

    /// Sends one request and reads the answer to each item.
    async fn send(
        &self,
        bulk: &Bulk<'_>,
        range: Range<usize>,
        until: Instant,
        outcome: &mut Outcome,
    ) -> Result<Sent, SinkError> {
        let late = range.start > 0 && Instant::now() > until;
        let Some(place) = timeout_at(until, self.pace.place()).await.ok().filter(|_| !late) else {
            return Err(SinkError::transient(
                "busy",
                "requests wait too long for their turn, as the cluster answers slowly",
            ));
        };
        let body = bulk.body(range.clone());
        let bytes = body.len();
        let body = if self.config.gzip { compressed(body).await? } else { body };
        let request = Request {
            method: Method::Post,
            path: "_bulk",
            query: &[("filter_path", answer::FILTER)],
            content_type: "application/x-ndjson",
            gzip: self.config.gzip,
            body: Some(body),
        };
        let reply = match self.nodes.send(&request).await {
            Ok(reply) => reply,
            Err(error) => {
                let unanswered = matches!(error, SinkError::Transient { reason: "timeout", .. });
                place.ended(if unanswered { Load::Refused } else { Load::Unknown });
                return Err(error);
            }
        };
        if reply.status != 200 {
            let refusal = of_request(reply.status, &reply.body);
            place.ended(if matches!(refusal, Refusal::Busy(_)) { Load::Refused } else { Load::Unknown });
            return match refusal {
                Refusal::BadAction(reason) => Ok(Sent::Halve(Halve::BadAction(reason))),
                Refusal::TooLarge => {
                    self.pace.too_large(bytes);
                    Ok(Sent::Halve(Halve::TooLarge))
                }
                Refusal::Busy(error) | Refusal::Error(error) => Err(error),
            };
        }
        let items = &bulk.items[range.clone()];
        let epoch = self.config.guards_by_offset().then_some(self.context.epoch);
        let mut read = Read { items, epoch, verdicts: Vec::new(), fatal: None, retry: None, busy: false };
        let count = answer::read(&reply.body, |index, item| read.item(index, &item));
        let Read { verdicts, fatal, retry, busy, .. } = read;
        place.ended(if busy { Load::Refused } else { Load::Answered });
        // Verdicts on a part of the items are of no use, as nobody knows of which part.
        match count {
            Ok(count) if count == items.len() => {}
            Ok(count) => return Err(unreadable(format!("it has {count} items for {}", items.len()))),
            Err(error) => return Err(unreadable(error.to_string())),
        }
        if let Some(message) = fatal {
            return Err(SinkError::fatal(message));
        }
        if let Some(reason) = retry {
            self.say(&reason);
        }
        verdicts.into_iter().for_each(|(index, verdict)| outcome.set(range.start + index, verdict));
        Ok(if busy { Sent::Busy } else { Sent::Settled })
    }

    /// Whether a tombstone deletes a document here.
    pub(crate) fn deletes(&self) -> bool {
        let generated = matches!(self.config.id, Some(IdFrom::Generated));
        let guarded = self.mapper.around().is_some_and(Update::is_guarded);
        self.context.settings.tombstones == Tombstones::Delete && !generated && !guarded
    }

    /// Whether documents are changed by a script here.
    pub(crate) fn scripts(&self) -> bool {
        self.mapper.around().is_some_and(Update::is_script)
    }

    /// Why items are sent again, which the framework doesn't know.
    fn say(&self, reason: &str) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            *said = Some(Instant::now());
            warn!("Elasticsearch did not take some documents, which are sent again: {reason}");
        }
    }

    /// What has to be in place before the first write.
    async fn prepare_cluster(&self) -> Result<(), SinkError> {
        self.prepared.get_or_try_init(|| index_template::put(self)).await.map(drop)
    }
}

/// Gathers verdicts.
struct Read<'a> {
    items: &'a [Item<Op>],
    /// Ours, where offsets are what guards.
    epoch: Option<u16>,
    verdicts: Vec<(usize, Verdict)>,
    fatal: Option<String>,
    retry: Option<String>,
    busy: bool,
}

impl Read<'_> {
    fn item(&mut self, index: usize, answer: &answer::ItemAnswer) {
        let Some(item) = self.items.get(index) else { return };
        let verdict = match of_item(item.op.kind, answer, self.epoch) {
            Fate::Written => return,
            Fate::Superseded => Verdict::Superseded,
            Fate::Retry { reason, busy } => {
                self.busy |= busy;
                self.retry.get_or_insert(reason);
                Verdict::Retry
            }
            Fate::Rejected(reason) => Verdict::Rejected(Rejection::new(reason)),
            Fate::Fatal(message) => {
                self.fatal.get_or_insert(message);
                return;
            }
        };
        self.verdicts.push((index, verdict));
    }
}

fn unreadable(problem: String) -> SinkError {
    SinkError::transient(
        "answer",
        format!(
            "the answer to a bulk request can't be read ({problem}); is it Elasticsearch that answers at CONNECT_ELASTICSEARCH_URLS?"
        ),
    )
}

/// Compresses on a thread that may block: on one of the runtime's, it would hold up everybody's network.
async fn compressed(body: Bytes) -> Result<Bytes, SinkError> {
    let task = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let mut encoder =
            flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
        encoder.write_all(&body).and_then(|()| encoder.finish())
    });
    match task.await {
        Ok(Ok(compressed)) => Ok(compressed.into()),
        Ok(Err(error)) => Err(SinkError::fatal(format!("a request can't be compressed: {error}"))),
        Err(_) => Err(SinkError::transient("stopping", "the process is stopping")),
    }
}

impl Sink for ElasticsearchSink {
    type Op = Op;

    fn lanes(&self) -> usize {
        self.config.max_in_flight.get().min(4)
    }

    fn prepare(&self, record: &Record) -> Result<Option<Self::Op>, Rejection> {
        self.mapper.prepare(record).map(Some)
    }

    fn target<'a>(&self, op: &'a Self::Op) -> Option<&'a [u8]> {
        Some(&op.target)
    }

    async fn write(&self, batch: &Batch<Self::Op>) -> Result<Outcome, SinkError> {
        let until = Instant::now() + self.time_to_send;
        let mut outcome = Outcome::written();
        let count = batch.items.len();
        // The server takes no request without an action.
        if count == 0 {
            return Ok(outcome);
        }
        self.prepare_cluster().await?;
        let bulk = Bulk::new(&batch.items, self.mapper.around());
        let again = |from: usize, mut outcome: Outcome| {
            (from..count).for_each(|index| outcome.set(index, Verdict::Retry));
            Ok(outcome)
        };
        // The ranges still to be sent, the next one last.
        let mut left = Vec::new();
        left.push(0..count);
        while let Some(range) = left.pop() {
            let part = bulk.fitting(range.clone(), self.pace.bytes());
            if part.end < range.end {
                left.push(part.end..range.end);
            }
            match self.send(&bulk, part.clone(), until, &mut outcome).await {
                Ok(Sent::Settled) => {}
                // What is left waits together with what was refused: the framework's delay is due.
                Ok(Sent::Busy) => return again(part.end, outcome),
                Ok(Sent::Halve(halve)) if part.len() == 1 => {
                    let rejection = match halve {
                        Halve::BadAction(reason) => reason,
                        Halve::TooLarge => format!(
                            "the document has {} bytes, and the server takes no request of that size (http.max_content_length)",
                            bulk.bytes(part.start)
                        ),
                    };
                    outcome.set(part.start, Verdict::Rejected(Rejection::new(rejection)));
                }
                Ok(Sent::Halve(_)) => {
                    let middle = part.start + part.len() / 2;
                    left.push(middle..part.end);
                    left.push(part.start..middle);
                }
                Err(SinkError::Transient { message, .. }) if part.start > 0 => {
                    // What was written stays written and counted so; the rest is sent again.
                    self.say(&message);
                    return again(part.start, outcome);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(outcome)
    }

    async fn check(&self) -> Result<(), SinkError> {
        check::check(self).await
    }

    async fn resume(&self, assigned: &Assigned) -> Result<Resume, SinkError> {
        self.prepare_cluster().await?;
        if self.config.guards_by_offset() {
            topics::same_life(self, assigned).await?;
        }
        Ok(Resume::NotKept)
    }

    fn replay(&self) -> Replay {
        let accumulates = self.config.action == Action::Script;
        let rewrites = self.config.rewrite && self.config.action == Action::Index;
        if rewrites || !self.config.guards_by_offset() {
            return if accumulates { Replay::Repeated } else { Replay::Written };
        }
        let instead = match self.config.action {
            Action::Index => {
                "CONNECT_ELASTICSEARCH_REWRITE=true, or a new CONNECT_ELASTICSEARCH_INDEX under a new CONNECT_NAME"
            }
            _ => "a new CONNECT_ELASTICSEARCH_INDEX under a new CONNECT_NAME",
        };
        Replay::Superseded { instead, accumulates }
    }
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
