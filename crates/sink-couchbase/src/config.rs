//! The settings of the sink.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use connect_core::config::{FilePath, List, SecretString, Setting, hide_credentials};
use connect_core::decode::Path;
use connect_core::expiry::ExpiryFrom;
use connect_core::{Template, section, words};

use crate::keyspace;

section! {
    /// How records get into Couchbase.
    pub struct CouchbaseConfig = "COUCHBASE" {
        /// Where the cluster is: `couchbase://host1,host2`, or `couchbases://…` for TLS. Any nodes of it; SRV records are not
        /// looked up.
        pub url: Url,
        /// Name of the user. Not with a client certificate.
        pub username: Option<String>,
        /// Password of the user.
        pub password: Option<SecretString>,
        /// PEM file with the authority that signed the nodes' certificates; the system's authorities if unset.
        pub ca_file: Option<FilePath>,
        /// PEM file of the client's certificate and what leads to its authority, in place of a user.
        pub cert_file: Option<FilePath>,
        /// PEM file of the client's private key.
        pub key_file: Option<FilePath>,
        /// Template of the bucket's name. Each bucket has a client of its own, made when the first record goes there.
        pub bucket: Template,
        /// Template of the scope's name.
        pub scope: Template = "_default",
        /// Template of the collection's name.
        pub collection: Template = "_default",
        /// Scope and collection of single topics, with a bucket before them if it isn't the one above:
        /// `orders=shop.orders,users=people.crm.users`. Goes before bucket, scope and collection.
        pub collections: Option<List<Target>>,
        /// What a record does to its document. `upsert`, `insert` (a document that is there stays as it is), `replace` (a
        /// document must be there), `remove`, `append` and `prepend` (to the array at the path), `counter` (adds the amount to the number
        /// at the path, or to the document if there is no path), `touch` (sets the expiry alone). A tombstone removes the document.
        pub action: Action = "upsert",
        /// Template of the document's id, at most 250 bytes, 246 outside of the default collection. `{key}` if unset, and
        /// `{topic}/{partition}/{offset}` for a record without a key.
        pub id: Option<Template>,
        /// The part of the document that is changed: `address.city`, `tags`, `sums[0]`; names with other characters stand in
        /// backticks. With `upsert` the value is put there, and the rest of the document stays.
        pub path: Option<String>,
        /// What a change of a part, or a counter, makes where it is missing: the `document` and the path in it, the `path` in a
        /// document that is there, or `nothing`. A record that lacks something else is rejected.
        pub create: Create = "document",
        /// The part of the record's value that is stored: `payload.after`, or a JSON pointer. The whole of it if unset.
        pub value_path: Option<Path>,
        /// Name of a field on the top level of the value that is left out: one that is the id already, say.
        pub remove_field: Option<String>,
        /// What the value must be: `json`, which is checked, or `binary` for anything. `binary` needs the guard off, for only a
        /// plain write tells readers that a document is no JSON.
        pub format: Format = "json",
        /// Template of what `counter` adds: a whole number, negative ones subtract.
        pub amount: Template = "1",
        /// How long a document lives, counted from `CONNECT_COUCHBASE_EXPIRY_FROM`; each record that changes it counts anew. For
        /// ever if unset.
        pub expiry: Option<Duration>,
        /// What the life of a document is counted from. Only `now` lets a replay prolong it. A time that lies in the past ends the
        /// document. With a time of the record (`header:expires`, `value.expires`) and no `CONNECT_COUCHBASE_EXPIRY` it is the end
        /// itself.
        pub expiry_from: ExpiryFrom = "timestamp",
        /// Keeps the expiry that a document has when its whole content is replaced. A change of a part always keeps it.
        pub preserve_expiry: bool = "false",
        /// What must be true of a write before it counts: `none` (in memory of the active node), `majority` (in memory of most
        /// copies), `majorityAndPersistActive` (and on disk of the active node), `persistToMajority` (on disk of most copies).
        pub durability: Durability = "majority",
        /// Keeps the offset of the last record in the extended attribute `_connect` of each document: replays and late
        /// requests change nothing. `off` for plain writes, at least once.
        pub guard: Guard = "on",
        /// How many documents written lately are remembered, which saves a look at each before the next write.
        pub guard_cache: NonZeroUsize = "16384",
        /// The most requests that wait for an answer at once, of all partitions together.
        pub max_in_flight: NonZeroUsize = "256",
        /// How long Couchbase may take for one answer, and how long a write begins with further records: the rest follows in the
        /// next one. A third of CONNECT_WRITE_TIMEOUT if not given, and not longer.
        pub timeout: Option<Duration>,
    }
    rule (username, password) {
        (username.is_some() != password.is_some()).then(|| "set both or neither".to_owned())
    }
    rule (cert_file, key_file) {
        (cert_file.is_some() != key_file.is_some()).then(|| "set both or neither".to_owned())
    }
    rule (username, cert_file) {
        (username.is_some() == cert_file.is_some()).then(|| "set a user or a client certificate, one of the two".to_owned())
    }
    rule (url, ca_file) {
        (ca_file.is_some() && !url.tls()).then(|| "certificates are for couchbases://".to_owned())
    }
    rule (url, cert_file) {
        (cert_file.is_some() && !url.tls()).then(|| "certificates are for couchbases://".to_owned())
    }
    rule (action, path) {
        match (action, path) {
            (Action::Append | Action::Prepend, None) => Some("an array in the document needs a path".to_owned()),
            (Action::Insert | Action::Replace | Action::Remove | Action::Touch, Some(_)) => {
                Some("only upsert, append, prepend and counter work on a part of a document".to_owned())
            }
            _ => path.as_ref().is_some_and(|path| path.is_empty() || path.len() > 1024).then(|| "1 to 1024 bytes".to_owned()),
        }
    }
    rule (action, expiry, expiry_from) {
        let given = expiry.is_some() || matches!(expiry_from, ExpiryFrom::Record(_));
        (*action == Action::Touch && !given).then(|| "touch sets an expiry: give one".to_owned())
    }
    rule (action, guard) {
        (*guard == Guard::Off && action.accumulates())
            .then(|| "append, prepend and counter would count a replayed record twice: they need the guard".to_owned())
    }
    rule (format, guard) {
        (*guard == Guard::On && *format == Format::Binary).then(|| {
            "binary documents need CONNECT_COUCHBASE_GUARD=off: only a plain write tells readers that they are no JSON".to_owned()
        })
    }
    rule (format, value_path) {
        (*format == Format::Binary && value_path.is_some()).then(|| "only JSON has parts".to_owned())
    }
    rule (format, remove_field) {
        (*format == Format::Binary && remove_field.is_some()).then(|| "only JSON has fields".to_owned())
    }
    rule (format, path) {
        (*format == Format::Binary && path.is_some()).then(|| "only JSON has parts".to_owned())
    }
    rule (expiry, expiry_from, preserve_expiry) {
        let given = expiry.is_some() || matches!(expiry_from, ExpiryFrom::Record(_));
        (given && *preserve_expiry).then(|| "set an expiry or keep the old one, not both".to_owned())
    }
    rule (expiry) {
        expiry.is_some_and(|expiry| expiry.as_secs() == 0).then(|| "a document must live for at least 1s".to_owned())
    }
    rule (timeout) {
        timeout.is_some_and(|timeout| timeout.is_zero()).then(|| "must be longer than 0s".to_owned())
    }
}

/// What a record does to its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The value is the document, or the part of it.
    Upsert,
    /// The value is the document if there is none yet.
    Insert,
    /// The value is the document if there is one.
    Replace,
    /// The document is gone.
    Remove,
    /// The value is the last element of an array.
    Append,
    /// The value is the first element of an array.
    Prepend,
    /// A number is added.
    Counter,
    /// The expiry is set.
    Touch,
}

words!(Action {
    "upsert" => Upsert,
    "insert" => Insert,
    "replace" => Replace,
    "remove" => Remove,
    "append" => Append,
    "prepend" => Prepend,
    "counter" => Counter,
    "touch" => Touch,
});

impl Action {
    /// Whether doing it twice is not the same as doing it once.
    pub fn accumulates(self) -> bool {
        matches!(self, Self::Append | Self::Prepend | Self::Counter)
    }
}

/// What is made where it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// The document, and the path to the changed part.
    Document,
    /// The path in a document that is there.
    Path,
    /// Neither.
    Nothing,
}

words!(Create { "document" => Document, "path" => Path, "nothing" => Nothing });

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON document.
    Json,
    /// Any bytes.
    Binary,
}

words!(Format { "json" => Json, "binary" => Binary });

/// Whether documents remember offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// They do.
    On,
    /// They don't.
    Off,
}

words!(Guard { "on" => On, "off" => Off });

/// What must be true of a write before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is in the memory of the active node.
    None,
    /// It is in the memory of most copies.
    Majority,
    /// And on the disk of the active node.
    MajorityAndPersistActive,
    /// It is on the disk of most copies.
    PersistToMajority,
}

words!(Durability {
    "none" => None,
    "majority" => Majority,
    "majorityAndPersistActive" => MajorityAndPersistActive,
    "persistToMajority" => PersistToMajority,
});

/// Where the cluster is.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// The connection string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether connections are encrypted.
    pub fn tls(&self) -> bool {
        self.0.starts_with("couchbases://")
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hide_credentials(&self.0))
    }
}

impl Setting for Url {
    fn expected() -> String {
        "a connection string such as `couchbase://host1,host2` or `couchbases://host` (TLS)".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with("couchbase://") && !text.starts_with("couchbases://") {
            return Err("it begins with neither couchbase:// nor couchbases://".to_owned());
        }
        if text.contains('@') {
            return Err("user and password stand in CONNECT_COUCHBASE_USERNAME and _PASSWORD".to_owned());
        }
        if text.contains('?') {
            return Err("options behind a question mark are not taken".to_owned());
        }
        if text.ends_with("://") {
            return Err("it names no host".to_owned());
        }
        couchbase_connstr::parse(text).map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }

    fn show(text: &str) -> String {
        hide_credentials(text)
    }
}

/// Where the documents of one topic are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the topic.
    pub topic: String,
    /// Name of the bucket, if it isn't the one of all the others.
    pub bucket: Option<String>,
    /// Name of the scope.
    pub scope: String,
    /// Name of the collection.
    pub collection: String,
}

impl Setting for Target {
    fn expected() -> String {
        "a topic and its collection such as `orders=scope.collection` or `orders=bucket.scope.collection`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (topic, keyspace) = text.split_once('=').ok_or("there is no `=`")?;
        let (rest, collection) = keyspace.rsplit_once('.').ok_or("there is no `.` between scope and collection")?;
        // Only names of buckets hold dots.
        let (bucket, scope) = rest.rsplit_once('.').map_or((None, rest), |(bucket, scope)| (Some(bucket), scope));
        if [Some(topic), bucket, Some(scope), Some(collection)].contains(&Some("")) {
            return Err("a name is empty".to_owned());
        }
        let good = keyspace::is_name(scope.as_bytes()) && keyspace::is_name(collection.as_bytes());
        if !good || bucket.is_some_and(|bucket| !keyspace::is_bucket(bucket.as_bytes())) {
            return Err("a name has characters that Couchbase does not take".to_owned());
        }
        Ok(Self {
            topic: topic.to_owned(),
            bucket: bucket.map(str::to_owned),
            scope: scope.to_owned(),
            collection: collection.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use connect_core::config::Section;

    const NEEDED: [(&str, &str); 4] = [
        ("CONNECT_COUCHBASE_URL", "couchbase://a,b:11210"),
        ("CONNECT_COUCHBASE_USERNAME", "u"),
        ("CONNECT_COUCHBASE_PASSWORD", "p"),
        ("CONNECT_COUCHBASE_BUCKET", "b"),
    ];

    fn with(pairs: &[(&str, &str)]) -> Result<CouchbaseConfig, String> {
        let mut all = NEEDED.to_vec();
        all.retain(|(name, _)| pairs.iter().all(|(other, _)| other != name));
        all.extend(pairs);
        CouchbaseConfig::from_pairs(&all).map_err(|problems| problems.lines().join("\n"))
    }

    #[test]
    fn the_defaults_lose_nothing() {
        let config = with(&[]).unwrap();
        assert_eq!((config.guard, config.durability), (Guard::On, Durability::Majority));
        assert_eq!((config.action, config.max_in_flight.get()), (Action::Upsert, 256));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let mistakes: &[(&[(&str, &str)], &str)] = &[
            (&[("CONNECT_COUCHBASE_URL", "http://a")], "neither couchbase://"),
            (&[("CONNECT_COUCHBASE_URL", "couchbase://u:hunter2@a")], "CONNECT_COUCHBASE_USERNAME"),
            (&[("CONNECT_COUCHBASE_ACTION", "append")], "needs a path"),
            (&[("CONNECT_COUCHBASE_ACTION", "insert"), ("CONNECT_COUCHBASE_PATH", "a")], "part of a document"),
            (&[("CONNECT_COUCHBASE_ACTION", "touch")], "sets an expiry"),
            (&[("CONNECT_COUCHBASE_ACTION", "counter"), ("CONNECT_COUCHBASE_GUARD", "off")], "twice"),
            (&[("CONNECT_COUCHBASE_FORMAT", "binary")], "GUARD=off"),
            (&[("CONNECT_COUCHBASE_COLLECTIONS", "a=b")], "no `.`"),
            (&[("CONNECT_COUCHBASE_COLLECTIONS", "a=.b.c")], "a name is empty"),
            (&[("CONNECT_COUCHBASE_COLLECTIONS", "a={key}.c")], "does not take"),
            (&[("CONNECT_COUCHBASE_EXPIRY_FROM", "offset")], "header:NAME"),
            (&[("CONNECT_COUCHBASE_TIMEOUT", "0s")], "longer than 0s"),
            (&[("CONNECT_COUCHBASE_DURABILITY", "all")], "majorityAndPersistActive"),
            (&[("CONNECT_COUCHBASE_CA_FILE", "/dev/null")], "couchbases://"),
            (&[("CONNECT_COUCHBASE_EXPIRY", "1h"), ("CONNECT_COUCHBASE_PRESERVE_EXPIRY", "true")], "keep the old one"),
            (
                &[("CONNECT_COUCHBASE_EXPIRY_FROM", "value.end"), ("CONNECT_COUCHBASE_PRESERVE_EXPIRY", "true")],
                "keep the old one",
            ),
        ];
        for (pairs, part) in mistakes {
            let problems = with(pairs).expect_err(part);
            assert!(problems.contains(part), "{pairs:?}: {problems}");
            assert!(!problems.contains("hunter2"), "{problems}");
        }
        let config = with(&[("CONNECT_COUCHBASE_COLLECTIONS", "a=s.c, d=t.e, f=my.bucket.u.g")]).unwrap();
        let targets = config.collections.unwrap();
        let names =
            |index: usize| (targets[index].bucket.as_deref(), &*targets[index].scope, &*targets[index].collection);
        assert_eq!((names(1), names(2)), ((None, "t", "e"), (Some("my.bucket"), "u", "g")));
    }
}
