//! The section of every connector that says what is read, and how the brokers are reached.

use std::collections::BTreeSet;
use std::time::Duration;

use bytesize::ByteSize;
use chrono::{DateTime, NaiveDate};
use secrecy::SecretString;

use super::{FilePath, HostPort, HttpUrl, List, Setting};
use crate::settings::{OutOfRange, Start, Stop};
use crate::{section, words};

section! {
    /// What is read from Kafka, and how the brokers are reached.
    pub struct KafkaConfig = "KAFKA" {
        /// Brokers to ask for all the others.
        pub brokers: List<HostPort>,
        /// Topics to read: their names, or one regular expression that begins with `^` (the end is open unless it says `$`).
        pub topics: Topics,
        /// How often the topics are looked at for new ones and for new partitions.
        pub topics_refresh: Duration = "30s",
        /// Name of the consumer group. Not set: the connector's name.
        pub group: Option<String>,
        /// Who says which partitions are ours: the consumer `group`, or nobody (`static`): then this process reads all of
        /// them, or its part by `CONNECT_SHARD`.
        pub assignment: AssignmentChoice = "group",
        /// How the group is spoken to: `consumer` is the protocol of Kafka 4, `classic` every broker's; `auto` takes the
        /// newest that the broker offers.
        pub group_protocol: GroupProtocol = "auto",
        /// A name that stays with this process when it restarts, such as its pod's: then a restart moves no partitions.
        pub instance_id: Option<String>,
        /// After this long without a heartbeat the group takes this process for dead and gives its partitions to others. With the
        /// protocol of Kafka 4 that is for the broker to say (`group.consumer.session.timeout.ms`, 45s by default); this is then only
        /// how long this process, unheard, goes on by itself.
        pub session_timeout: Duration = "45s",
        /// How long the others wait for this process to finish with partitions that are to move.
        pub rebalance_timeout: Duration = "60s",
        /// Where to begin when nothing is stored or committed: `earliest`, `latest`, `timestamp:2026-01-31T12:00:00Z`
        /// (also a date, or milliseconds since 1970), `offset:42` of each partition.
        pub start: Start = "earliest",
        /// Who reads: `kafka` passes everything that Kafka stores; `rskafka` is for plain topics and stops at transactions.
        pub reader: ReaderChoice = "kafka",
        /// Whether only committed transactions are read (`read_committed`), or everything as it was written (`read_uncommitted`).
        pub isolation: Isolation = "read_committed",
        /// The rack or zone this process runs in, so that a replica nearby is read where the brokers allow it.
        pub rack: Option<String>,
        /// What one fetch of a partition asks for. Larger means fewer requests and more of the memory for each.
        pub fetch_bytes: ByteSize = "1MiB",
        /// When to stop without a signal: `never`, or at the `end` that each partition had at the start.
        pub stop: Stop = "never",
        /// What to do when records were deleted before they were read: `fatal` stops with exit code 1; `earliest` and `latest`
        /// go on there, and log and count what is missing.
        pub out_of_range: OutOfRange = "fatal",
        /// How connections are secured.
        pub security: Security = "plaintext",
        /// How the user proves who he is. Required with `sasl_plaintext` and `sasl_tls`.
        pub sasl_mechanism: Option<SaslMechanism>,
        /// Name of the user; the client id where tokens come from `sasl_token_url`. Required with `sasl_plaintext` and
        /// `sasl_tls`, but not with `sasl_token_file`.
        pub sasl_username: Option<String>,
        /// Password of the user; the client secret where tokens come from `sasl_token_url`. Required as the username is.
        pub sasl_password: Option<SecretString>,
        /// File with the token for `oauthbearer`, read again for each connection.
        pub sasl_token_file: Option<FilePath>,
        /// Token endpoint of an identity provider that gives tokens for `oauthbearer` in exchange for the username and the
        /// password (client credentials). Trusted are the system's authorities and those of `ca_file`.
        pub sasl_token_url: Option<HttpUrl>,
        /// What the token from `sasl_token_url` is for, where the provider wants to know.
        pub sasl_scope: Option<String>,
        /// PEM file of the authorities to trust. Not set: those of the system.
        pub ca_file: Option<FilePath>,
        /// PEM file of the client's certificate and what leads to its authority, for mutual TLS.
        pub cert_file: Option<FilePath>,
        /// PEM file of the client's private key, for mutual TLS.
        pub key_file: Option<FilePath>,
    }
    rule (topics_refresh) {
        (*topics_refresh < Duration::from_millis(100)).then(|| "expected at least 100ms".to_owned())
    }
    rule (session_timeout, rebalance_timeout) {
        let right = Duration::from_secs(1)..=Duration::from_secs(3600);
        let both = right.contains(session_timeout) && right.contains(rebalance_timeout);
        (!both).then(|| "expected 1s to 1h".to_owned())
    }
    rule (fetch_bytes) {
        let right = ByteSize::kib(1)..=ByteSize::gib(1);
        (!right.contains(fetch_bytes)).then(|| "expected 1KiB to 1GiB".to_owned())
    }
    rule (security, sasl_mechanism) {
        (security.sasl() != sasl_mechanism.is_some()).then(|| security.belongs_to_sasl())
    }
    rule (security, sasl_token_file, sasl_username) {
        let needed = security.sasl() && sasl_token_file.is_none();
        (needed != sasl_username.is_some()).then(|| security.belongs_to_sasl())
    }
    rule (security, sasl_token_file, sasl_password) {
        let needed = security.sasl() && sasl_token_file.is_none();
        (needed != sasl_password.is_some()).then(|| security.belongs_to_sasl())
    }
    rule (sasl_mechanism, sasl_token_file, sasl_token_url) {
        let given = usize::from(sasl_token_file.is_some()) + usize::from(sasl_token_url.is_some());
        let needed = usize::from(*sasl_mechanism == Some(SaslMechanism::OauthBearer));
        (given != needed).then(|| "`oauthbearer` needs one of the two, nothing else takes any".to_owned())
    }
    rule (sasl_token_url, sasl_scope) {
        (sasl_scope.is_some() && sasl_token_url.is_none()).then(|| "a scope is for a token's URL".to_owned())
    }
    rule (security, ca_file) {
        (ca_file.is_some() && !security.tls()).then(|| "certificates are for `tls` and `sasl_tls`".to_owned())
    }
    rule (security, cert_file) {
        (cert_file.is_some() && !security.tls()).then(|| "certificates are for `tls` and `sasl_tls`".to_owned())
    }
    rule (cert_file, key_file) {
        (cert_file.is_some() != key_file.is_some()).then(|| "set both or neither".to_owned())
    }
}

words!(Stop { "never" => Never, "end" => End });
words!(OutOfRange { "fatal" => Fatal, "earliest" => Earliest, "latest" => Latest });

words!(AssignmentChoice { "group" => Group, "static" => Static });
words!(GroupProtocol { "auto" => Auto, "classic" => Classic, "consumer" => Consumer });

/// Who says which partitions are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignmentChoice {
    /// The consumer group.
    Group,
    /// Nobody.
    Static,
}

/// How the group is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// As new as the broker offers.
    Auto,
    /// JoinGroup and SyncGroup, with cooperative rebalancing.
    Classic,
    /// KIP-848.
    Consumer,
}

words!(ReaderChoice { "kafka" => Kafka, "rskafka" => Rskafka });

/// Which of the two readers is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderChoice {
    /// Our own, which passes everything.
    Kafka,
    /// rskafka, for plain topics.
    Rskafka,
}

words!(Isolation { "read_committed" => ReadCommitted, "read_uncommitted" => ReadUncommitted });

/// Whether records of undecided and aborted transactions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Only what is committed; an open transaction holds back what follows it.
    ReadCommitted,
    /// Everything as it was written.
    ReadUncommitted,
}

impl Isolation {
    /// As the protocol has it.
    pub fn level(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}

/// How connections to the brokers are secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    Plaintext,
    /// Encrypted.
    Tls,
    /// With a user, not encrypted.
    SaslPlaintext,
    /// With a user, encrypted.
    SaslTls,
}

words!(Security {
    "plaintext" => Plaintext, "tls" => Tls, "sasl_plaintext" => SaslPlaintext, "sasl_tls" => SaslTls,
});

impl Security {
    /// Whether connections are encrypted.
    pub fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::SaslTls)
    }

    /// Whether a user logs in.
    pub fn sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslTls)
    }

    fn belongs_to_sasl(self) -> String {
        if self.sasl() {
            "a mechanism, a username and a password are required with it, or a token's file".to_owned()
        } else {
            "users log in with `sasl_plaintext` and `sasl_tls` only".to_owned()
        }
    }
}

/// How a user proves who he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password as it is.
    Plain,
    /// SCRAM with SHA-256.
    ScramSha256,
    /// SCRAM with SHA-512.
    ScramSha512,
    /// A token of an identity provider.
    OauthBearer,
}

impl SaslMechanism {
    /// Its name in Kafka's protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

words!(SaslMechanism {
    "plain" => Plain, "scram-sha-256" => ScramSha256, "scram-sha-512" => ScramSha512,
    "oauthbearer" => OauthBearer,
});

/// The topics to read, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics(Vec<String>);

impl Topics {
    /// Their names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether this one is read. A pattern never takes the dead-letter topic, whatever its name.
    pub fn contains(&self, topic: &str) -> bool {
        self.0.iter().any(|name| name == topic)
    }

    /// The regular expression, when it is not a list.
    pub fn pattern(&self) -> Option<&str> {
        self.0.first().map(String::as_str).filter(|name| name.starts_with('^'))
    }
}

impl Setting for Topics {
    fn expected() -> String {
        "names of topics, separated by commas, or a regular expression such as `^orders-`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().starts_with('^') {
            let pattern = text.trim().to_owned();
            regex::Regex::new(&pattern).map_err(|error| error.to_string())?;
            return Ok(Self(vec![pattern]));
        }
        let mut seen = BTreeSet::new();
        let mut names = Vec::new();
        for name in text.split(',').map(str::trim) {
            check_topic(name)?;
            if !seen.insert(name) {
                return Err(format!("{name:?} is named twice"));
            }
            names.push(name.to_owned());
        }
        Ok(Self(names))
    }
}

/// Kafka's own rule for names of topics.
pub(super) fn check_topic(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name is missing".to_owned());
    }
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    if name.len() > 249 || name == "." || name == ".." || !name.chars().all(legal) {
        return Err(format!("{name:?} is no name of a topic: up to 249 of a-z A-Z 0-9 . _ -"));
    }
    Ok(())
}

impl Setting for Start {
    fn expected() -> String {
        "one of `earliest` `latest` `timestamp:TIME` `offset:NUMBER`".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (word, argument) = text.split_once(':').map_or((text, None), |(word, rest)| (word, Some(rest)));
        match (word.to_ascii_lowercase().as_str(), argument) {
            ("earliest", None) => Ok(Self::Earliest),
            ("latest", None) => Ok(Self::Latest),
            ("timestamp", Some(time)) => milliseconds(time).map(Self::Timestamp).ok_or_else(|| {
                "a TIME is like `2026-01-31T12:00:00Z`, `2026-01-31` (UTC) or `1769860800000`, not before 1970"
                    .to_owned()
            }),
            ("offset", Some(offset)) => match offset.parse() {
                Ok(offset) if offset >= 0 => Ok(Self::Offset(offset)),
                _ => Err("an offset is a whole number from 0".to_owned()),
            },
            _ => Err(String::new()),
        }
    }
}

fn milliseconds(time: &str) -> Option<i64> {
    let stated = time.parse::<i64>().ok();
    let moment = || DateTime::parse_from_rfc3339(time).ok().map(|moment| moment.timestamp_millis());
    let midnight = || Some(time.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis());
    stated.or_else(moment).or_else(midnight).filter(|milliseconds| *milliseconds >= 0)
}

#[cfg(test)]
mod tests {
    use super::super::Section;
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<KafkaConfig, String> {
        let always = [("CONNECT_KAFKA_BROKERS", "a:1, [::1]:9092"), ("CONNECT_KAFKA_TOPICS", "t, u")];
        KafkaConfig::from_pairs(&[&always, pairs].concat()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn brokers_and_topics_are_lists() {
        let config = read(&[]).expect("valid");
        let brokers: Vec<_> = config.brokers.iter().map(ToString::to_string).collect();
        assert_eq!(brokers, ["a:1", "[::1]:9092"]);
        assert_eq!(config.topics.names(), ["t", "u"]);
        assert!(config.topics.contains("u") && !config.topics.contains("v"));
    }

    #[test]
    fn a_list_names_the_item_that_is_wrong() {
        for (text, part) in [
            ("", "item 1 is empty"),
            ("a:1,", "item 2 is empty"),
            ("a:1,b", "item 2: the port is missing"),
            ("a:0", "item 1: the port is not a number"),
            (":9092", "item 1: the host is missing"),
            ("::1:9092", "brackets"),
            ("kafka://a:1", "too many colons"),
            ("user@a:1", "without scheme"),
        ] {
            let problem = List::<HostPort>::parse(text).expect_err(text);
            assert!(problem.contains(part), "{text:?}: {problem}");
        }
        for (text, part) in [("", "missing"), ("a,a", "twice"), ("^a(", "unclosed group"), ("..", "no name")] {
            let problem = Topics::parse(text).expect_err(text);
            assert!(problem.contains(part), "{text:?}: {problem}");
        }
    }

    #[test]
    fn a_start_is_a_place_or_a_time() {
        let noon = 1_769_860_800_000;
        for (text, start) in [
            ("earliest", Start::Earliest),
            ("Latest", Start::Latest),
            ("offset:0", Start::Offset(0)),
            ("timestamp:1769860800000", Start::Timestamp(noon)),
            ("timestamp:2026-01-31T12:00:00Z", Start::Timestamp(noon)),
            ("timestamp:2026-01-31T13:00:00+01:00", Start::Timestamp(noon)),
            ("timestamp:2026-01-31", Start::Timestamp(noon - 43_200_000)),
        ] {
            assert_eq!(Start::parse(text), Ok(start), "{text}");
        }
        for text in [
            "",
            "first",
            "earliest:",
            "offset",
            "offset:-1",
            "offset:x",
            "timestamp:",
            "timestamp:noon",
            "timestamp:-1",
        ] {
            assert!(Start::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fetch_has_a_sensible_size() {
        assert_eq!(read(&[]).expect("valid").fetch_bytes, ByteSize::mib(1));
        for size in ["0", "1023", "2GiB"] {
            assert!(read(&[("CONNECT_KAFKA_FETCH_BYTES", size)]).expect_err(size).contains("1KiB to 1GiB"));
        }
    }

    #[test]
    fn security_belongs_together() {
        let user = [
            ("CONNECT_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"),
            ("CONNECT_KAFKA_SASL_USERNAME", "me"),
            ("CONNECT_KAFKA_SASL_PASSWORD", "007"),
        ];
        let sasl = [&user[..], &[("CONNECT_KAFKA_SECURITY", "sasl_plaintext")]].concat();
        let config = read(&sasl).expect("valid");
        assert_eq!(config.sasl_mechanism, Some(SaslMechanism::ScramSha512));
        assert!(config.security.sasl() && !config.security.tls());

        for variable in user {
            let problem = read(&[variable]).expect_err("no sasl");
            assert!(problem.contains(variable.0) && problem.contains("only"), "{problem}");
            let rest: Vec<_> = sasl.iter().copied().filter(|other| *other != variable).collect();
            let problem = read(&rest).expect_err("incomplete");
            assert!(problem.contains(&format!("{} (not set)", variable.0)), "{problem}");
        }
    }

    #[test]
    fn certificates_belong_to_tls() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("UTF-8");
        let (ca, certificate, key) =
            (("CONNECT_KAFKA_CA_FILE", path), ("CONNECT_KAFKA_CERT_FILE", path), ("CONNECT_KAFKA_KEY_FILE", path));
        let tls = ("CONNECT_KAFKA_SECURITY", "tls");
        let config = read(&[tls, ca, certificate, key]).expect("valid");
        assert_eq!(config.key_file.as_deref(), Some(file.path()));
        assert!(read(&[ca]).expect_err("no TLS").contains("`sasl_tls`"));
        assert!(read(&[certificate, key]).expect_err("no TLS").contains("`sasl_tls`"));
        assert!(read(&[tls, certificate]).expect_err("no key").contains("KEY_FILE (not set)"));
        assert!(read(&[tls, key]).expect_err("no certificate").contains("CERT_FILE (not set)"));
        let absent = read(&[tls, ("CONNECT_KAFKA_CA_FILE", "/nowhere/ca.pem")]).expect_err("no file");
        assert!(absent.contains("CONNECT_KAFKA_CA_FILE (environment): expected the path"), "{absent}");
    }
}
