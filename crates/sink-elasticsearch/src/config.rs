//! The settings of the sink.

use std::num::NonZeroUsize;
use std::time::Duration;

use connect_core::config::{ByteSize, FilePath, HttpUrl, List, SecretString, Setting};
use connect_core::{Template, section, words};

/// What a record with a value does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its value is the document.
    Index,
    /// Its value is the document, unless there is one of its id already.
    Create,
    /// Its value is merged into the document, which is made if there is none.
    Update,
    /// A script changes the document.
    Script,
}

words!(Action { "index" => Index, "create" => Create, "update" => Update, "script" => Script });

/// Where the version of a document comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionFrom {
    /// The record's offset.
    Offset,
    /// The record's timestamp.
    Timestamp,
    /// A header with a number in decimal digits.
    Header(String),
    /// Elasticsearch counts by itself: nothing guards a document against older records.
    None,
}

impl Setting for VersionFrom {
    fn expected() -> String {
        "one of `offset` `timestamp` `header:NAME` `none`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "offset" => Ok(Self::Offset),
            "timestamp" => Ok(Self::Timestamp),
            "none" => Ok(Self::None),
            _ => match text.strip_prefix("header:") {
                Some(name) if !name.is_empty() => Ok(Self::Header(name.to_owned())),
                Some(_) => Err("the name of the header is missing".to_owned()),
                None => Err(String::new()),
            },
        }
    }
}

/// The id of a document: a template, or `generated`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdFrom {
    /// Elasticsearch makes one up for each request: a record that is sent twice is there twice.
    Generated,
    /// Text made from the record.
    Template(Template),
}

impl Setting for IdFrom {
    fn expected() -> String {
        format!("`generated` or {}", Template::expected())
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == "generated" { Ok(Self::Generated) } else { Template::parse(text).map(Self::Template) }
    }
}

/// The field that guards partial updates, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard(pub Option<String>);

impl Setting for Guard {
    fn expected() -> String {
        "the name of a field, or `none`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("it is empty".to_owned()),
            "none" => Ok(Self(None)),
            // Elasticsearch keeps these names for itself.
            _ if text.starts_with('_') => Err("a field's name must not begin with an underscore".to_owned()),
            _ => Ok(Self(Some(text.to_owned()))),
        }
    }
}

section! {
    /// How records get into Elasticsearch or OpenSearch.
    pub struct ElasticsearchConfig = "ELASTICSEARCH" {
        /// The nodes of one cluster. Requests go to them in turn; one that fails is left alone for a while.
        pub urls: List<HttpUrl>,
        /// What a record with a value does: `index` writes its value as the document, `create` does so unless the document
        /// is there already (the only way into a data stream), `update` merges its value into the document, `script` has
        /// CONNECT_ELASTICSEARCH_SCRIPT_FILE change it.
        pub action: Action = "index",
        /// Template of the index, alias or data stream.
        pub index: Template = "{topic}",
        /// Template of the document's id, at most 512 bytes. If unset: the record's key, or TOPIC+PARTITION+OFFSET for a
        /// record without a key. `generated` leaves it to Elasticsearch: a record sent twice is then there twice.
        pub id: Option<IdFrom>,
        /// What guards a document against older records that come late or again. If unset: `offset` with the action `index`,
        /// otherwise `none`. Several topics or partitions that write the same ids need `timestamp` or a header.
        pub version: Option<VersionFrom>,
        /// Whether a record that was written before is written again when it is read again: to reprocess a topic after its
        /// mapping was mended. Older records never cover newer ones either way.
        pub rewrite: bool = "false",
        /// Template of the routing value; the id decides if unset.
        pub routing: Option<Template>,
        /// Template of the name of an ingest pipeline.
        pub pipeline: Option<Template>,
        /// Whether the index has to be an alias; otherwise an index of that name is made where the alias is missing.
        pub require_alias: bool = "false",
        /// Name of a field that gets the record's timestamp where the document lacks it: `@timestamp` for a data stream.
        pub timestamp_field: Option<String>,
        /// The field in which `update` and `script` keep the offsets that a document has seen, so that records which come
        /// late or again change nothing. Map it as an object with `"enabled": false`. `none` leaves documents without guard.
        pub update_guard: Guard = "connect_offsets",
        /// Painless statements for the action `script`: `doc` is the document, `value` the record's value.
        pub script_file: Option<FilePath>,
        /// JSON file with an index template that is put in place before the first write, unless one with the same or a higher
        /// `version` is there.
        pub template_file: Option<FilePath>,
        /// Name of that index template; the connector's name if unset.
        pub template_name: Option<String>,
        /// The index that remembers which life of a topic the offsets in the documents belong to.
        pub topics_index: String = "connect-topics",
        /// Name of the user.
        pub username: Option<String>,
        /// Password of the user.
        pub password: Option<SecretString>,
        /// API key, as `id:secret` or encoded.
        pub api_key: Option<SecretString>,
        /// Bearer token.
        pub token: Option<SecretString>,
        /// PEM file with the authority that signed the server's certificate; well-known authorities if unset.
        /// Read again when it changes.
        pub ca_file: Option<FilePath>,
        /// PEM file with the client's certificate. Read again when it changes.
        pub cert_file: Option<FilePath>,
        /// PEM file with the client's private key.
        pub key_file: Option<FilePath>,
        /// An HTTP proxy. Those that the usual variables name (HTTPS_PROXY …) are not used.
        pub proxy: Option<HttpUrl>,
        /// Name of the user at that proxy.
        pub proxy_username: Option<String>,
        /// Password of the user at that proxy.
        pub proxy_password: Option<SecretString>,
        /// Whether requests are compressed: worth it where the network costs more than the CPU.
        pub gzip: bool = "false",
        /// How long one request may take; not longer than CONNECT_WRITE_TIMEOUT, of which it is two thirds if not given.
        pub timeout: Option<Duration>,
        /// The most requests in flight at once; the connector itself finds how many of them the cluster bears.
        pub max_in_flight: NonZeroUsize = "8",
        /// The most bytes in one request, unless one document alone has more.
        pub request_bytes: ByteSize = "8MiB",
    }
    rule (action, version) {
        let versioned = !matches!(version, None | Some(VersionFrom::None));
        (*action != Action::Index && versioned).then(|| {
            "Elasticsearch refuses a version with any action but index, and the whole bulk with it; unset it (updates are \
             guarded by CONNECT_ELASTICSEARCH_UPDATE_GUARD)".to_owned()
        })
    }
    rule (action, id) {
        let generated = matches!(id, Some(IdFrom::Generated));
        (generated && matches!(action, Action::Update | Action::Script))
            .then(|| "an update needs an id that is known".to_owned())
    }
    rule (id, version) {
        let generated = matches!(id, Some(IdFrom::Generated));
        (generated && *version != Some(VersionFrom::None)).then(|| {
            "documents with generated ids can't be guarded; say so with CONNECT_ELASTICSEARCH_VERSION=none".to_owned()
        })
    }
    rule (action, script_file) {
        ((*action == Action::Script) != script_file.is_some())
            .then(|| "the action script and a script file need each other".to_owned())
    }
    rule (username, password) {
        (username.is_some() != password.is_some()).then(|| "set both or neither".to_owned())
    }
    rule (username, api_key, token) {
        let ways = [username.is_some(), api_key.is_some(), token.is_some()];
        (ways.into_iter().filter(|way| *way).count() > 1).then(|| "set one of them".to_owned())
    }
    rule (cert_file, key_file) {
        (cert_file.is_some() != key_file.is_some()).then(|| "set both or neither".to_owned())
    }
    rule (proxy_username, proxy_password) {
        (proxy_username.is_some() != proxy_password.is_some()).then(|| "set both or neither".to_owned())
    }
    rule (proxy, proxy_username) {
        (proxy.is_none() && proxy_username.is_some()).then(|| "there is no proxy".to_owned())
    }
    rule (timeout) {
        timeout.is_some_and(|timeout| timeout.is_zero()).then(|| "must be longer than 0s".to_owned())
    }
    rule (request_bytes) {
        (request_bytes.as_u64() == 0).then(|| "must be more than nothing".to_owned())
    }
}

impl ElasticsearchConfig {
    /// Where versions come from, the default resolved.
    pub fn version(&self) -> VersionFrom {
        match (&self.version, self.action) {
            (Some(version), _) => version.clone(),
            (None, Action::Index) => VersionFrom::Offset,
            (None, _) => VersionFrom::None,
        }
    }

    /// Whether what guards a document is an offset, which means something within one life of a topic only.
    pub fn guards_by_offset(&self) -> bool {
        match self.action {
            Action::Index => self.version() == VersionFrom::Offset,
            Action::Create => false,
            Action::Update | Action::Script => self.update_guard.0.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use connect_core::config::Section;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ElasticsearchConfig, String> {
        let url = [("CONNECT_ELASTICSEARCH_URLS", "http://es:9200")];
        ElasticsearchConfig::from_pairs(&[&url[..], pairs].concat()).map_err(|problems| problems.lines().join("\n"))
    }

    #[test]
    fn the_version_is_the_offset_where_that_can_be() {
        assert_eq!(read(&[]).unwrap().version(), VersionFrom::Offset);
        for action in ["create", "update"] {
            let config = read(&[("CONNECT_ELASTICSEARCH_ACTION", action)]).unwrap();
            assert_eq!(config.version(), VersionFrom::None, "{action}");
        }
    }

    #[test]
    fn a_version_with_an_action_that_takes_none_is_refused() {
        for action in ["create", "update", "script"] {
            for version in ["offset", "timestamp", "header:v"] {
                let problem =
                    read(&[("CONNECT_ELASTICSEARCH_ACTION", action), ("CONNECT_ELASTICSEARCH_VERSION", version)])
                        .unwrap_err();
                assert!(problem.contains("CONNECT_ELASTICSEARCH_ACTION"), "{problem}");
                assert!(problem.contains("refuses a version"), "{problem}");
            }
        }
        for action in ["create", "update"] {
            read(&[("CONNECT_ELASTICSEARCH_ACTION", action), ("CONNECT_ELASTICSEARCH_VERSION", "none")]).unwrap();
        }
    }

    #[test]
    fn credentials_have_a_place_of_their_own() {
        let problem = read(&[("CONNECT_ELASTICSEARCH_URLS", "http://me:hunter2@es:9200")]).unwrap_err();
        assert!(problem.contains("_USERNAME and _PASSWORD"), "{problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
        let both = [("CONNECT_ELASTICSEARCH_API_KEY", "a:b"), ("CONNECT_ELASTICSEARCH_TOKEN", "t")];
        assert!(read(&both).unwrap_err().contains("set one of them"));
        assert!(read(&[("CONNECT_ELASTICSEARCH_USERNAME", "me")]).unwrap_err().contains("set both or neither"));
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        for (pairs, part) in [
            (&[("CONNECT_ELASTICSEARCH_ACTION", "script")][..], "need each other"),
            (&[("CONNECT_ELASTICSEARCH_ID", "generated")][..], "can't be guarded"),
            (
                &[
                    ("CONNECT_ELASTICSEARCH_ID", "generated"),
                    ("CONNECT_ELASTICSEARCH_ACTION", "update"),
                    ("CONNECT_ELASTICSEARCH_VERSION", "none"),
                ][..],
                "needs an id",
            ),
            (&[("CONNECT_ELASTICSEARCH_VERSION", "header:")][..], "name of the header is missing"),
            (&[("CONNECT_ELASTICSEARCH_UPDATE_GUARD", "_x")][..], "underscore"),
            (&[("CONNECT_ELASTICSEARCH_PROXY", "http://me:hunter2@proxy")][..], "_USERNAME and _PASSWORD"),
            (
                &[("CONNECT_ELASTICSEARCH_PROXY", "http://proxy"), ("CONNECT_ELASTICSEARCH_PROXY_USERNAME", "me")][..],
                "set both",
            ),
            (
                &[("CONNECT_ELASTICSEARCH_PROXY_USERNAME", "me"), ("CONNECT_ELASTICSEARCH_PROXY_PASSWORD", "hunter2")]
                    [..],
                "no proxy",
            ),
            (&[("CONNECT_ELASTICSEARCH_TIMEOUT", "0s")][..], "longer than 0s"),
            (&[("CONNECT_ELASTICSEARCH_URLS", "es:9200")][..], "http://"),
        ] {
            let problem = read(pairs).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
