//! The answer to a bulk request, read item by item without building it in memory.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What is asked of the server: no more than what is looked at.
pub(crate) const FILTER: &str = "items.*.status,items.*.result,items.*.error.type,items.*.error.reason,\
     items.*.error.caused_by.type,items.*.error.caused_by.reason,items.*.error.caused_by.caused_by.type,\
     items.*.error.caused_by.caused_by.reason,error,status";

/// What became of one action.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ItemAnswer {
    /// As the status of an HTTP answer.
    pub(crate) status: u16,
    /// An update that changed nothing.
    pub(crate) noop: bool,
    /// Why it failed.
    pub(crate) error: Option<Cause>,
}

/// Why something failed, in the server's words.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Cause {
    /// The name of the exception: `document_parsing_exception`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) reason: Option<String>,
    pub(crate) caused_by: Option<Box<Cause>>,
}

/// Reads an answer, and gives each item to `each` in order. Returns how many there were.
///
/// # Errors
/// It isn't the answer to a bulk request.
pub(crate) fn read(answer: &[u8], each: impl FnMut(usize, ItemAnswer)) -> Result<usize, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(answer);
    let count = Answer(each).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(count)
}

struct Answer<F>(F);

impl<'de, F: FnMut(usize, ItemAnswer)> DeserializeSeed<'de> for Answer<F> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(usize, ItemAnswer)> Visitor<'de> for Answer<F> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer to a bulk request")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some(name) = map.next_key::<Name>()? {
            match name {
                Name::Items => count += map.next_value_seed(Items(&mut self.0))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(count)
    }
}

struct Items<'a, F>(&'a mut F);

impl<'de, F: FnMut(usize, ItemAnswer)> DeserializeSeed<'de> for Items<'_, F> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(usize, ItemAnswer)> Visitor<'de> for Items<'_, F> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while let Some(item) = items.next_element::<Wrapped>()? {
            (self.0)(count, item.0);
            count += 1;
        }
        Ok(count)
    }
}

/// An item stands in an object whose only name is the action's.
struct Wrapped(ItemAnswer);

impl<'de> Deserialize<'de> for Wrapped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Wrapping;
        impl<'de> Visitor<'de> for Wrapping {
            type Value = Wrapped;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wrapped, A::Error> {
                let mut item = ItemAnswer::default();
                while map.next_key::<IgnoredAny>()?.is_some() {
                    item = map.next_value::<Plain>()?.0;
                }
                Ok(Wrapped(item))
            }
        }
        deserializer.deserialize_map(Wrapping)
    }
}

/// An item itself.
struct Plain(ItemAnswer);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Plain;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plain, A::Error> {
                let mut item = ItemAnswer::default();
                while let Some(name) = map.next_key::<Name>()? {
                    match name {
                        Name::Status => item.status = map.next_value()?,
                        Name::Result => item.noop = map.next_value::<Effect>()? == Effect::Noop,
                        Name::Error => item.error = Some(map.next_value()?),
                        Name::Items | Name::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Plain(item))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Names that matter.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    Items,
    Status,
    Result,
    Error,
    #[serde(other)]
    Other,
}

/// What an action did.
#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Effect {
    Noop,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(answer: &str) -> Result<Vec<ItemAnswer>, serde_json::Error> {
        let mut items = Vec::new();
        let count = read(answer.as_bytes(), |index, item| {
            assert_eq!(index, items.len());
            items.push(item);
        })?;
        assert_eq!(count, items.len());
        Ok(items)
    }

    #[test]
    fn every_item_is_read() {
        let answer = r#"{"took":3,"errors":true,"items":[
            {"index":{"_index":"a","_id":"1","status":201,"result":"created","_shards":{"total":2}}},
            {"update":{"status":200,"result":"noop"}},
            {"delete":{"status":400,"error":{"type":"t","reason":"r","caused_by":{"type":"c","reason":null},"index":"a"}}},
            {"create":{}}]}"#;
        let items = items(answer).unwrap();
        assert_eq!(items[0], ItemAnswer { status: 201, noop: false, error: None });
        assert_eq!(items[1], ItemAnswer { status: 200, noop: true, error: None });
        let cause = items[2].error.as_ref().unwrap();
        assert_eq!((cause.kind.as_str(), cause.reason.as_deref()), ("t", Some("r")));
        assert_eq!(cause.caused_by.as_ref().unwrap().kind, "c");
        assert_eq!(items[3].status, 0, "an item that says nothing is no success");
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_an_error() {
        for answer in [
            "",
            "<html>",
            "[]",
            r#"{"items":{}}"#,
            r#"{"items":[{"index":{"status":201}}"#,
            r#"{"items":[{"index":{"status":201}}]} more"#,
            r#"{"items":[{"index":{"status":-1}}]}"#,
        ] {
            assert!(items(answer).is_err(), "{answer}");
        }
        assert_eq!(items("{}").unwrap(), []);
    }
}
