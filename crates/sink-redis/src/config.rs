//! The settings of the sink.

use std::num::NonZeroUsize;
use std::time::Duration;

use connect_core::config::{ByteSize, FilePath, SecretString, Setting, hide_credentials};
use connect_core::{Template, section};

/// Where Redis is. Its text may hold credentials, so it is never shown whole.
#[derive(Clone)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// The text, credentials included.
    pub fn expose(&self) -> &str {
        &self.0
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
        fred::types::config::Config::from_url(text).map_err(|error| error.details().to_owned())?;
        Ok(Self(text.to_owned()))
    }

    fn show(text: &str) -> String {
        hide_credentials(text)
    }
}

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
        /// Template of the key that a record is written to.
        pub key: Template = "{key}",
        /// Template of the value that is written.
        pub value: Template = "{value}",
        /// How long a key lives, counted from the record's timestamp: a replay does not prolong it. A record that is older
        /// deletes its key. Keys live for ever if unset.
        pub ttl: Option<Duration>,
        /// The hash that keeps the offsets beside the data; `connect:offsets:` and the connector's name if unset.
        pub offsets_key: Option<String>,
        /// How long Redis may take for one answer.
        pub timeout: Duration = "10s",
        /// The most records that one script writes; Redis serves nobody else meanwhile.
        pub script_records: NonZeroUsize = "4000",
        /// The most bytes that one script writes, unless one record alone has more.
        pub script_bytes: ByteSize = "4MiB",
    }
    rule (ttl) {
        let zero = ttl.is_some_and(|ttl| ttl.as_millis() == 0);
        zero.then(|| "a key must live for at least 1ms; unset it for keys that live for ever".to_owned())
    }
    rule (timeout) {
        timeout.is_zero().then(|| "must be longer than 0s".to_owned())
    }
}
