//! What a record becomes in Couchbase: pure, no I/O.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use connect_core::{Record, Rejection, Template};

use crate::config::{Action, CouchbaseConfig};
use crate::content;

/// The most bytes of a document's id in the default collection.
const LONGEST_ID: usize = 250;
/// The most in any other one: the server stores the collection's number, up to five bytes, with the id.
const LONGEST_ID_ELSEWHERE: usize = 246;
/// Expiries up to this would be taken for seconds from now.
const LONGEST_RELATIVE_EXPIRY: i64 = 30 * 24 * 60 * 60;

/// What is done to one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Where the document is.
    pub keyspace: Keyspace,
    /// Id of the document.
    pub id: Bytes,
    /// Keyspace and id: different documents have different targets.
    pub target: Bytes,
    /// What happens to it.
    pub change: Change,
    /// When it ends: seconds since the epoch, as Couchbase takes them.
    pub expiry: Option<u32>,
}

/// A scope and a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// Name of the scope.
    pub scope: Arc<str>,
    /// Name of the collection.
    pub collection: Arc<str>,
}

impl Keyspace {
    fn is_default(&self) -> bool {
        &*self.scope == "_default" && &*self.collection == "_default"
    }

    fn name_of(&self, id: &[u8]) -> Bytes {
        let mut name = BytesMut::with_capacity(id.len() + self.scope.len() + self.collection.len() + 2);
        name.put_slice(self.scope.as_bytes());
        name.put_u8(b'.');
        name.put_slice(self.collection.as_bytes());
        name.put_u8(b'.');
        name.put_slice(id);
        name.freeze()
    }
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
    /// Where all documents are, unless it depends on the record.
    fixed: Option<Keyspace>,
    /// Where the documents of single topics are.
    topics: Vec<(String, Keyspace)>,
    without_key: Template,
}

impl Mapping {
    /// The mapping that the settings describe.
    ///
    /// # Errors
    /// A template that can't be used.
    pub fn new(config: CouchbaseConfig) -> Result<Self, String> {
        let constant = |template: &Template| {
            let text = template.to_string();
            (!text.contains(['{', '}'])).then(|| Arc::from(text))
        };
        let fixed = match (constant(&config.scope), constant(&config.collection)) {
            (Some(scope), Some(collection)) => Some(Keyspace { scope, collection }),
            _ => None,
        };
        let targets = config.collections.iter().flat_map(|targets| targets.iter());
        let topics = targets.map(|target| {
            let keyspace =
                Keyspace { scope: target.scope.as_str().into(), collection: target.collection.as_str().into() };
            (target.topic.clone(), keyspace)
        });
        let topics = topics.collect();
        let without_key = "{topic}/{partition}/{offset}".parse().map_err(|error| format!("{error}"))?;
        Ok(Self { config, fixed, topics, without_key })
    }

    /// The keyspaces that are known before any record is read.
    pub fn keyspaces(&self) -> impl Iterator<Item = &Keyspace> {
        self.fixed.iter().chain(self.topics.iter().map(|(_, keyspace)| keyspace))
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
        let (keyspace, fixed) = self.keyspace(record)?;
        check_id(&id, &keyspace)?;
        let Some(change) = self.change(record)? else { return Ok(None) };
        let expiry = match change {
            Change::Remove => None,
            _ => self.expiry(record)?,
        };
        // The ids alone tell documents apart when all are in one collection.
        let target = if fixed { id.clone() } else { keyspace.name_of(&id) };
        Ok(Some(Op { keyspace, id, target, change, expiry }))
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

    fn expiry(&self, record: &Record) -> Result<Option<u32>, Rejection> {
        let Some(expiry) = self.config.expiry else { return Ok(None) };
        if record.timestamp < 0 {
            let problem = "CONNECT_COUCHBASE_EXPIRY counts from the record's timestamp, and it has none";
            return Err(Rejection::new(problem));
        }
        let seconds = i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX);
        let at = (record.timestamp / 1000).saturating_add(seconds);
        // What lies before the first moment that can be told lies in the past all the same.
        let at = at.clamp(LONGEST_RELATIVE_EXPIRY + 1, u32::MAX.into());
        Ok(u32::try_from(at).ok())
    }

    /// The keyspace, and whether every record has the same.
    fn keyspace(&self, record: &Record) -> Result<(Keyspace, bool), Rejection> {
        if let Some((_, keyspace)) = self.topics.iter().find(|(topic, _)| **topic == *record.topic) {
            return Ok((keyspace.clone(), false));
        }
        if let Some(keyspace) = &self.fixed {
            return Ok((keyspace.clone(), self.topics.is_empty()));
        }
        let scope = name(&self.config.scope, record, "scope")?;
        let collection = name(&self.config.collection, record, "collection")?;
        Ok((Keyspace { scope, collection }, false))
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

/// Renders the name of a scope or collection.
fn name(template: &Template, record: &Record, what: &str) -> Result<Arc<str>, Rejection> {
    let name = template.render(record)?;
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-%".contains(byte);
    let starts_well = name.starts_with(b"_default") || !matches!(name.first(), None | Some(b'_' | b'%'));
    match std::str::from_utf8(&name) {
        Ok(text) if name.iter().all(good) && starts_well && name.len() <= 251 => Ok(text.into()),
        _ => Err(Rejection::new(format!("{template} gives no name that a {what} can have: letters, digits, - _ %"))),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use connect_core::config::Section;

    /// Settings with these on top of what is needed, named without their prefix.
    pub(crate) fn config(pairs: &[(&str, &str)]) -> CouchbaseConfig {
        let needed = [("URL", "couchbase://h"), ("USERNAME", "u"), ("PASSWORD", "p"), ("BUCKET", "b")];
        let named: Vec<(String, &str)> =
            needed.iter().chain(pairs).map(|(name, value)| (format!("CONNECT_COUCHBASE_{name}"), *value)).collect();
        let all: Vec<(&str, &str)> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        CouchbaseConfig::from_pairs(&all).unwrap_or_else(|problems| panic!("{:?}", problems.lines()))
    }

    fn record() -> Record {
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

    fn prepare(pairs: &[(&str, &str)], record: &Record) -> Result<Option<Op>, String> {
        Mapping::new(config(pairs)).unwrap().prepare(record).map_err(|rejection| rejection.to_string())
    }

    fn op(pairs: &[(&str, &str)], record: &Record) -> Op {
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
    fn the_collection_depends_on_the_record_where_it_should() {
        let plain = op(&[], &record());
        assert_eq!(
            (&*plain.keyspace.scope, &*plain.keyspace.collection, &plain.target[..]),
            ("_default", "_default", &b"k"[..])
        );
        let templated = op(&[("SCOPE", "s"), ("COLLECTION", "c-{topic}")], &record());
        assert_eq!((&*templated.keyspace.collection, &templated.target[..]), ("c-t", &b"s.c-t.k"[..]));
        let mapped = [("COLLECTIONS", "t=a.b")];
        assert_eq!(op(&mapped, &record()).target, "a.b.k");
        assert_eq!(op(&mapped, &Record { topic: "u".into(), ..record() }).target, "_default._default.k");
        let wrong = prepare(&[("COLLECTION", "{key}")], &Record { key: Some("a.b".into()), ..record() });
        assert!(wrong.unwrap_err().contains("no name that a collection can have"));
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
    fn expiry_counts_from_the_record() {
        let hour = [("EXPIRY", "1h")];
        assert_eq!(op(&hour, &record()).expiry, Some(1_700_003_600));
        assert_eq!(op(&[], &record()).expiry, None);
        assert!(prepare(&hour, &Record { timestamp: -1, ..record() }).unwrap_err().contains("EXPIRY"));
        let ancient = op(&hour, &Record { timestamp: 0, ..record() }).expiry;
        assert_eq!(ancient, Some(2_592_001), "never a number that means seconds from now");
        assert_eq!(op(&hour, &Record { timestamp: i64::MAX, ..record() }).expiry, Some(u32::MAX));
    }
}
