//! Finds one value in a JSON document without building the document.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::{Setting, from_str};

/// The way to a value inside a JSON document: `user.address.0.city`, or a JSON pointer (RFC 6901) when it starts
/// with a slash, for names that hold dots: `/user.name/first`. A number is an index where the document has an array.
#[derive(Clone, PartialEq, Eq)]
pub struct Path {
    source: String,
    segments: Vec<String>,
}

/// A path that names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path {0:?} has an empty part: write names with dots between them (a.b.c) or a JSON pointer (/a/b/c)")]
pub struct PathError(String);

/// The bytes are not one JSON document. Says where, never what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid JSON at line {line}, column {column}")]
pub struct NotJson {
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1.
    pub column: usize,
}

impl From<serde_json::Error> for NotJson {
    fn from(error: serde_json::Error) -> Self {
        Self { line: error.line(), column: error.column() }
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(source: &str) -> Result<Self, PathError> {
        let segments: Vec<String> = match source.strip_prefix('/') {
            Some(pointer) => pointer.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect(),
            None => source.split('.').map(str::to_owned).collect(),
        };
        if segments.iter().any(String::is_empty) {
            return Err(PathError(source.to_owned()));
        }
        Ok(Self { source: source.to_owned(), segments })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl Path {
    /// The value at this path; `None` when there is none or it is null. The last of repeated names counts.
    ///
    /// # Errors
    /// [`NotJson`], wherever in the document the fault is: the whole of it is read.
    pub fn find<'a>(&self, document: &'a [u8]) -> Result<Option<Json<'a>>, NotJson> {
        let mut deserializer = serde_json::Deserializer::from_slice(document);
        let found = Walk(&self.segments).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(found.map(|raw| Json(raw.get())).filter(|json| !json.is_null()))
    }
}

impl Setting for Path {
    fn expected() -> String {
        "a path such as `user.id` or `/user/id`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        from_str(text)
    }
}

/// The names and values of an object, in its order, names repeated as they are; `None` when it is no object.
///
/// # Errors
/// [`NotJson`].
pub fn object(document: &[u8]) -> Result<Option<Vec<(String, Json<'_>)>>, NotJson> {
    let mut deserializer = serde_json::Deserializer::from_slice(document);
    let whole = <&RawValue>::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Json(whole.get()).object()
}

/// A value as it stands in its document: numbers keep every digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// The JSON text.
    pub fn raw(self) -> &'a str {
        self.0
    }

    /// Whether it is `null`.
    pub fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// The names and values of an object, as [`object`] gives them.
    ///
    /// # Errors
    /// [`NotJson`] when a name holds what is no text.
    pub fn object(self) -> Result<Option<Vec<(String, Json<'a>)>>, NotJson> {
        if !self.is_object() {
            return Ok(None);
        }
        Ok(Some(serde_json::Deserializer::from_str(self.0).deserialize_map(Pairs)?))
    }

    /// The content of a string; the JSON text of anything else.
    pub fn text(self) -> Cow<'a, str> {
        let Some(quoted) = self.0.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return Cow::Borrowed(self.0);
        };
        if !quoted.contains('\\') {
            return Cow::Borrowed(quoted);
        }
        // A string with escapes. It was read once already, so only a lone surrogate can fail here.
        serde_json::from_str(self.0).map_or(Cow::Borrowed(quoted), Cow::Owned)
    }
}

/// Walks down one path and passes over everything beside it.
struct Walk<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            return <&RawValue>::deserialize(deserializer).map(Some);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((name, rest)) = self.0.split_first() else {
            return Err(A::Error::custom("a path ended before its value"));
        };
        let mut found = None;
        while let Some(matches) = map.next_key_seed(Is(name))? {
            if matches {
                found = map.next_value_seed(Walk(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((index, rest)) = self.0.split_first() else {
            return Err(A::Error::custom("a path ended before its value"));
        };
        let mut found = None;
        if let Ok(index) = index.parse::<usize>() {
            for _ in 0..index {
                if seq.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(None);
                }
            }
            found = seq.next_element_seed(Walk(rest))?.flatten();
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Gathers names and values.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, Json<'de>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            pairs.push((name, Json(value.get())));
        }
        Ok(pairs)
    }
}

/// Compares a name without copying it.
struct Is<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str, document: &str) -> Option<String> {
        let path: Path = path.parse().unwrap();
        path.find(document.as_bytes()).unwrap().map(|json| json.text().into_owned())
    }

    #[test]
    fn walks_objects_and_arrays() {
        let document = r#" {"a":{"b":[10,{"c":"x"}],"b.c":"dotted","n":null},"z":1.50,"big":12345678901234567890123} "#;
        assert_eq!(find("a.b.0", document).as_deref(), Some("10"));
        assert_eq!(find("a.b.1.c", document).as_deref(), Some("x"));
        assert_eq!(find("/a/b.c", document).as_deref(), Some("dotted"));
        assert_eq!(find("a.b", document).as_deref(), Some(r#"[10,{"c":"x"}]"#));
        assert_eq!(find("z", document).as_deref(), Some("1.50"), "digits stay as they were written");
        assert_eq!(find("big", document).as_deref(), Some("12345678901234567890123"));
        for absent in ["a.n", "a.n.x", "a.b.2", "a.b.x", "a.b.0.y", "z.y", "q"] {
            assert_eq!(find(absent, document), None, "{absent}");
        }
    }

    #[test]
    fn reads_escapes_and_takes_the_last_of_repeated_names() {
        assert_eq!(find("a", r#"{"a":"x\"\u00e9\n"}"#).as_deref(), Some("x\"é\n"));
        assert_eq!(find("\u{e9}", r#"{"\u00e9":1,"\u00e9":2}"#).as_deref(), Some("2"));
        assert_eq!(find("/a~1b~0c", r#"{"a/b~c":7}"#).as_deref(), Some("7"));
    }

    #[test]
    fn a_fault_anywhere_is_found_and_its_content_is_not_told() {
        let path: Path = "a".parse().unwrap();
        for document in [r#"{"a":1,"secret"}"#, r#"{"a":1} secret"#, "", "secret", "\"\u{1}secret\"", r#"{"a":"#] {
            let error = path.find(document.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("not valid JSON at line 1"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(path.find(b"{\"a\":\"\xff\"}").is_err(), "invalid UTF-8 in what is asked for");
    }

    #[test]
    fn an_object_gives_its_values_as_they_are() {
        let pairs = object(br#" {"a":1.0,"b":{"c":[1]},"n":null} "#).unwrap().unwrap();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, json)| (name.as_str(), json.raw())).collect();
        assert_eq!(pairs, [("a", "1.0"), ("b", r#"{"c":[1]}"#), ("n", "null")]);
        for document in ["1", "[]", "\"{\"", "null"] {
            assert_eq!(object(document.as_bytes()).unwrap(), None, "{document}");
        }
        assert!(object(b"{} x").is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!("a".parse::<Path>().unwrap().find(deep.as_bytes()).is_err());
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!("a".parse::<Path>().unwrap().find(deep.as_bytes()).is_ok(), "what is passed over needs no stack");
    }

    #[test]
    fn a_path_without_a_name_is_refused() {
        for path in ["", "a..b", ".a", "a.", "/", "/a//b"] {
            assert!(path.parse::<Path>().is_err(), "{path:?}");
        }
    }
}
