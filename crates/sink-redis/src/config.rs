//! The settings of the sink.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use connect_core::config::{ByteSize, FilePath, List, SecretString, Setting, hide_credentials};
use connect_core::decode::Path;
use connect_core::expiry::ExpiryFrom;
use connect_core::{Template, section, words};

use crate::expiry::Ttl;

/// Where Redis is. Its text may hold credentials, so it is never shown whole.
#[derive(Clone)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The text, credentials included.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it names a cluster.
    pub fn is_cluster(&self) -> bool {
        self.0.split("://").next().is_some_and(|scheme| scheme.ends_with("-cluster"))
    }
}

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hide_credentials(&self.0))
    }
}

impl Setting for RedisUrl {
    fn expected() -> String {
        "a URL such as `redis://host:6379/0`, `rediss://host:6380` (TLS), `redis+unix:///path`, \
         `redis-cluster://host:7000` or `redis-sentinel://host:26379?sentinelServiceName=mymaster`"
            .to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        crate::tls::choose_provider();
        fred::types::config::Config::from_url(text).map_err(|error| error.details().to_owned())?;
        Ok(Self(text.to_owned()))
    }

    fn show(text: &str) -> String {
        hide_credentials(text)
    }
}

/// What is done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The key holds the value.
    Set,
    /// The whole number in the key grows by the amount.
    IncrBy,
    /// The number in the key grows by the amount.
    IncrByFloat,
    /// Fields of the hash in the key are set.
    HSet,
    /// The value goes to the end of the list in the key.
    RPush,
    /// The value goes to the head of the list in the key.
    LPush,
    /// The member joins the set in the key.
    SAdd,
    /// The member joins the sorted set in the key, or changes its score.
    ZAdd,
    /// The record becomes an entry of the stream in the key.
    XAdd,
    /// The member joins the geographic index in the key, or moves.
    GeoAdd,
    /// The member is counted by the HyperLogLog in the key.
    PfAdd,
    /// The value is published to the channel that the key names.
    Publish,
    /// The value is published to the shard channel that the key names.
    SPublish,
    /// The JSON document in the key, or a part of it, is the value.
    JsonSet,
}

words!(Command {
    "set" => Set, "incrby" => IncrBy, "incrbyfloat" => IncrByFloat, "hset" => HSet, "rpush" => RPush, "lpush" => LPush,
    "sadd" => SAdd, "zadd" => ZAdd, "xadd" => XAdd, "geoadd" => GeoAdd, "pfadd" => PfAdd, "publish" => Publish,
    "spublish" => SPublish, "json.set" => JsonSet,
});

impl Command {
    /// Its name in Redis.
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::IncrBy => "INCRBY",
            Self::IncrByFloat => "INCRBYFLOAT",
            Self::HSet => "HSET",
            Self::RPush => "RPUSH",
            Self::LPush => "LPUSH",
            Self::SAdd => "SADD",
            Self::ZAdd => "ZADD",
            Self::XAdd => "XADD",
            Self::GeoAdd => "GEOADD",
            Self::PfAdd => "PFADD",
            Self::Publish => "PUBLISH",
            Self::SPublish => "SPUBLISH",
            Self::JsonSet => "JSON.SET",
        }
    }

    /// Whether writing a record a second time changes the outcome, so that only the guard keeps it exact.
    pub fn accumulates(self) -> bool {
        matches!(self, Self::IncrBy | Self::IncrByFloat | Self::RPush | Self::LPush | Self::XAdd)
    }

    /// Whether it publishes, and so leaves nothing in the store.
    pub fn publishes(self) -> bool {
        matches!(self, Self::Publish | Self::SPublish)
    }
}

/// Under which condition a key or member is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// None.
    Always,
    /// It is not there yet.
    Nx,
    /// It is there already.
    Xx,
    /// The new score is higher.
    Gt,
    /// The new score is lower.
    Lt,
}

words!(Condition { "always" => Always, "nx" => Nx, "xx" => Xx, "gt" => Gt, "lt" => Lt });

impl Condition {
    /// The option of the command.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Always => None,
            Self::Nx => Some("NX"),
            Self::Xx => Some("XX"),
            Self::Gt => Some("GT"),
            Self::Lt => Some("LT"),
        }
    }
}

/// What becomes of an object inside an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nested {
    /// Its fields are fields, their names joined by the separator.
    Flatten,
    /// It is one field that holds JSON.
    Json,
}

words!(Nested { "flatten" => Flatten, "json" => Json });

/// What a tombstone does to a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTombstone {
    /// The key goes.
    Key,
    /// The listed fields go.
    Fields,
}

words!(HashTombstone { "key" => Key, "fields" => Fields });

/// Where offsets are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offsets {
    /// Beside the data: each record has its effect exactly once.
    Redis,
    /// In Kafka alone: each record has its effect at least once.
    Kafka,
}

words!(Offsets { "redis" => Redis, "kafka" => Kafka });

/// What readers see at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomic {
    /// A record; a batch that is too large for one script becomes visible in parts.
    Record,
    /// A whole batch, however long the script takes.
    Batch,
}

words!(Atomic { "record" => Record, "batch" => Batch });

section! {
    /// How records get into Redis.
    pub struct RedisConfig = "REDIS" {
        /// Where Redis is. A database number stands behind the slash.
        pub url: RedisUrl,
        /// Name of the ACL user.
        pub username: Option<String>,
        /// Password.
        pub password: Option<SecretString>,
        /// PEM file with the authority that signed the server's certificate; the system's authorities if unset.
        pub ca_file: Option<FilePath>,
        /// PEM file with our certificate, where the server asks for one. `CONNECT_REDIS_CA_FILE` must be set beside it.
        pub cert_file: Option<FilePath>,
        /// PEM file with the private key of our certificate.
        pub key_file: Option<FilePath>,
        /// What is done with a record.
        pub command: Command = "set",
        /// Template of the key that a record is written to; of the channel for `publish`.
        pub key: Template = "{key}",
        /// Template of the value: of strings, lists, JSON, messages, and of the one field that `CONNECT_REDIS_FIELD` names.
        pub value: Template = "{value}",
        /// Template of the name of one field, for `hset` and `xadd`. If unset the record's value must be a JSON object, whose
        /// members become fields; a member that is null removes its field.
        pub field: Option<Template>,
        /// Paths of the fields that are written, for `hset` and `xadd`; a field that the record lacks is removed. All if unset.
        pub fields: Option<List<Path>>,
        /// What becomes of an object inside the object.
        pub nested: Nested = "flatten",
        /// What stands between the names of an object and of its fields, where it is flattened.
        pub separator: String = ".",
        /// What a tombstone removes, for `hset`: the key, or the fields of `CONNECT_REDIS_FIELDS`. One field named by
        /// `CONNECT_REDIS_FIELD` is always removed alone.
        pub hash_tombstone: HashTombstone = "key",
        /// Template of the member, for `sadd`, `zadd`, `geoadd` and `pfadd`: `{value}` for `sadd` and `pfadd` if unset, else
        /// `{key}`. A tombstone removes the member from `sadd`, `zadd` and `geoadd`, so that it must not come from the value.
        pub member: Option<Template>,
        /// Template of the score, for `zadd`.
        pub score: Template = "{timestamp}",
        /// Template of the amount, for `incrby` and `incrbyfloat`.
        pub amount: Template = "1",
        /// Template of the longitude in degrees, for `geoadd`.
        pub longitude: Option<Template>,
        /// Template of the latitude in degrees, for `geoadd`.
        pub latitude: Option<Template>,
        /// Where in the document the value goes, for `json.set`.
        pub path: String = "$",
        /// Under which condition is written: `nx` and `xx` for `set`, `zadd`, `geoadd` and `json.set`, `gt` and `lt` for `zadd`.
        pub condition: Condition = "always",
        /// How many elements are kept: the newest of a list, the highest scores of a sorted set, about the newest of a stream.
        pub trim: Option<NonZeroU32>,
        /// How long a key lives, counted from `CONNECT_REDIS_TTL_FROM`; each record that is written to it counts anew. With
        /// `keep` a `set` leaves the expiry as it is. For ever if unset.
        pub ttl: Option<Ttl>,
        /// What the life of a key is counted from. Only `now` lets a replay prolong it. A time that lies in the past deletes the
        /// key. With a time of the record (`header:expires`, `value.expires`) and no `CONNECT_REDIS_TTL` it is the end itself.
        pub ttl_from: ExpiryFrom = "timestamp",
        /// Where offsets are kept: in `redis`, beside the data and changed in one step with it, or in `kafka` alone.
        pub offsets: Offsets = "redis",
        /// The hash that keeps the offsets; `connect:offsets:` and the connector's name if unset.
        pub offsets_key: Option<String>,
        /// What readers see at once: a `record`, or a `batch` however long Redis serves nobody else meanwhile.
        pub atomic: Atomic = "record",
        /// Send only the last write to each key of a batch; the others count as superseded.
        pub collapse: bool = "false",
        /// Start although Redis may evict the offsets (`maxmemory-policy` `allkeys-*`) of a command that must not repeat.
        pub allow_eviction: bool = "false",
        /// How long Redis may take for one answer.
        pub timeout: Duration = "10s",
        /// The most records that one script writes; Redis serves nobody else meanwhile.
        pub script_records: NonZeroUsize = "4000",
        /// The most bytes that one script writes, unless one record alone has more.
        pub script_bytes: ByteSize = "4MiB",
    }
    rule (timeout) {
        timeout.is_zero().then(|| "must be longer than 0s".to_owned())
    }
    rule (cert_file, key_file) {
        (cert_file.is_some() != key_file.is_some()).then(|| "set both or neither".to_owned())
    }
    rule (command, condition) {
        let fits = match condition {
            Condition::Always => true,
            Condition::Nx | Condition::Xx => {
                matches!(command, Command::Set | Command::ZAdd | Command::GeoAdd | Command::JsonSet)
            }
            Condition::Gt | Condition::Lt => matches!(command, Command::ZAdd),
        };
        (!fits).then(|| "nx and xx go with set, zadd, geoadd and json.set; gt and lt with zadd".to_owned())
    }
    rule (command, trim) {
        let fits = matches!(command, Command::RPush | Command::LPush | Command::ZAdd | Command::XAdd);
        (trim.is_some() && !fits).then(|| "only rpush, lpush, zadd and xadd can be trimmed".to_owned())
    }
    rule (command, longitude, latitude) {
        let given = longitude.is_some() && latitude.is_some();
        let none = longitude.is_none() && latitude.is_none();
        let fits = if *command == Command::GeoAdd { given } else { none };
        (!fits).then(|| "geoadd needs both longitude and latitude, other commands none".to_owned())
    }
    rule (field, fields) {
        (field.is_some() && fields.is_some()).then(|| "choose one field or a list of fields".to_owned())
    }
    rule (hash_tombstone, field, fields) {
        let named = field.is_some() || fields.is_some();
        (*hash_tombstone == HashTombstone::Fields && !named).then(|| "name the fields that a tombstone removes".to_owned())
    }
    rule (command, ttl, ttl_from) {
        match ttl {
            Some(Ttl::Keep) if *command != Command::Set => {
                Some("keep goes with set; other commands leave the expiry alone if there is no CONNECT_REDIS_TTL".to_owned())
            }
            // A time of the record is an end by itself.
            _ if command.publishes() && (ttl.is_some() || matches!(ttl_from, ExpiryFrom::Record(_))) => {
                Some("what is published does not expire".to_owned())
            }
            _ => None,
        }
    }
    rule (command, collapse, condition, ttl, path) {
        let whole = match command {
            Command::Set => !matches!(ttl, Some(Ttl::Keep)),
            Command::JsonSet => path == "$",
            _ => false,
        };
        (*collapse && !(whole && *condition == Condition::Always)).then(|| {
            "only whole values can be collapsed: set, or json.set with the path $, without condition and without keep".to_owned()
        })
    }
    rule (url, atomic) {
        (url.is_cluster() && *atomic == Atomic::Batch).then(|| "no step in a cluster spans its slots".to_owned())
    }
}
