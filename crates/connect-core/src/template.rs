//! Text made from a record: `session:{key}`, `events-{timestamp:%Y.%m.%d}`, `{value.user.id}`.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use chrono::format::{Item, StrftimeItems};

use crate::config::{Setting, from_str};
use crate::decode::Path;
use crate::record::Record;
use crate::sink::Rejection;

/// A template, parsed once. Placeholders: `{key}`, `{value}`, `{topic}`, `{partition}`, `{offset}`, `{timestamp}`
/// (milliseconds), `{timestamp:%Y.%m.%d}` (UTC), `{header.NAME}`, `{key.PATH}` and `{value.PATH}` (JSON, see
/// [`Path`]); `{{` and `}}` stand for braces.
#[derive(Clone)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone)]
enum Part {
    Literal(Bytes),
    Placeholder(Placeholder),
}

#[derive(Clone)]
enum Placeholder {
    Key,
    Value,
    Topic,
    Partition,
    Offset,
    Timestamp,
    Date(Vec<Item<'static>>, String),
    Header(String),
    InKey(Path),
    InValue(Path),
}

/// Why a template can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// Nothing at all.
    #[error("a template must not be empty")]
    Empty,
    /// `{` without `}`.
    #[error("the brace opened at character {0} is never closed; write {{{{ for a brace that is meant as one")]
    Unclosed(usize),
    /// `}` without `{`.
    #[error("the brace at character {0} closes nothing; write }}}} for a brace that is meant as one")]
    Unopened(usize),
    /// Not a name that is known.
    #[error(
        "{{{0}}} is no placeholder; there are {{key}} {{value}} {{topic}} {{partition}} {{offset}} {{timestamp}} \
         {{timestamp:%Y.%m.%d}} {{header.NAME}} {{key.PATH}} {{value.PATH}}"
    )]
    Unknown(String),
    /// Not a date format.
    #[error("{0:?} is no date format; an example is {{timestamp:%Y.%m.%d}}")]
    Date(String),
    /// A path or header without a name.
    #[error("{{{0}}} lacks a name: write {{header.NAME}}, {{value.a.b}} or {{value./a/b}}")]
    Name(String),
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Self, TemplateError> {
        if source.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            let position = source[..source.len() - rest.len() + at].chars().count() + 1;
            literal.push_str(&rest[..at]);
            let brace = &rest[at..];
            if let Some(after) = brace.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = brace.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if brace.starts_with('}') {
                return Err(TemplateError::Unopened(position));
            } else {
                let end = brace.find('}').ok_or(TemplateError::Unclosed(position))?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Placeholder(brace[1..end].parse()?));
                rest = &brace[end + 1..];
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self { source: source.to_owned(), parts })
    }
}

impl FromStr for Placeholder {
    type Err = TemplateError;

    fn from_str(name: &str) -> Result<Self, TemplateError> {
        let path = |path: &str| path.parse::<Path>().map_err(|_| TemplateError::Name(name.to_owned()));
        Ok(match name {
            "key" => Self::Key,
            "value" => Self::Value,
            "topic" => Self::Topic,
            "partition" => Self::Partition,
            "offset" => Self::Offset,
            "timestamp" => Self::Timestamp,
            _ => {
                if let Some(format) = name.strip_prefix("timestamp:") {
                    Self::Date(date_items(format)?, format.to_owned())
                } else if let Some(header) = name.strip_prefix("header.") {
                    if header.is_empty() {
                        return Err(TemplateError::Name(name.to_owned()));
                    }
                    Self::Header(header.to_owned())
                } else if let Some(rest) = name.strip_prefix("value.") {
                    Self::InValue(path(rest)?)
                } else if let Some(rest) = name.strip_prefix("key.") {
                    Self::InKey(path(rest)?)
                } else {
                    return Err(TemplateError::Unknown(name.to_owned()));
                }
            }
        })
    }
}

fn date_items(format: &str) -> Result<Vec<Item<'static>>, TemplateError> {
    let items = StrftimeItems::new(format).parse_to_owned().map_err(|_| TemplateError::Date(format.to_owned()))?;
    if items.is_empty() {
        return Err(TemplateError::Date(format.to_owned()));
    }
    Ok(items)
}

impl Setting for Template {
    fn expected() -> String {
        "a template such as `session:{key}`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        from_str(text)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Template {}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("{key}"),
            Self::Value => f.write_str("{value}"),
            Self::Topic => f.write_str("{topic}"),
            Self::Partition => f.write_str("{partition}"),
            Self::Offset => f.write_str("{offset}"),
            Self::Timestamp => f.write_str("{timestamp}"),
            Self::Date(_, format) => write!(f, "{{timestamp:{format}}}"),
            Self::Header(name) => write!(f, "{{header.{name}}}"),
            Self::InKey(path) => write!(f, "{{key.{path}}}"),
            Self::InValue(path) => write!(f, "{{value.{path}}}"),
        }
    }
}

/// Rendered texts are split off one buffer: an allocation a few hundred records, not one each.
const CHUNK: usize = 16 * 1024;

thread_local! {
    static BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(CHUNK));
}

impl Template {
    /// The text for this record. A template that is nothing but `{key}`, `{value}` or `{header.NAME}` gives the
    /// record's own bytes without a copy.
    ///
    /// # Errors
    /// A [`Rejection`] that names the placeholder which the record has nothing for.
    pub fn render(&self, record: &Record) -> Result<Bytes, Rejection> {
        if let [Part::Placeholder(placeholder)] = self.parts.as_slice() {
            let own = match placeholder {
                Placeholder::Key => Some(record.key.as_ref()),
                Placeholder::Value => Some(record.value.as_ref()),
                Placeholder::Header(name) => Some(record.header(name)),
                _ => None,
            };
            if let Some(own) = own {
                return own.cloned().ok_or_else(|| placeholder.absent());
            }
        }
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.capacity() < 256 {
                *buffer = BytesMut::with_capacity(CHUNK);
            }
            let rendered = self.append(record, buffer);
            let text = buffer.split();
            rendered.map(|()| text.freeze())
        })
    }

    /// Appends the text for this record. What was appended before an error stays there.
    ///
    /// # Errors
    /// As for [`render`](Template::render).
    pub fn append(&self, record: &Record, out: &mut BytesMut) -> Result<(), Rejection> {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Placeholder(placeholder) => placeholder.append(record, out)?,
            }
        }
        Ok(())
    }
}

impl Placeholder {
    fn append(&self, record: &Record, out: &mut BytesMut) -> Result<(), Rejection> {
        match self {
            Self::Key => out.extend_from_slice(record.key.as_ref().ok_or_else(|| self.absent())?),
            Self::Value => out.extend_from_slice(record.value.as_ref().ok_or_else(|| self.absent())?),
            Self::Header(name) => out.extend_from_slice(record.header(name).ok_or_else(|| self.absent())?),
            Self::Topic => out.extend_from_slice(record.topic.as_bytes()),
            Self::Partition => append_number(out, record.partition.into()),
            Self::Offset => append_number(out, record.offset),
            Self::Timestamp if record.timestamp < 0 => return Err(self.absent()),
            Self::Timestamp => append_number(out, record.timestamp),
            Self::Date(items, _) => {
                let date = Some(record.timestamp).filter(|timestamp| *timestamp >= 0);
                let date = date.and_then(DateTime::from_timestamp_millis).ok_or_else(|| self.absent())?;
                write!(Text(out), "{}", date.format_with_items(items.iter())).map_err(|_| self.absent())?;
            }
            Self::InKey(path) => self.append_json(path, record.key.as_ref(), out)?,
            Self::InValue(path) => self.append_json(path, record.value.as_ref(), out)?,
        }
        Ok(())
    }

    fn append_json(&self, path: &Path, document: Option<&Bytes>, out: &mut BytesMut) -> Result<(), Rejection> {
        let document = document.ok_or_else(|| self.absent())?;
        let found = path.find(document).map_err(|error| Rejection::new(format!("{self} can't be read: {error}")))?;
        out.extend_from_slice(found.ok_or_else(|| self.absent())?.text().as_bytes());
        Ok(())
    }

    fn absent(&self) -> Rejection {
        Rejection::new(format!("the record has nothing for {self}"))
    }
}

fn append_number(out: &mut BytesMut, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// `BytesMut` itself refuses to grow as a `fmt::Write`.
struct Text<'a>(&'a mut BytesMut);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Header;

    fn record() -> Record {
        Record {
            topic: "clicks".into(),
            partition: 3,
            offset: 42,
            timestamp: 1_700_000_000_123,
            key: Some(Bytes::from_static(b"u1")),
            value: Some(Bytes::from_static(br#"{"user":{"id":7,"name":"Zo\u00eb"},"none":null}"#)),
            headers: vec![
                Header { key: "trace".into(), value: Some("first".into()) },
                Header { key: "trace".into(), value: Some("last".into()) },
                Header { key: "empty".into(), value: None },
            ],
        }
    }

    fn render(template: &str, record: &Record) -> Result<String, String> {
        let template: Template = template.parse().map_err(|error: TemplateError| error.to_string())?;
        let text = template.render(record).map_err(|rejection| rejection.to_string())?;
        Ok(String::from_utf8(text.to_vec()).unwrap())
    }

    #[test]
    fn every_placeholder() {
        let expected = [
            ("session:{key}", "session:u1"),
            ("{topic}-{partition}@{offset}", "clicks-3@42"),
            ("{timestamp}", "1700000000123"),
            ("logs-{timestamp:%Y.%m.%d %H}", "logs-2023.11.14 22"),
            ("{header.trace}!", "last!"),
            ("{header.trace}", "last"),
            ("{value.user.id}:{value./user/name}", "7:Zoë"),
            ("{value.user}", r#"{"id":7,"name":"Zo\u00eb"}"#),
            ("{{{key}}}:x", "{u1}:x"),
            ("{{}}", "{}"),
            ("plain", "plain"),
        ];
        for (template, text) in expected {
            assert_eq!(render(template, &record()).as_deref(), Ok(text), "{template}");
        }
        assert_eq!(render("{key.id}", &Record { key: Some(r#"{"id":"k"}"#.into()), ..record() }).as_deref(), Ok("k"));
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_of_it_leaks_into_the_next_text() {
        let bare = Record { key: None, value: None, timestamp: -1, ..record() };
        for placeholder in
            ["{key}", "{value}", "{timestamp}", "{timestamp:%Y}", "{header.empty}", "{key.a}", "{value.a}"]
        {
            let rejection = format!("the record has nothing for {placeholder}");
            assert_eq!(render(placeholder, &bare), Err(rejection.clone()));
            assert_eq!(render(&format!("session:{placeholder}"), &bare), Err(rejection));
        }
        assert_eq!(render("{topic}", &bare).as_deref(), Ok("clicks"));
        assert_eq!(render("{value.none}", &record()), Err("the record has nothing for {value.none}".into()));
        let text = Record { value: Some("no json".into()), ..record() };
        let rejection = render("{value.a}", &text).unwrap_err();
        assert!(rejection.starts_with("{value.a} can't be read: not valid JSON"), "{rejection}");
    }

    #[test]
    fn mistakes_say_where_and_what_to_write() {
        let mistakes = [
            ("", "must not be empty"),
            ("é{key", "opened at character 2 is never closed"),
            ("a}b", "at character 2 closes nothing"),
            ("{ke}", "{ke} is no placeholder; there are {key}"),
            ("{}", "{} is no placeholder"),
            ("{header.}", "{header.} lacks a name"),
            ("{value.a..b}", "lacks a name"),
            ("{timestamp:%Q}", "\"%Q\" is no date format"),
            ("{timestamp:}", "is no date format"),
        ];
        for (template, part) in mistakes {
            let error = render(template, &record()).unwrap_err();
            assert!(error.contains(part), "{template:?}: {error}");
        }
    }

    #[test]
    fn a_bare_key_is_the_records_own_buffer() {
        let record = record();
        let key = "{key}".parse::<Template>().unwrap().render(&record).unwrap();
        assert_eq!(key.as_ptr(), record.key.unwrap().as_ptr());
    }

    #[test]
    fn many_texts_share_one_buffer() {
        let template: Template = "session:{key}".parse().unwrap();
        let texts: Vec<Bytes> = (0..100).map(|_| template.render(&record()).unwrap()).collect();
        let adjacent = texts.windows(2).filter(|pair| pair[0].as_ptr_range().end == pair[1].as_ptr()).count();
        assert!(adjacent > 90, "{adjacent}");
    }

    #[test]
    fn a_year_that_no_calendar_has_is_a_rejection() {
        assert!(render("{timestamp:%Y}", &Record { timestamp: i64::MAX, ..record() }).is_err());
    }
}
