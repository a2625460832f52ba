//! What of a record's value is stored: pure, no I/O.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use connect_core::Rejection;
use connect_core::decode::{NotJson, Path};
use serde::Serializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::{CouchbaseConfig, Format};

/// The content that a value gives.
///
/// # Errors
/// A [`Rejection`] that names what the value lacks.
pub fn of(config: &CouchbaseConfig, value: &Bytes) -> Result<Bytes, Rejection> {
    if config.format == Format::Binary {
        return Ok(value.clone());
    }
    let content = match &config.value_path {
        Some(path) => part(path, value)?,
        None => {
            serde_json::from_slice::<IgnoredAny>(value).map_err(|error| not_json(error.into()))?;
            value.clone()
        }
    };
    match &config.remove_field {
        Some(field) => without(field, &content),
        None => Ok(content),
    }
}

fn part(path: &Path, value: &Bytes) -> Result<Bytes, Rejection> {
    let found = path.find(value).map_err(not_json)?;
    let found = found.ok_or_else(|| {
        Rejection::new(format!("the value has nothing at {path}, which CONNECT_COUCHBASE_VALUE_PATH names"))
    })?;
    Ok(value.slice_ref(found.raw().as_bytes()))
}

fn not_json(error: NotJson) -> Rejection {
    Rejection::new(format!("the value is {error}; CONNECT_COUCHBASE_FORMAT=binary stores anything"))
}

/// The same object without one field; digits and the order of the others stay as they are.
fn without(field: &str, content: &Bytes) -> Result<Bytes, Rejection> {
    let mut deserializer = serde_json::Deserializer::from_slice(content);
    let fields = deserializer
        .deserialize_map(Fields)
        .map_err(|_| Rejection::new(format!("the value is no object, so the field {field} can't be left out of it")))?;
    if fields.iter().all(|(name, _)| name != field) {
        return Ok(content.clone());
    }
    let mut out = Vec::with_capacity(content.len());
    let kept = fields.iter().filter(|(name, _)| name != field).map(|(name, value)| (name, value));
    serde_json::Serializer::new(&mut out)
        .collect_map(kept)
        .map_err(|_| Rejection::new("the value can't be written as JSON again"))?;
    Ok(out.into())
}

/// The fields of an object with their values as they were written.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::tests::config;

    fn content(pairs: &[(&str, &str)], value: &'static str) -> Result<String, String> {
        let content = of(&config(pairs), &Bytes::from_static(value.as_bytes()));
        content.map(|content| String::from_utf8(content.to_vec()).unwrap()).map_err(|rejection| rejection.to_string())
    }

    #[test]
    fn the_whole_of_it_or_a_part() {
        assert_eq!(content(&[], r#" {"a":1.50} "#).as_deref(), Ok(r#" {"a":1.50} "#));
        let path = [("VALUE_PATH", "a.b")];
        assert_eq!(
            content(&path, r#"{"a":{"b":{"c":12345678901234567890123}}}"#).as_deref(),
            Ok(r#"{"c":12345678901234567890123}"#)
        );
        assert!(content(&path, r#"{"a":1}"#).unwrap_err().contains("nothing at a.b"));
        assert!(content(&[], "secret").unwrap_err().starts_with("the value is not valid JSON at line 1"));
        assert!(content(&[], "").is_err());
        let binary = [("FORMAT", "binary"), ("GUARD", "off")];
        assert_eq!(content(&binary, "anything").as_deref(), Ok("anything"));
    }

    #[test]
    fn a_field_is_left_out() {
        let id = [("REMOVE_FIELD", "id")];
        assert_eq!(content(&id, r#"{"id":"x","n":1.50,"é":{"id":2}}"#).as_deref(), Ok(r#"{"n":1.50,"é":{"id":2}}"#));
        assert_eq!(content(&id, r#"{"n":1}"#).as_deref(), Ok(r#"{"n":1}"#));
        assert_eq!(content(&id, r#"{"\u0069d":1}"#).as_deref(), Ok("{}"), "an escaped name is the same name");
        assert!(content(&id, "[1]").unwrap_err().contains("no object"));
    }
}
