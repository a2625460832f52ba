//! The fields of a hash or a stream entry, from a JSON object.

use std::borrow::Cow;
use std::collections::HashSet;

use connect_core::config::List;
use connect_core::decode::{self, Json, Path};
use connect_core::{Record, Rejection};

use crate::config::Nested;

/// Objects inside objects inside objects: deeper than anything sane, shallow enough for the stack.
const DEEPEST: usize = 32;
/// How an object becomes fields.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The paths that are taken; all if unset.
    pub fields: Option<List<Path>>,
    /// What becomes of objects inside.
    pub nested: Nested,
    /// What stands between the names of an object and of its fields.
    pub separator: String,
}

/// Names and values; `None` for a field that is not to be.
pub type Fields<'a> = Vec<(String, Option<Cow<'a, str>>)>;

impl Shape {
    /// The fields of the record's value.
    ///
    /// # Errors
    /// The value is no JSON object, or one that is nested too deep.
    pub fn fields<'a>(&self, record: &'a Record) -> Result<Fields<'a>, Rejection> {
        let value = record.value.as_deref().unwrap_or_default();
        let not_json = |error| Rejection::new(format!("the value can't be read: {error}"));
        let object = decode::object(value).map_err(not_json)?.ok_or_else(|| {
            Rejection::new(
                "the value is no JSON object, whose members could be fields: set CONNECT_REDIS_FIELD to keep it in one",
            )
        })?;
        let mut fields = Vec::new();
        match &self.fields {
            Some(paths) => {
                for path in paths.iter() {
                    let found = path.find(value).map_err(not_json)?;
                    fields.push((path.to_string(), found.map(Json::text)));
                }
            }
            None => self.flatten("", object, 0, &mut fields)?,
        }
        Ok(last_of_each_name(fields))
    }

    fn flatten<'a>(
        &self,
        prefix: &str,
        object: Vec<(String, Json<'a>)>,
        depth: usize,
        fields: &mut Fields<'a>,
    ) -> Result<(), Rejection> {
        if depth > DEEPEST {
            return Err(Rejection::new(format!(
                "the value has objects more than {DEEPEST} deep: set CONNECT_REDIS_NESTED=json"
            )));
        }
        for (name, json) in object {
            let name = if prefix.is_empty() { name } else { format!("{prefix}{}{name}", self.separator) };
            let inner = match self.nested {
                Nested::Flatten => {
                    json.object().map_err(|error| Rejection::new(format!("the value can't be read: {error}")))?
                }
                Nested::Json => None,
            };
            match inner {
                Some(inner) => self.flatten(&name, inner, depth + 1, fields)?,
                None => fields.push((name, (!json.is_null()).then(|| json.text()))),
            }
        }
        Ok(())
    }
}

/// Of repeated names the last one counts, as in JSON: where it is null the field must not be there, where it is not it must.
fn last_of_each_name(mut fields: Fields<'_>) -> Fields<'_> {
    // Without a null the server keeps the last one by itself.
    if fields.iter().any(|(_, value)| value.is_none()) {
        let mut seen = HashSet::with_capacity(fields.len());
        fields.reverse();
        fields.retain(|(name, _)| seen.insert(name.clone()));
        fields.reverse();
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use connect_core::config::Setting;

    fn fields(shape: &Shape, value: &str) -> Result<Vec<(String, Option<String>)>, String> {
        let record = Record {
            topic: "t".into(),
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: None,
            value: Some(value.to_owned().into()),
            headers: Vec::new(),
        };
        let fields = shape.fields(&record).map_err(|rejection| rejection.to_string())?;
        Ok(fields.into_iter().map(|(name, value)| (name, value.map(Cow::into_owned))).collect())
    }

    fn some(name: &str, value: &str) -> (String, Option<String>) {
        (name.to_owned(), Some(value.to_owned()))
    }

    fn none(name: &str) -> (String, Option<String>) {
        (name.to_owned(), None)
    }

    const VALUE: &str = r#"{"a":1.50,"b":{"c":"x\ny","d":{"e":[1,2]},"n":null},"t":true}"#;

    #[test]
    fn objects_inside_are_flattened_or_kept() {
        let mut shape = Shape { fields: None, nested: Nested::Flatten, separator: ":".into() };
        let flat = [some("a", "1.50"), some("b:c", "x\ny"), some("b:d:e", "[1,2]"), none("b:n"), some("t", "true")];
        assert_eq!(fields(&shape, VALUE).unwrap(), flat);
        shape.nested = Nested::Json;
        let kept = [some("a", "1.50"), some("b", r#"{"c":"x\ny","d":{"e":[1,2]},"n":null}"#), some("t", "true")];
        assert_eq!(fields(&shape, VALUE).unwrap(), kept);
        shape.fields = Some(List::parse("b.c,q,t").unwrap());
        assert_eq!(fields(&shape, VALUE).unwrap(), [some("b.c", "x\ny"), none("q"), some("t", "true")]);
    }

    #[test]
    fn what_can_be_no_fields_is_a_rejection() {
        let shape = Shape { fields: None, nested: Nested::Flatten, separator: ".".into() };
        for value in ["", "7", "[1]", "{\"a\":", "null", "\"x\""] {
            assert!(fields(&shape, value).is_err(), "{value}");
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100));
        assert!(fields(&shape, &deep).unwrap_err().contains("CONNECT_REDIS_NESTED"), "{deep}");
    }

    #[test]
    fn of_repeated_names_the_last_one_counts() {
        let shape = Shape { fields: None, nested: Nested::Flatten, separator: ".".into() };
        assert_eq!(fields(&shape, r#"{"a":null,"b":2,"a":1}"#).unwrap(), [some("b", "2"), some("a", "1")]);
        assert_eq!(fields(&shape, r#"{"a":1,"b":2,"a":null}"#).unwrap(), [some("b", "2"), none("a")]);
        assert_eq!(fields(&shape, r#"{"a":{"b":null},"a.b":1}"#).unwrap(), [some("a.b", "1")]);
    }
}
