//! The checks of the testkit: of what replaces, and of what accumulates.

use std::net::SocketAddr;

use connect_core::config::Section;
use connect_core::{Record, SinkError};
use connect_testkit::conformance::{Dump, Harness, Place, Promise, conformance};
use connect_testkit::store::{Effect, oracle};
use sink_redis::{RedisConfig, RedisSink};

use crate::support::Server;

/// Keys and values of a prefix, one after the other; a list as the whole of its elements. What `poison` makes is left out.
const DUMP: &str = "local found = {} \
    for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do \
        local kind = redis.call('TYPE', key).ok \
        if kind ~= 'set' then \
            table.insert(found, string.sub(key, #ARGV[1] + 1)) \
            local list = kind == 'list' \
            table.insert(found, list and table.concat(redis.call('LRANGE', key, 0, -1)) or redis.call('GET', key)) \
        end \
    end return found";

struct Redis {
    server: Server,
    /// `CONNECT_REDIS_COMMAND`.
    command: &'static str,
}

impl Harness for Redis {
    type Sink = RedisSink;

    async fn connect(&self, place: &Place) -> Result<RedisSink, SinkError> {
        let url = place.through.map_or_else(|| self.server.redis.url(), |address| format!("redis://{address}"));
        let pairs = [
            ("CONNECT_REDIS_URL", url.as_str()),
            ("CONNECT_REDIS_COMMAND", self.command),
            ("CONNECT_REDIS_KEY", &format!("{}:{{key}}", place.name)),
            ("CONNECT_REDIS_TIMEOUT", "2s"),
        ];
        let config = RedisConfig::from_pairs(&pairs).map_err(|problems| SinkError::fatal(problems.to_string()))?;
        RedisSink::new(config, &place.name, &["conformance".to_owned()]).map_err(SinkError::fatal)
    }

    async fn dump(&self, place: &Place) -> Dump {
        let found = self.server.send(&["EVAL", DUMP, "0", &format!("{}:", place.name)]).await.unwrap();
        let words: Vec<Vec<u8>> =
            found.into_array().into_iter().map(|word| word.into_bytes().unwrap().to_vec()).collect();
        words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }

    fn promises(&self) -> &[Promise] {
        &[Promise::Guarded, Promise::KeepsOffsets, Promise::Fenced, Promise::Deletes]
    }

    fn address(&self) -> Option<SocketAddr> {
        self.server.redis.url().strip_prefix("redis://")?.trim_end_matches('/').parse().ok()
    }

    /// A key of another type, which only a command that doesn't replace it minds.
    async fn poison(&self, place: &Place, record: Record) -> Option<Record> {
        let key = format!("{}:{}", place.name, String::from_utf8_lossy(record.key.as_ref()?));
        self.server.send(&["SADD", &key, "another type"]).await.unwrap();
        (self.command != "set").then_some(record)
    }

    fn expect(&self, records: &[Record]) -> Dump {
        oracle(if self.command == "set" { Effect::Put } else { Effect::Append }, records)
    }
}

async fn conforms(command: &'static str) {
    let report = conformance(&Redis { server: Server::start().await, command }).await;
    report.assert();
    let by_proxy = report.findings().iter().filter(|(name, _)| name.contains("connection") || name.contains("late"));
    for (name, finding) in by_proxy {
        assert!(!format!("{finding:?}").contains("no address"), "{name} was not tried");
    }
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_replaces_conforms() {
    conforms("set").await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn what_accumulates_conforms() {
    conforms("rpush").await;
}
