//! The body of an update: what stands around a record's part, and the script that applies each record once and in order.
//!
//! A guarded document remembers the offset that it has seen of each partition, and lets nothing older pass. That alone
//! would lose a record: when the server takes a later record of a request and not an earlier one of the same document,
//! the earlier one would be too old when it is sent again. So each record names the one before it in its batch, and the
//! script refuses it with [`OUT_OF_ORDER`] where that one is missing; both are then sent again.

use bytes::{BufMut, Bytes, BytesMut};
use connect_core::Record;

use crate::config::{Action, ElasticsearchConfig};
use crate::epoch::{LATER, in_order};
use crate::json::{append_number, append_string};

/// What the script says when the record before this one is missing.
pub(crate) const OUT_OF_ORDER: &str = "connect: the record before this one is missing";

/// Merges objects into objects, as the partial document of an update does.
const MERGE: &str = "void merge(Map doc, Map value) { for (entry in value.entrySet()) { \
    def there = doc.get(entry.getKey()); \
    if (there instanceof Map && entry.getValue() instanceof Map) { merge(there, entry.getValue()); } \
    else { doc.put(entry.getKey(), entry.getValue()); } } } \
    void apply(Map doc, Map value) { merge(doc, value); } ";

/// Offsets by topic and partition, so that several topics may feed one document.
const GUARD: &str = "def seen = ctx._source.get(params.guard); \
    if (!(seen instanceof Map)) { seen = new HashMap(); } \
    def last = seen.get(params.partition); \
    if (last != null && last >= params.offset) { \
    def epoch = last / (1L << 48); \
    if (epoch > params.offset / (1L << 48)) { throw new IllegalStateException(params.later + epoch); } \
    ctx.op = 'none'; return; } \
    if (params.before != null && (last == null || last < params.before)) { throw new IllegalStateException(params.missing); } \
    if (params.value == null) { ctx._source.clear(); } else { apply(ctx._source, params.value); } \
    seen.put(params.partition, params.offset); \
    ctx._source.put(params.guard, seen);";

/// Without a guard, whatever comes is applied.
const UNGUARDED: &str = "apply(ctx._source, params.value);";

/// The body of an update without the record's part.
pub(crate) struct Update {
    head: Bytes,
    tail: &'static [u8],
    way: Way,
    epoch: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A partial document, which the server merges.
    Document,
    /// A script.
    Script,
    /// A script that applies each record once.
    Guarded,
}

impl Update {
    /// `None` where the action is no update.
    ///
    /// # Errors
    /// The script's file can't be read.
    pub(crate) fn new(config: &ElasticsearchConfig) -> Result<Option<Self>, String> {
        let guard = config.update_guard.0.as_deref();
        let apply = match (config.action, &config.script_file) {
            (Action::Index | Action::Create, _) => return Ok(None),
            (Action::Update, _) if guard.is_none() => {
                let head = Bytes::from_static(b"{\"doc\":");
                return Ok(Some(Self { head, tail: b",\"doc_as_upsert\":true}", way: Way::Document, epoch: 0 }));
            }
            (Action::Script, Some(file)) => {
                let statements = std::fs::read_to_string(&**file)
                    .map_err(|error| format!("CONNECT_ELASTICSEARCH_SCRIPT_FILE can't be read: {error}"))?;
                format!("void apply(Map doc, def value) {{ {statements}\n}} ")
            }
            (Action::Update | Action::Script, _) => MERGE.to_owned(),
        };
        let mut head = BytesMut::new();
        head.extend_from_slice(
            b"{\"scripted_upsert\":true,\"upsert\":{},\"script\":{\"lang\":\"painless\",\"source\":",
        );
        append_string(&mut head, &(apply + if guard.is_some() { GUARD } else { UNGUARDED }));
        head.extend_from_slice(b",\"params\":{");
        if let Some(guard) = guard {
            head.extend_from_slice(b"\"guard\":");
            append_string(&mut head, guard);
            head.extend_from_slice(b",\"missing\":");
            append_string(&mut head, OUT_OF_ORDER);
            head.extend_from_slice(b",\"later\":");
            append_string(&mut head, LATER);
            head.put_u8(b',');
        }
        let way = if guard.is_some() { Way::Guarded } else { Way::Script };
        Ok(Some(Self { head: head.freeze(), tail: b"}}}", way, epoch: 0 }))
    }

    /// Guards as in this epoch.
    pub(crate) fn in_epoch(self, epoch: u16) -> Self {
        Self { epoch, ..self }
    }

    /// Whether it is a script, and no partial document.
    pub(crate) fn is_script(&self) -> bool {
        self.way != Way::Document
    }

    /// Whether records that come late or again change nothing.
    pub(crate) fn is_guarded(&self) -> bool {
        self.way == Way::Guarded
    }

    /// The record's part. `value` is a whole JSON object; only a guarded update can do without.
    pub(crate) fn part(&self, record: &Record, value: Option<Bytes>) -> Bytes {
        let value = value.unwrap_or(Bytes::from_static(b"null"));
        let mut part = BytesMut::new();
        match self.way {
            Way::Document => return value,
            Way::Script => {}
            Way::Guarded => {
                part.extend_from_slice(b"\"partition\":");
                append_string(&mut part, &format!("{}-{}", record.topic, record.partition));
                part.extend_from_slice(b",\"offset\":");
                append_number(&mut part, in_order(self.epoch, record.offset));
                part.put_u8(b',');
            }
        }
        part.extend_from_slice(b"\"value\":");
        part.extend_from_slice(&value);
        part.freeze()
    }

    /// How many bytes [`write`](Self::write) adds to a part, at most.
    pub(crate) fn bytes_around(&self) -> usize {
        const BEFORE: usize = ",\"before\":".len() + 20;
        self.head.len() + self.tail.len() + BEFORE
    }

    /// Appends the whole body. `before`: the offset of the record before this one that goes to the same document.
    pub(crate) fn write(&self, part: &[u8], before: Option<i64>, body: &mut BytesMut) {
        body.extend_from_slice(&self.head);
        body.extend_from_slice(part);
        if let Some(before) = before.filter(|_| self.is_guarded()) {
            body.extend_from_slice(b",\"before\":");
            append_number(body, in_order(self.epoch, before));
        }
        body.extend_from_slice(self.tail);
    }
}
