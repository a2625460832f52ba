//! What a record becomes in Couchbase: pure, no I/O.

use std::sync::Arc;

use bytes::Bytes;
use connect_core::expiry::{Ends, Expiry};
use connect_core::{Record, Rejection, Template};

use crate::config::{Action, CouchbaseConfig};
use crate::content;
use crate::keyspace::{Home, Keyspace};

/// The most bytes of a document's id in the default collection.
const LONGEST_ID: usize = 250;
/// The most in any other one: the server stores the collection's number, up to five bytes, with the id.
const LONGEST_ID_ELSEWHERE: usize = 246;

/// What is done to one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Where the document is.
    pub keyspace: Arc<Keyspace>,
    /// Id of the document.
    pub id: Bytes,
    /// Keyspace and id: different documents have different targets.
    pub target: Bytes,
    /// What happens to it.
    pub change: Change,
    /// When it ends.
    pub ends: Ends,
}

/// What happens to a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This is the document from now on.
    Upsert(Bytes),
    /// This is the document unless there is one.
    Insert(Bytes),
    /// This is the document if there is one.
    Replace(Bytes),
    /// There is no document from now on.
    Remove,
    /// This stands at the path.
    UpsertPath(Bytes),
    /// This is the last element of the array at the path.
    Append(Bytes),
    /// This is the first element of the array at the path.
    Prepend(Bytes),
    /// The number at the path is larger by this.
    CountPath(i64),
    /// The number that the document is, is larger by this.
    Count(i64),
    /// The expiry alone.
    Touch,
}

/// Makes operations of records.
#[derive(Debug)]
pub struct Mapping {
    config: CouchbaseConfig,
    expiry: Expiry,
    common: Home,
    topics: Vec<(String, Home)>,
    without_key: Template,
}

impl Mapping {
    /// The mapping that the settings describe.
    ///
    /// # Errors
    /// A template that can't be used.
    pub fn new(config: CouchbaseConfig) -> Result<Self, String> {
        let without_key = "{topic}/{partition}/{offset}".parse().map_err(|error| format!("{error}"))?;
        let expiry = Expiry::new("CONNECT_COUCHBASE_EXPIRY", config.expiry, config.expiry_from.clone());
        Ok(Self { common: Home::common(&config), topics: Home::of_topics(&config), config, expiry, without_key })
    }

    /// Where documents may be.
    pub fn homes(&self) -> impl Iterator<Item = &Home> {
        std::iter::once(&self.common).chain(self.topics.iter().map(|(_, home)| home))
    }

    /// Makes the operation of a record; `None` when it changes nothing.
    ///
    /// # Errors
    /// A [`Rejection`] that names what the record lacks.
    pub fn prepare(&self, record: &Record) -> Result<Option<Op>, Rejection> {
        let id = match &self.config.id {
            Some(template) => template.render(record)?,
            None => match &record.key {
                Some(key) => key.clone(),
                None => self.without_key.render(record)?,
            },
        };
        let own = self.topics.iter().find(|(topic, _)| **topic == *record.topic);
        let keyspace = own.map_or(&self.common, |(_, home)| home).of(record)?;
        check_id(&id, &keyspace)?;
        let Some(change) = self.change(record)? else { return Ok(None) };
        let ends = match change {
            Change::Remove => Ends::Never,
            _ => self.expiry.of(record)?,
        };
        // The ids alone tell documents apart when all are in one collection.
        let together = self.topics.is_empty() && self.common.fixed().is_some();
        let target = if together { id.clone() } else { keyspace.name_of(&id) };
        Ok(Some(Op { keyspace, id, target, change, ends }))
    }

    fn change(&self, record: &Record) -> Result<Option<Change>, Rejection> {
        let Some(value) = &record.value else { return Ok(Some(Change::Remove)) };
        let content = || content::of(&self.config, value);
        Ok(Some(match self.config.action {
            Action::Upsert if self.config.path.is_some() => Change::UpsertPath(content()?),
            Action::Upsert => Change::Upsert(content()?),
            Action::Insert => Change::Insert(content()?),
            Action::Replace => Change::Replace(content()?),
            Action::Remove => Change::Remove,
            Action::Append => Change::Append(content()?),
            Action::Prepend => Change::Prepend(content()?),
            Action::Touch => Change::Touch,
            Action::Counter => {
                let amount = self.config.amount.render(record)?;
                let amount = std::str::from_utf8(&amount).ok().and_then(|text| text.trim().parse::<i64>().ok());
                let amount = amount.ok_or_else(|| {
                    let template = &self.config.amount;
                    Rejection::new(format!("CONNECT_COUCHBASE_AMOUNT={template} gives no whole number of 64 bits"))
                })?;
                match amount {
                    // Couchbase does not take it, and it changes nothing.
                    0 => return Ok(None),
                    amount if self.config.path.is_some() => Change::CountPath(amount),
                    amount => Change::Count(amount),
                }
            }
        }))
    }
}

fn check_id(id: &[u8], keyspace: &Keyspace) -> Result<(), Rejection> {
    let longest = if keyspace.is_default() { LONGEST_ID } else { LONGEST_ID_ELSEWHERE };
    match id.len() {
        0 => Err(Rejection::new("the document's id is empty: see CONNECT_COUCHBASE_ID")),
        length if length > longest => Err(Rejection::new(format!(
            "the document's id has {length} bytes; Couchbase takes up to {longest} in this collection"
        ))),
        _ if std::str::from_utf8(id).is_err() => Err(Rejection::new("the document's id is not UTF-8")),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use connect_core::config::Section;

    /// Settings with these on top of what is needed, named without their prefix.
    pub(crate) fn config(pairs: &[(&str, &str)]) -> CouchbaseConfig {
        let needed = [("URL", "couchbase://h"), ("USERNAME", "u"), ("PASSWORD", "p"), ("BUCKET", "b")];
        let kept = needed.iter().filter(|(name, _)| pairs.iter().all(|(other, _)| other != name));
        let named: Vec<(String, &str)> =
            kept.chain(pairs).map(|(name, value)| (format!("CONNECT_COUCHBASE_{name}"), *value)).collect();
        let all: Vec<(&str, &str)> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        CouchbaseConfig::from_pairs(&all).unwrap_or_else(|problems| panic!("{:?}", problems.lines()))
    }

    pub(crate) fn record() -> Record {
        Record {
            topic: "t".into(),
            partition: 3,
            offset: 42,
            timestamp: 1_700_000_000_999,
            key: Some("k".into()),
            value: Some(r#"{"a":5}"#.into()),
            headers: Vec::new(),
        }
    }

    pub(crate) fn prepare(pairs: &[(&str, &str)], record: &Record) -> Result<Option<Op>, String> {
        Mapping::new(config(pairs)).unwrap().prepare(record).map_err(|rejection| rejection.to_string())
    }

    pub(crate) fn op(pairs: &[(&str, &str)], record: &Record) -> Op {
        prepare(pairs, record).unwrap().unwrap()
    }

    #[test]
    fn the_id_is_the_key_or_the_place_in_the_topic() {
        assert_eq!(op(&[], &record()).id, "k");
        assert_eq!(op(&[], &Record { key: None, ..record() }).id, "t/3/42");
        assert_eq!(op(&[("ID", "x-{value.a}")], &record()).id, "x-5");
        let long = |pairs: &[(&str, &str)], length: usize| {
            prepare(pairs, &Record { key: Some("x".repeat(length).into()), ..record() })
        };
        assert!(long(&[], 250).is_ok());
        assert!(long(&[], 251).unwrap_err().contains("251 bytes; Couchbase takes up to 250"));
        assert!(long(&[("COLLECTION", "c")], 246).is_ok());
        assert!(long(&[("COLLECTION", "c")], 247).unwrap_err().contains("247 bytes; Couchbase takes up to 246"));
        assert!(long(&[], 0).unwrap_err().contains("empty"));
        let binary = Record { key: Some(bytes::Bytes::from_static(b"\xff")), ..record() };
        assert!(prepare(&[], &binary).unwrap_err().contains("not UTF-8"));
    }

    #[test]
    fn every_action() {
        let content = || Bytes::from_static(br#"{"a":5}"#);
        let expected: &[(&[(&str, &str)], Change)] = &[
            (&[], Change::Upsert(content())),
            (&[("ACTION", "insert")], Change::Insert(content())),
            (&[("ACTION", "replace")], Change::Replace(content())),
            (&[("ACTION", "remove")], Change::Remove),
            (&[("PATH", "p")], Change::UpsertPath(content())),
            (&[("ACTION", "append"), ("PATH", "p")], Change::Append(content())),
            (&[("ACTION", "prepend"), ("PATH", "p")], Change::Prepend(content())),
            (&[("ACTION", "counter"), ("PATH", "p"), ("AMOUNT", "-{value.a}")], Change::CountPath(-5)),
            (&[("ACTION", "counter")], Change::Count(1)),
            (&[("ACTION", "touch"), ("EXPIRY", "1h")], Change::Touch),
        ];
        for (pairs, change) in expected {
            assert_eq!(&op(pairs, &record()).change, change);
            assert_eq!(op(pairs, &Record { value: None, ..record() }).change, Change::Remove);
        }
        assert_eq!(prepare(&[("ACTION", "counter"), ("AMOUNT", "0")], &record()), Ok(None));
        let nonsense = prepare(&[("ACTION", "counter"), ("AMOUNT", "{key}")], &record()).unwrap_err();
        assert!(nonsense.contains("CONNECT_COUCHBASE_AMOUNT={key} gives no whole number"), "{nonsense}");
    }

    #[test]
    fn a_document_ends_when_its_record_says() {
        let hour = ("EXPIRY", "1h");
        let ends = |pairs: &[(&str, &str)]| op(pairs, &record()).ends;
        assert_eq!(ends(&[]), Ends::Never);
        assert_eq!(ends(&[hour]), Ends::At(1_700_003_600_999));
        assert_eq!(ends(&[hour, ("EXPIRY_FROM", "now")]), Ends::In(3_600_000));
        assert_eq!(ends(&[("EXPIRY_FROM", "value.a")]), Ends::At(5));
        assert_eq!(ends(&[hour, ("EXPIRY_FROM", "value.a")]), Ends::At(3_600_005));
        assert_eq!(ends(&[("ACTION", "touch"), ("EXPIRY_FROM", "value.a")]), Ends::At(5));
        let problem = prepare(&[hour], &Record { timestamp: -1, ..record() }).unwrap_err();
        assert!(problem.contains("CONNECT_COUCHBASE_EXPIRY"), "{problem}");
        let problem = prepare(&[("EXPIRY_FROM", "header:end")], &record()).unwrap_err();
        assert!(problem.contains("{header.end}"), "{problem}");
        // A tombstone needs no time.
        let tombstone = Record { value: None, timestamp: -1, ..record() };
        assert_eq!(op(&[hour, ("EXPIRY_FROM", "value.a")], &tombstone).ends, Ends::Never);
    }
}
