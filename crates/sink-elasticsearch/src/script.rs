//! Updates that can't regress: a script applies a record once, however often and however late it comes.

use bytes::{BufMut, BytesMut};
use connect_core::Record;

use crate::config::{Action, ElasticsearchConfig};
use crate::json::{append_number, append_string};

/// Merges objects into objects, as the partial document of an update does.
const MERGE: &str = "void merge(Map doc, Map value) { for (entry in value.entrySet()) { \
    def there = doc.get(entry.getKey()); \
    if (there instanceof Map && entry.getValue() instanceof Map) { merge(there, entry.getValue()); } \
    else { doc.put(entry.getKey(), entry.getValue()); } } } \
    void apply(Map doc, Map value) { merge(doc, value); } ";

/// The guard: offsets by topic and partition, so that several topics may feed one document.
const GUARDED: &str = "def seen = ctx._source.get(params.guard); \
    if (!(seen instanceof Map)) { seen = new HashMap(); } \
    def last = seen.get(params.partition); \
    if (last != null && last >= params.offset) { ctx.op = 'none'; return; } \
    if (params.value == null) { ctx._source.clear(); } else { apply(ctx._source, params.value); } \
    seen.put(params.partition, params.offset); \
    ctx._source.put(params.guard, seen);";

/// Without a guard, whatever comes is applied.
const UNGUARDED: &str = "apply(ctx._source, params.value);";

/// The scripted part of an update.
pub(crate) struct Script {
    /// Up to the parameters that differ from record to record.
    head: BytesMut,
    guarded: bool,
}

impl Script {
    /// `None` where a partial document does without a script.
    ///
    /// # Errors
    /// The file can't be read.
    pub(crate) fn new(config: &ElasticsearchConfig) -> Result<Option<Self>, String> {
        let apply = match (&config.script_file, config.action) {
            (_, Action::Index | Action::Create) => return Ok(None),
            (Some(file), Action::Script) => {
                let statements = std::fs::read_to_string(&**file)
                    .map_err(|error| format!("CONNECT_ELASTICSEARCH_SCRIPT_FILE can't be read: {error}"))?;
                format!("void apply(Map doc, def value) {{ {statements}\n}} ")
            }
            _ if config.update_guard.0.is_none() => return Ok(None),
            _ => MERGE.to_owned(),
        };
        let guard = config.update_guard.0.as_deref();
        let mut head = BytesMut::new();
        head.extend_from_slice(
            b"{\"scripted_upsert\":true,\"upsert\":{},\"script\":{\"lang\":\"painless\",\"source\":",
        );
        append_string(&mut head, &(apply + if guard.is_some() { GUARDED } else { UNGUARDED }));
        head.extend_from_slice(b",\"params\":{");
        if let Some(guard) = guard {
            head.extend_from_slice(b"\"guard\":");
            append_string(&mut head, guard);
            head.put_u8(b',');
        }
        Ok(Some(Self { head, guarded: guard.is_some() }))
    }

    /// Whether records that come late or again change nothing.
    pub(crate) fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// Appends the body of an update. `value` is a whole JSON object.
    pub(crate) fn write(&self, record: &Record, value: Option<&[u8]>, body: &mut BytesMut) {
        body.extend_from_slice(&self.head);
        if self.guarded {
            body.extend_from_slice(b"\"partition\":");
            append_string(body, &format!("{}-{}", record.topic, record.partition));
            body.extend_from_slice(b",\"offset\":");
            append_number(body, record.offset);
            body.put_u8(b',');
        }
        body.extend_from_slice(b"\"value\":");
        body.extend_from_slice(value.unwrap_or(b"null"));
        body.extend_from_slice(b"}}}");
    }
}
