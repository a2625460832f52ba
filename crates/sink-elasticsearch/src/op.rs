//! What a record becomes: two lines of a bulk request.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use connect_core::decode::Path;
use connect_core::{Record, Rejection, Template};

use crate::config::{Action, ElasticsearchConfig, IdFrom, VersionFrom};
use crate::epoch::in_order;
use crate::json::{append_number, append_string};
use crate::update::Update;

/// The longest id that Elasticsearch takes, in bytes.
const LONGEST_ID: usize = 512;

/// One action of a bulk request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What is done.
    pub kind: Kind,
    /// The action line, its line break included.
    pub line: Bytes,
    /// Index, id and routing as they stand in the action line; unique where the id is generated.
    pub target: Bytes,
    /// The line behind it, its line break not included; none for a delete. Of an update, what the record adds to it.
    pub body: Option<Bytes>,
}

/// What an action does, as far as its answer is read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `index`.
    Index,
    /// `create`.
    Create,
    /// `update`.
    Update,
    /// `delete`.
    Delete,
}

impl Kind {
    fn word(self) -> &'static [u8] {
        match self {
            Self::Index => b"index",
            Self::Create => b"create",
            Self::Update => b"update",
            Self::Delete => b"delete",
        }
    }
}

/// Turns records into actions.
pub struct Mapper {
    action: Action,
    index: Template,
    id: Option<IdFrom>,
    version: VersionFrom,
    version_type: &'static [u8],
    routing: Option<Template>,
    pipeline: Option<Template>,
    require_alias: bool,
    timestamp: Option<(String, Path)>,
    update: Option<Update>,
    epoch: u16,
}

/// Action lines are split off one buffer: an allocation a few hundred records, not one each.
const CHUNK: usize = 16 * 1024;

thread_local! {
    static LINES: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(CHUNK));
    /// Text before it is quoted.
    static TEXT: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

impl Mapper {
    /// Maps as this configuration says.
    ///
    /// # Errors
    /// The script can't be read, or the timestamp's field is no name.
    pub fn new(config: &ElasticsearchConfig) -> Result<Self, String> {
        let version = config.version();
        // Offsets are unique, so an equal one is the same record again. Timestamps and headers are not: the later record of
        // two with the same one has to win, as it does in the topic.
        let equal_wins = config.rewrite || version != VersionFrom::Offset;
        let pointer = |field: &String| {
            let pointer = format!("/{}", field.replace('~', "~0").replace('/', "~1"));
            let path =
                pointer.parse::<Path>().map_err(|_| "CONNECT_ELASTICSEARCH_TIMESTAMP_FIELD is empty".to_owned())?;
            Ok::<_, String>((field.clone(), path))
        };
        Ok(Self {
            action: config.action,
            index: config.index.clone(),
            id: config.id.clone(),
            version,
            version_type: if equal_wins { b"external_gte" } else { b"external" },
            routing: config.routing.clone(),
            pipeline: config.pipeline.clone(),
            require_alias: config.require_alias,
            timestamp: config.timestamp_field.as_ref().map(pointer).transpose()?,
            update: Update::new(config)?,
            epoch: 0,
        })
    }

    /// Guards as in this epoch: offsets of a higher one are newer.
    pub fn in_epoch(self, epoch: u16) -> Self {
        Self { epoch, update: self.update.map(|update| update.in_epoch(epoch)), ..self }
    }

    /// The action for a record.
    ///
    /// # Errors
    /// Why it can't be written.
    pub fn prepare(&self, record: &Record) -> Result<Op, Rejection> {
        let value = record.value.as_ref();
        let kind = match (self.action, value) {
            // A guarded document can't be deleted without losing its guard: the script empties it.
            (_, None) if self.update.as_ref().is_some_and(Update::is_guarded) => Kind::Update,
            (_, None) => Kind::Delete,
            (Action::Index, _) => Kind::Index,
            (Action::Create, _) => Kind::Create,
            (Action::Update | Action::Script, _) => Kind::Update,
        };
        let body = match (kind, value) {
            (Kind::Delete, _) => None,
            (Kind::Update, value) => Some(self.update(record, value)?),
            (_, Some(value)) => Some(self.document(record, value)?),
            (_, None) => return Err(Rejection::new("the value is null")),
        };
        LINES.with_borrow_mut(|line| {
            if line.capacity() < 512 {
                *line = BytesMut::with_capacity(CHUNK);
            }
            let written = self.write_line(kind, record, line);
            // Taken off in any case, so that nothing of a rejected record stays in the next line.
            let line = line.split().freeze();
            let (from, to) = written?;
            let target = if from == to { unique(record) } else { line.slice(from..to) };
            Ok(Op { kind, line, target, body })
        })
    }

    /// Writes the action line, and says where the target stands in it; nowhere where the id is generated.
    fn write_line(&self, kind: Kind, record: &Record, line: &mut BytesMut) -> Result<(usize, usize), Rejection> {
        line.extend_from_slice(b"{\"");
        line.extend_from_slice(kind.word());
        line.extend_from_slice(b"\":{");
        let from = line.len();
        line.extend_from_slice(b"\"_index\":");
        text("CONNECT_ELASTICSEARCH_INDEX", record, &self.index, line, |index| match index {
            "" => Err("the index has no name".to_owned()),
            // Elasticsearch would calculate with dates in it: no record may ask for that.
            _ if index.starts_with('<') => Err("the name of the index begins with <".to_owned()),
            _ => Ok(()),
        })?;
        let has_id = self.write_id(kind, record, line)?;
        if let Some(routing) = &self.routing {
            line.extend_from_slice(b",\"routing\":");
            text("CONNECT_ELASTICSEARCH_ROUTING", record, routing, line, |_| Ok(()))?;
        }
        let to = if has_id { line.len() } else { from };
        if let Some(pipeline) = &self.pipeline
            && matches!(kind, Kind::Index | Kind::Create)
        {
            line.extend_from_slice(b",\"pipeline\":");
            text("CONNECT_ELASTICSEARCH_PIPELINE", record, pipeline, line, |_| Ok(()))?;
        }
        if self.require_alias && kind != Kind::Delete {
            line.extend_from_slice(b",\"require_alias\":true");
        }
        if kind == Kind::Update {
            // Two partitions that update one document meet now and then.
            line.extend_from_slice(b",\"retry_on_conflict\":3");
        } else if let Some(version) = self.version_of(record)? {
            line.extend_from_slice(b",\"version\":");
            append_number(line, version);
            line.extend_from_slice(b",\"version_type\":\"");
            line.extend_from_slice(self.version_type);
            line.extend_from_slice(b"\"");
        }
        line.extend_from_slice(b"}}\n");
        Ok((from, to))
    }

    fn write_id(&self, kind: Kind, record: &Record, line: &mut BytesMut) -> Result<bool, Rejection> {
        let short = |id: &str| match id.len() {
            0 => Err("the id is empty".to_owned()),
            length if length > LONGEST_ID => {
                Err(format!("the id has {length} bytes, and Elasticsearch takes {LONGEST_ID}"))
            }
            _ => Ok(()),
        };
        let template = match &self.id {
            Some(IdFrom::Generated) if kind == Kind::Delete => {
                return Err(Rejection::new(
                    "a document with a generated id can't be deleted; set CONNECT_TOMBSTONES=ignore to leave tombstones out",
                ));
            }
            Some(IdFrom::Generated) => return Ok(false),
            Some(IdFrom::Template(template)) => Some(template),
            None => None,
        };
        line.extend_from_slice(b",\"_id\":");
        match (template, &record.key) {
            (Some(template), _) => text("CONNECT_ELASTICSEARCH_ID", record, template, line, short)?,
            (None, Some(key)) => quoted("the record's key", key, line, short)?,
            (None, None) => {
                let id = format!("{}+{}+{}", record.topic, record.partition, record.offset);
                quoted("the id", id.as_bytes(), line, short)?;
            }
        }
        Ok(true)
    }

    fn version_of(&self, record: &Record) -> Result<Option<i64>, Rejection> {
        match &self.version {
            VersionFrom::None => Ok(None),
            VersionFrom::Offset => Ok(Some(in_order(self.epoch, record.offset))),
            VersionFrom::Timestamp if record.timestamp < 0 => {
                Err(Rejection::new("the record has no timestamp, and CONNECT_ELASTICSEARCH_VERSION=timestamp"))
            }
            VersionFrom::Timestamp => Ok(Some(record.timestamp)),
            VersionFrom::Header(name) => {
                let number = record.header(name).and_then(|value| std::str::from_utf8(value).ok()?.parse::<i64>().ok());
                let version = number.filter(|number| *number >= 0).ok_or_else(|| {
                    Rejection::new(format!(
                        "the header {name:?} is no whole number from 0, and CONNECT_ELASTICSEARCH_VERSION=header:{name}"
                    ))
                })?;
                Ok(Some(version))
            }
        }
    }

    /// The value as the line of a document.
    fn document(&self, record: &Record, value: &Bytes) -> Result<Bytes, Rejection> {
        if value.iter().all(u8::is_ascii_whitespace) {
            return Err(Rejection::new("the value is empty, not a JSON object"));
        }
        check_utf8(value)?;
        let value = match &self.timestamp {
            Some((field, path)) => with_timestamp(record, value, field, path)?,
            None => value.clone(),
        };
        Ok(one_line(value))
    }

    /// The record's part of an update.
    fn update(&self, record: &Record, value: Option<&Bytes>) -> Result<Bytes, Rejection> {
        let Some(update) = &self.update else { return Err(Rejection::new("the action is no update")) };
        let value = match (value, &self.timestamp) {
            (None, _) => None,
            (Some(value), timestamp) => {
                // It becomes a part of a larger document, so it has to be whole: anything else could add to that document.
                check_object(value)?;
                check_utf8(value)?;
                Some(match timestamp {
                    Some((field, path)) => with_timestamp(record, value, field, path)?,
                    None => value.clone(),
                })
            }
        };
        Ok(one_line(update.part(record, value)))
    }

    /// What stands around that part; `None` where the action is no update.
    pub(crate) fn around(&self) -> Option<&Update> {
        self.update.as_ref()
    }
}

/// Renders a template as a JSON string.
fn text(
    setting: &str,
    record: &Record,
    template: &Template,
    line: &mut BytesMut,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<(), Rejection> {
    TEXT.with_borrow_mut(|text| {
        text.clear();
        template.append(record, text)?;
        quoted(setting, text, line, check)
    })
}

/// Appends a JSON string.
fn quoted(
    what: &str,
    text: &[u8],
    line: &mut BytesMut,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<(), Rejection> {
    let text = std::str::from_utf8(text).map_err(|_| Rejection::new(format!("{what} is not UTF-8")))?;
    check(text).map_err(|problem| Rejection::new(format!("{what}: {problem}")))?;
    append_string(line, text);
    Ok(())
}

/// What no other record has.
fn unique(record: &Record) -> Bytes {
    let mut target = BytesMut::with_capacity(20);
    append_number(&mut target, record.offset);
    target.freeze()
}

/// Of anything else the server would guess the encoding, or put other letters in.
fn check_utf8(value: &[u8]) -> Result<(), Rejection> {
    std::str::from_utf8(value).map(drop).map_err(|_| Rejection::new("the value is not UTF-8"))
}

fn check_object(value: &[u8]) -> Result<(), Rejection> {
    let object = value.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if !object {
        return Err(Rejection::new("the value is not a JSON object"));
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(value).map(drop).map_err(|error| {
        Rejection::new(format!("the value is not valid JSON at line {}, column {}", error.line(), error.column()))
    })
}

/// The document with the record's timestamp where it has none.
fn with_timestamp(record: &Record, value: &Bytes, field: &str, path: &Path) -> Result<Bytes, Rejection> {
    let found = path.find(value).map_err(|error| Rejection::new(format!("the value is {error}")))?;
    if found.is_some() {
        return Ok(value.clone());
    }
    let Some(brace) = value.iter().position(|byte| *byte == b'{').filter(|_| record.timestamp >= 0) else {
        return Err(Rejection::new(format!("the value has no field {field:?} and the record has no timestamp")));
    };
    check_object(value)?;
    let rest = &value[brace + 1..];
    let empty = rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
    let mut document = BytesMut::with_capacity(value.len() + field.len() + 32);
    document.extend_from_slice(b"{");
    append_string(&mut document, field);
    document.extend_from_slice(b":");
    append_number(&mut document, record.timestamp);
    if !empty {
        document.extend_from_slice(b",");
    }
    document.extend_from_slice(rest);
    Ok(document.freeze())
}

/// A line break would end the document in the middle. Outside of strings it is as good as a space, and inside of one
/// it is no JSON either way.
fn one_line(value: Bytes) -> Bytes {
    if !value.contains(&b'\n') && !value.contains(&b'\r') {
        return value;
    }
    value.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}

#[cfg(test)]
#[path = "op_tests.rs"]
mod tests;
