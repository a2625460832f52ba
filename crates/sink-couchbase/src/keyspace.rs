//! Where documents are: bucket, scope and collection, the same for all or named by each record.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use connect_core::{Record, Rejection, Template};

use crate::config::CouchbaseConfig;

/// A bucket, a scope in it, and a collection in that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Keyspace {
    /// Name of the bucket.
    pub bucket: Arc<str>,
    /// Name of the scope.
    pub scope: Arc<str>,
    /// Name of the collection.
    pub collection: Arc<str>,
}

impl Keyspace {
    /// Whether it is the collection that every bucket has.
    pub fn is_default(&self) -> bool {
        &*self.scope == "_default" && &*self.collection == "_default"
    }

    /// A document's name that no document of another keyspace has.
    pub fn name_of(&self, id: &[u8]) -> Bytes {
        let length = self.bucket.len() + self.scope.len() + self.collection.len() + id.len() + 3;
        let mut name = BytesMut::with_capacity(length);
        // Names of buckets hold dots, but no slash; those of the others hold neither.
        for (part, end) in [(&self.bucket, b'/'), (&self.scope, b'.'), (&self.collection, b'.')] {
            name.put_slice(part.as_bytes());
            name.put_u8(end);
        }
        name.put_slice(id);
        name.freeze()
    }
}

/// Where all documents are, or those of one topic.
#[derive(Debug)]
pub struct Home {
    bucket: Name,
    scope: Name,
    collection: Name,
    fixed: Option<Arc<Keyspace>>,
}

impl Home {
    /// Where documents are whose topic has no home of its own.
    pub fn common(config: &CouchbaseConfig) -> Self {
        Self::new(Name::new(&config.bucket), Name::new(&config.scope), Name::new(&config.collection))
    }

    /// The topics that have a home of their own.
    pub fn of_topics(config: &CouchbaseConfig) -> Vec<(String, Self)> {
        let targets = config.collections.iter().flat_map(|targets| targets.iter());
        let home = targets.map(|target| {
            let fixed = |name: &String| Name::Fixed(name.as_str().into());
            let bucket = target.bucket.as_ref().map_or_else(|| Name::new(&config.bucket), fixed);
            (target.topic.clone(), Self::new(bucket, fixed(&target.scope), fixed(&target.collection)))
        });
        home.collect()
    }

    fn new(bucket: Name, scope: Name, collection: Name) -> Self {
        let fixed = match (&bucket, &scope, &collection) {
            (Name::Fixed(bucket), Name::Fixed(scope), Name::Fixed(collection)) => Some(Arc::new(Keyspace {
                bucket: Arc::clone(bucket),
                scope: Arc::clone(scope),
                collection: Arc::clone(collection),
            })),
            _ => None,
        };
        Self { bucket, scope, collection, fixed }
    }

    /// The bucket, if every record has the same.
    pub fn bucket(&self) -> Option<&Arc<str>> {
        match &self.bucket {
            Name::Fixed(bucket) => Some(bucket),
            Name::Rendered(_) => None,
        }
    }

    /// The keyspace, if every record has the same.
    pub fn fixed(&self) -> Option<&Arc<Keyspace>> {
        self.fixed.as_ref()
    }

    /// Where the document of this record is.
    ///
    /// # Errors
    /// A [`Rejection`] that names what the record lacks, or the name that can't be one.
    pub fn of(&self, record: &Record) -> Result<Arc<Keyspace>, Rejection> {
        if let Some(fixed) = &self.fixed {
            return Ok(Arc::clone(fixed));
        }
        let bucket = self.bucket.of(record, is_bucket, "bucket")?;
        let scope = self.scope.of(record, is_name, "scope")?;
        let collection = self.collection.of(record, is_name, "collection")?;
        Ok(Arc::new(Keyspace { bucket, scope, collection }))
    }
}

#[derive(Debug)]
enum Name {
    Fixed(Arc<str>),
    Rendered(Template),
}

impl Name {
    fn new(template: &Template) -> Self {
        let text = template.to_string();
        if text.contains(['{', '}']) { Self::Rendered(template.clone()) } else { Self::Fixed(text.into()) }
    }

    fn of(&self, record: &Record, good: fn(&[u8]) -> bool, what: &str) -> Result<Arc<str>, Rejection> {
        let template = match self {
            Self::Fixed(name) => return Ok(Arc::clone(name)),
            Self::Rendered(template) => template,
        };
        let name = template.render(record)?;
        match std::str::from_utf8(&name) {
            Ok(text) if good(&name) => Ok(text.into()),
            _ => {
                Err(Rejection::new(format!("{template} gives no name that a {what} can have: letters, digits, - _ %")))
            }
        }
    }
}

/// Whether a scope or collection can have this name.
pub fn is_name(name: &[u8]) -> bool {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-%".contains(byte);
    let starts_well = name.starts_with(b"_default") || !matches!(name.first(), None | Some(b'_' | b'%'));
    starts_well && name.iter().all(good) && name.len() <= 251
}

/// Whether a bucket can have this name.
pub fn is_bucket(name: &[u8]) -> bool {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-%.".contains(byte);
    !matches!(name.first(), None | Some(b'.')) && name.iter().all(good) && name.len() <= 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::tests::{op, prepare, record};

    fn place(pairs: &[(&str, &str)], record: &Record) -> (String, String) {
        let op = op(pairs, record);
        let Keyspace { bucket, scope, collection } = &*op.keyspace;
        (format!("{bucket} {scope} {collection}"), String::from_utf8(op.target.to_vec()).unwrap())
    }

    #[test]
    fn it_depends_on_the_record_where_it_should() {
        let of_another_topic = Record { topic: "u".into(), ..record() };
        let by_topic = [("COLLECTIONS", "t=a.b,v=my.bucket.c.d")];
        for (pairs, record, keyspace, target) in [
            (&[][..], &record(), "b _default _default", "k"),
            (&[("SCOPE", "s"), ("COLLECTION", "c-{topic}")], &record(), "b s c-t", "b/s.c-t.k"),
            (&[("BUCKET", "x.{value.a}")], &record(), "x.5 _default _default", "x.5/_default._default.k"),
            (&by_topic, &record(), "b a b", "b/a.b.k"),
            (&by_topic, &of_another_topic, "b _default _default", "b/_default._default.k"),
            (&by_topic, &Record { topic: "v".into(), ..record() }, "my.bucket c d", "my.bucket/c.d.k"),
            (&[by_topic[0], ("BUCKET", "{topic}")], &record(), "t a b", "t/a.b.k"),
        ] {
            assert_eq!(place(pairs, record), (keyspace.to_owned(), target.to_owned()), "{pairs:?}");
        }
    }

    #[test]
    fn a_name_that_can_not_be_one_is_rejected() {
        let of_key =
            |pairs: &[(&str, &str)], key: &'static str| prepare(pairs, &Record { key: Some(key.into()), ..record() });
        for key in ["a.b", "_a", "%", "a b", "é"] {
            let wrong = of_key(&[("COLLECTION", "{key}")], key).unwrap_err();
            assert!(wrong.contains("no name that a collection can have"), "{key}: {wrong}");
        }
        for key in [".a", "a/b", "é"] {
            let wrong = of_key(&[("BUCKET", "{key}")], key).unwrap_err();
            assert!(wrong.contains("no name that a bucket can have"), "{key}: {wrong}");
        }
        let without_key = prepare(&[("ID", "x"), ("BUCKET", "{key}")], &Record { key: None, ..record() });
        assert!(without_key.unwrap_err().contains("{key}"));
    }
}
