//! What Redis and its client say when something goes wrong, and what that means for the records.

use connect_core::{Rejection, SinkError};
use fred::error::{Error, ErrorKind};

/// What an error means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It may pass: send again. The first field is the `reason` label of `connect_retries_total`.
    Transient(&'static str, &'static str),
    /// A person must change something.
    Fatal(&'static str),
    /// This record can never be written.
    Rejected(&'static str),
}

use Meaning::{Fatal, Rejected, Transient};

/// Error codes and texts of Redis, the more specific first: a text counts wherever it stands, since a script of an
/// older server wraps the error of a command in its own.
const TABLE: &[(&str, Meaning)] = &[
    ("OOM ", Transient("out_of_memory", "Redis is out of memory: raise maxmemory, free some, or let it evict")),
    (
        "READONLY ",
        Transient("read_only", "this Redis is a replica: a fail-over is under way or the address is not the master's"),
    ),
    ("LOADING ", Transient("loading", "Redis is loading its data")),
    ("MASTERDOWN ", Transient("loading", "this replica has lost its master")),
    ("CLUSTERDOWN ", Transient("cluster_down", "the cluster does not serve every slot: see CLUSTER INFO")),
    // The client's own words for it: what the nodes said is lost.
    (
        "Invalid or missing cluster state",
        Transient("cluster_down", "the cluster does not serve every slot or a node is gone: see CLUSTER INFO"),
    ),
    ("TRYAGAIN ", Transient("slot_moving", "a slot is being moved to another node")),
    ("MOVED ", Transient("slot_moving", "a slot has moved to another node")),
    ("ASK ", Transient("slot_moving", "a slot is being moved to another node")),
    // Of a script that found a key of its slot on another node after all.
    ("non local key in a cluster node", Transient("slot_moving", "a slot is being moved to another node")),
    ("BUSY ", Transient("busy", "a script blocks Redis: SCRIPT KILL ends one that has not written")),
    ("MISCONF ", Transient("can_not_save", "Redis can't save to its disk and refuses writes: see its log")),
    ("NOREPLICAS ", Transient("no_replicas", "fewer replicas than min-replicas-to-write are in step")),
    ("UNBLOCKED ", Transient("read_only", "Redis changed its role")),
    ("max number of clients reached", Transient("connection", "Redis takes no more clients: see maxclients")),
    ("NOAUTH ", Fatal("Redis wants a password: set CONNECT_REDIS_PASSWORD")),
    ("WRONGPASS ", Fatal("Redis refuses the credentials: check CONNECT_REDIS_USERNAME and CONNECT_REDIS_PASSWORD")),
    ("invalid password", Fatal("Redis refuses the password: check CONNECT_REDIS_PASSWORD")),
    ("without any password configured", Fatal("Redis has no password: unset CONNECT_REDIS_PASSWORD")),
    ("NOPERM ", Fatal(NO_PERMISSION)),
    ("can't run this command", Fatal(NO_PERMISSION)),
    ("can't access at least one of the keys", Fatal(NO_PERMISSION)),
    ("ACL failure in script", Fatal(NO_PERMISSION)),
    ("DENIED ", Fatal("Redis runs in protected mode: give it a password or bind it to an address")),
    ("CROSSSLOT ", Fatal("one record's keys lie in several slots: put a hash tag into the templates")),
    ("DB index is out of range", Fatal("this Redis has no database of that number: check CONNECT_REDIS_URL")),
    ("SELECT is not allowed in cluster mode", Fatal("a cluster has database 0 only: check CONNECT_REDIS_URL")),
    ("cluster support disabled", Fatal("this Redis is no cluster: check CONNECT_REDIS_URL")),
    (
        "unknown command",
        Fatal("this Redis lacks a command: a module is missing, the version is too old, or it was renamed"),
    ),
    (
        "Unknown Redis command",
        Fatal("this Redis lacks a command: a module is missing, the version is too old, or it was renamed"),
    ),
    ("WRONGTYPE ", Rejected("the key holds another type of value")),
    ("INVALIDOBJ ", Rejected("the key holds no valid HyperLogLog")),
    ("not an integer", Rejected("the stored value or the amount is not an integer of 64 bits")),
    ("not a valid float", Rejected("the stored value, the amount or the score is not a number")),
    ("would overflow", Rejected("the sum does not fit 64 bits")),
    ("would produce NaN or Infinity", Rejected("the sum is not a finite number")),
    ("not a number (NaN)", Rejected("the resulting score is not a number")),
    ("invalid longitude,latitude pair", Rejected("longitude or latitude is out of range")),
    ("string exceeds maximum allowed size", Rejected("the value is larger than proto-max-bulk-len")),
    (
        "exhausted the last possible ID",
        Rejected("the stream holds the highest id that there is, and takes no more entries"),
    ),
    ("invalid expire time", Rejected("the expiry is out of range")),
    ("Existing key has wrong Redis type", Rejected("the key holds another type of value than JSON")),
    ("Error occurred on position", Fatal("the server's JSON module does not understand CONNECT_REDIS_PATH")),
    ("objects must be created at the root", Rejected("the key holds no JSON document that this path could lie in")),
    // "number out of range at line 1 column 9": what RedisJSON says of JSON that is valid and still too much for it.
    (" column ", Rejected("the server's JSON module can't hold the document")),
];

const NO_PERMISSION: &str =
    "the ACL of CONNECT_REDIS_USERNAME does not allow this: grant its commands, its keys and the offsets key";

/// What the text of an error reply means; `None`: not known, so it may pass.
pub fn meaning(text: &str) -> Option<&'static Meaning> {
    TABLE.iter().find(|(part, _)| text.contains(part)).map(|(_, meaning)| meaning)
}

/// Whether Redis itself said so: its errors begin with a word in capitals.
pub fn is_reply(text: &str) -> bool {
    let word = text.split(' ').next().unwrap_or_default();
    word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The error of one command inside a script, `alone` if the command wrote nothing but this record.
pub fn of_item(text: &str, alone: bool) -> Result<Rejection, SinkError> {
    match meaning(text) {
        Some(Rejected(reason)) if alone => Ok(Rejection::new(format!("Redis refuses the record: {reason}"))),
        Some(Rejected(reason)) => Err(SinkError::transient("redis", format!("Redis refuses a batch: {reason}"))),
        Some(other) => Err(error(other, text)),
        None => Err(SinkError::transient("redis", said(text))),
    }
}

/// The error of a whole call.
pub fn of_call(failure: &Error) -> SinkError {
    if let Some(known) = meaning(failure.details()) {
        return error(known, failure.details());
    }
    match failure.kind() {
        ErrorKind::Auth => SinkError::fatal(format!(
            "Redis refuses the credentials, see CONNECT_REDIS_USERNAME and CONNECT_REDIS_PASSWORD: {}",
            failure.details()
        )),
        ErrorKind::Config | ErrorKind::Url | ErrorKind::InvalidArgument => {
            SinkError::fatal(format!("the Redis client can't work with these settings: {}", failure.details()))
        }
        ErrorKind::Tls => SinkError::transient(
            "tls",
            format!("no TLS connection to Redis, see CONNECT_REDIS_URL and CONNECT_REDIS_CA_FILE: {failure}"),
        ),
        ErrorKind::Timeout => SinkError::transient("timeout", "Redis did not answer in time, see CONNECT_REDIS_URL"),
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Routing | ErrorKind::Sentinel | ErrorKind::Cluster => {
            SinkError::transient("connection", format!("no connection to Redis, see CONNECT_REDIS_URL: {failure}"))
        }
        ErrorKind::Backpressure => SinkError::transient("busy", "too many calls to Redis wait"),
        _ => SinkError::transient("redis", said(failure.details())),
    }
}

/// The error of a whole script, which keeps its offsets in `key`.
pub fn of_script(failure: &Error, key: &str) -> SinkError {
    match meaning(failure.details()) {
        Some(Rejected(reason)) => SinkError::fatal(format!(
            "the offsets can't be kept in {key} in Redis: {reason}. Choose another CONNECT_NAME or \
             CONNECT_REDIS_OFFSETS_KEY"
        )),
        _ => of_call(failure),
    }
}

fn error(meaning: &Meaning, text: &str) -> SinkError {
    match meaning {
        Transient(reason, advice) => SinkError::transient(reason, format!("{advice} ({})", code(text))),
        Fatal(advice) => SinkError::fatal(format!("{advice} ({})", code(text))),
        // No record is concerned here: what is in the way must be found by a person.
        Rejected(reason) => SinkError::fatal(format!("{reason} ({})", code(text))),
    }
}

fn said(text: &str) -> String {
    format!("Redis said: {}", code(text))
}

/// The start of what Redis said: enough to search for, and without the arguments that it quotes of a command it does not
/// know, for those are a record's.
pub fn code(text: &str) -> &str {
    let text = text.split(", with args beginning with").next().unwrap_or_default();
    let end = text.char_indices().nth(120).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &'static str) -> SinkError {
        of_call(&Error::new(ErrorKind::Unknown, text))
    }

    #[test]
    fn what_redis_says_and_what_it_means() {
        let transient = [
            ("OOM command not allowed when used memory > 'maxmemory'.", "out_of_memory"),
            ("READONLY You can't write against a read only replica. script: 1f, on @user_script:3.", "read_only"),
            ("ERR Error running script: @user_script:3: -READONLY You can't write", "read_only"),
            ("LOADING Redis is loading the dataset in memory", "loading"),
            ("MASTERDOWN Link with MASTER is down", "loading"),
            ("CLUSTERDOWN Hash slot not served", "cluster_down"),
            ("Invalid or missing cluster state.", "cluster_down"),
            ("TRYAGAIN Multiple keys request during rehashing of slot", "slot_moving"),
            ("MOVED 3999 127.0.0.1:6381", "slot_moving"),
            ("ASK 3999 127.0.0.1:6381", "slot_moving"),
            ("BUSY Redis is busy running a script.", "busy"),
            ("NOREPLICAS Not enough good replicas to write.", "no_replicas"),
            ("ERR something that nobody has seen yet", "redis"),
        ];
        for (text, expected) in transient {
            let SinkError::Transient { reason, .. } = call(text) else { panic!("{text}: {:?}", call(text)) };
            assert_eq!(reason, expected, "{text}");
            assert!(matches!(of_item(text, true), Err(SinkError::Transient { .. })), "{text}");
        }
        for text in [
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOPERM this user has no permissions to run the 'set' command",
            "ERR The user executing the script can't run this command or subcommand",
            "ERR unknown command 'JSON.SET', with args beginning with: ",
        ] {
            assert!(matches!(call(text), SinkError::Fatal(_)), "{text}");
            assert!(matches!(of_item(text, true), Err(SinkError::Fatal(_))), "{text}");
        }
        for text in [
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR value is not an integer or out of range",
            "ERR increment or decrement would overflow",
        ] {
            assert!(of_item(text, true).is_ok(), "{text}");
            assert!(of_item(text, false).is_err(), "one of many records: which is not known");
        }
    }

    #[test]
    fn a_lost_connection_passes() {
        for kind in
            [ErrorKind::IO, ErrorKind::Canceled, ErrorKind::Timeout, ErrorKind::Backpressure, ErrorKind::Unknown]
        {
            assert!(matches!(of_call(&Error::new(kind, "")), SinkError::Transient { .. }));
        }
        assert!(matches!(of_call(&Error::new(ErrorKind::Auth, "")), SinkError::Fatal(_)));
    }

    #[test]
    fn redis_speaks_in_capitals() {
        for text in ["ERR x", "NOSCRIPT No matching script.", "MOVED 1 127.0.0.1:7000", "READONLY You can't"] {
            assert!(is_reply(text), "{text}");
        }
        for text in ["", "Os { code: 111 }", "Invalid or missing cluster state.", "Canceled", "IO"] {
            assert!(!is_reply(text), "{text}");
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        let text = "é".repeat(500);
        assert_eq!(code(&text).chars().count(), 120);
    }

    #[test]
    fn what_redis_quotes_of_a_record_is_not_shown() {
        let text = "ERR unknown command 'JSON.SET', with args beginning with: 'user:1' '$' '{\"name\":\"Ada\"}' ";
        assert_eq!(code(text), "ERR unknown command 'JSON.SET'");
        assert!(!call(text).to_string().contains("Ada"));
    }
}
