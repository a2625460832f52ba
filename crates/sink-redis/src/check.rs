//! Whether this Redis can be used with these settings.

use connect_core::{SinkError, TopicPartition};
use fred::types::Value;
use fred::types::scripts::Script;
use tracing::warn;

use crate::config::{Atomic, Command, Offsets, RedisConfig};
use crate::store::Store;
use crate::{script, transaction};

/// The oldest server that knows what the scripts need.
const OLDEST: (u32, u32) = (6, 2);

/// What is looked at.
pub struct Check {
    command: Command,
    keeps_offsets: bool,
    allow_eviction: bool,
    sample_key: Option<Vec<u8>>,
    /// What a record may make the server run on its key.
    commands: Vec<&'static str>,
    allowed: Script,
}

impl Check {
    /// By these settings; `sample_key`: a key as records have it.
    pub fn new(config: &RedisConfig, sample_key: Option<Vec<u8>>) -> Self {
        let mut commands = vec![config.command.name()];
        if !config.command.publishes() {
            commands.push("DEL");
        }
        match config.command {
            Command::Set => commands.push("MSET"),
            Command::HSet => commands.push("HDEL"),
            Command::SAdd => commands.push("SREM"),
            Command::ZAdd | Command::GeoAdd => commands.push("ZREM"),
            _ => {}
        }
        if config.trim.is_some() {
            match config.command {
                Command::ZAdd => commands.push("ZREMRANGEBYRANK"),
                Command::RPush | Command::LPush => commands.push("LTRIM"),
                _ => {}
            }
        }
        if config.command != Command::Set && config.ttl.is_some() {
            commands.extend(["PEXPIREAT", "PEXPIRE"]);
        }
        // With offsets in Redis a script does as well.
        if config.command == Command::Set && config.offsets == Offsets::Kafka && config.atomic == Atomic::Batch {
            commands.extend(["MULTI", "EXEC"]);
        }
        Self {
            command: config.command,
            keeps_offsets: config.offsets == Offsets::Redis,
            allow_eviction: config.allow_eviction,
            sample_key,
            commands,
            allowed: Script::from_lua(script::ALLOWED),
        }
    }

    /// Looks at the server, its commands, the user's permissions and the offsets key.
    ///
    /// # Errors
    /// Why it can't be used.
    pub async fn run(&self, store: &Store) -> Result<(), SinkError> {
        let connection = &store.connection;
        connection.command("PING", Vec::new()).await?;
        match connection.command("INFO", Vec::new()).await {
            Ok(info) => self.look_at_info(&Info(info.as_string().unwrap_or_default()), &store.offsets_key)?,
            Err(SinkError::Fatal(message)) => {
                warn!(message, "INFO is not allowed: version and eviction can't be checked");
            }
            Err(error) => return Err(error),
        }
        self.look_at_commands(store).await?;
        if let Some(sample) = &self.sample_key {
            self.look_at_permissions(store, Value::Bytes(sample.clone().into()), &self.commands).await?;
        }
        if self.keeps_offsets {
            self.look_at_offsets(store).await?;
        }
        Ok(())
    }

    fn look_at_info(&self, info: &Info, offsets_key: &str) -> Result<(), SinkError> {
        if let Some(version) = info.field("redis_version") {
            let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
            let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            if found < OLDEST {
                return Err(SinkError::fatal(format!("this Redis is version {version}; 6.2 or newer is needed")));
            }
        }
        let policy = info.field("maxmemory_policy").unwrap_or("noeviction");
        if !self.keeps_offsets || !policy.starts_with("allkeys-") {
            return Ok(());
        }
        if self.command.accumulates() && !self.allow_eviction {
            return Err(SinkError::fatal(format!(
                "maxmemory-policy is {policy}, so this Redis may evict the offsets in {offsets_key}, and {} must not repeat a \
                 record: choose noeviction or a volatile-* policy, or set CONNECT_REDIS_ALLOW_EVICTION=true",
                self.command.name()
            )));
        }
        warn!(
            policy,
            offsets_key,
            "this Redis may evict the offsets: the connector then goes on at the offset committed to Kafka. Prefer a \
             volatile-* policy with CONNECT_REDIS_TTL, or noeviction"
        );
        Ok(())
    }

    async fn look_at_commands(&self, store: &Store) -> Result<(), SinkError> {
        let name = self.command.name();
        let answer = match store.connection.command("COMMAND", vec![Value::from("INFO"), Value::from(name)]).await {
            Err(SinkError::Fatal(_)) => return Ok(()),
            answer => answer?,
        };
        let Value::Array(known) = answer else { return Ok(()) };
        if known.iter().any(|command| matches!(command, Value::Array(parts) if !parts.is_empty())) {
            return Ok(());
        }
        let module = match self.command {
            Command::JsonSet => "load the JSON module (RedisJSON, or Redis 8 and Valkey with theirs)",
            _ => "use a newer version",
        };
        Err(SinkError::fatal(format!(
            "this Redis has no command {name}, which CONNECT_REDIS_COMMAND asks for: {module}"
        )))
    }

    async fn look_at_permissions(&self, store: &Store, key: Value, commands: &[&str]) -> Result<(), SinkError> {
        if self.command.publishes() {
            return Ok(());
        }
        let refused = self.refused(store, &key, commands).await?;
        if refused.is_empty() {
            return Ok(());
        }
        Err(SinkError::fatal(format!(
            "the ACL of this user does not allow {} on keys such as {:?}: grant the commands and the keys",
            refused.join(", "),
            key.as_string().unwrap_or_default()
        )))
    }

    /// Which of these commands the user may not run on the key, where the server can tell.
    async fn refused(&self, store: &Store, key: &Value, commands: &[&str]) -> Result<Vec<String>, SinkError> {
        let names = commands.iter().map(|name| Value::from(*name)).collect();
        let answer =
            store.connection.run(&self.allowed, vec![key.clone()], names).await.map_err(|error| match error {
                // Not even to name it to a script.
                SinkError::Fatal(message) => {
                    SinkError::Fatal(format!("the key {}: {message}", key.as_string().unwrap_or_default()))
                }
                error => error,
            })?;
        Ok(answer.convert().unwrap_or_default())
    }

    async fn look_at_offsets(&self, store: &Store) -> Result<(), SinkError> {
        let key = store.offsets_key.as_str();
        let kind = store.connection.command("TYPE", vec![Value::from(key)]).await?;
        match kind.as_str().as_deref() {
            Some("none" | "hash") => {}
            kind => {
                return Err(SinkError::fatal(format!(
                    "the key {key} in Redis, where the offsets are to be kept, holds a {} of somebody else: choose another \
                     CONNECT_NAME or CONNECT_REDIS_OFFSETS_KEY",
                    kind.unwrap_or("value")
                )));
            }
        }
        self.look_at_permissions(store, Value::from(key), &["HGET", "HSET", "HSETNX", "HMGET", "EXISTS"]).await?;
        let Some(transactions) = store.transactions() else { return Ok(()) };
        let marker = Value::from(transaction::marker(key, &TopicPartition::new("topic", 0)));
        self.look_at_permissions(store, marker.clone(), &["SET", "EXISTS"]).await?;
        let refused = self.refused(store, &marker, &transaction::NEEDED).await?;
        if !refused.is_empty() {
            transactions.forbid(&refused.join(", "));
        }
        Ok(())
    }
}

/// The answer to INFO.
struct Info(String);

impl Info {
    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use connect_core::config::Section;

    fn looks_good(command: &str, more: &[(&str, &str)], info: &str) -> bool {
        let mut pairs = vec![("CONNECT_REDIS_URL", "redis://localhost"), ("CONNECT_REDIS_COMMAND", command)];
        pairs.extend_from_slice(more);
        let check = Check::new(&RedisConfig::from_pairs(&pairs).unwrap(), None);
        check.look_at_info(&Info(info.to_owned()), "offsets").is_ok()
    }

    #[test]
    fn an_old_redis_is_refused() {
        for (version, good) in [("6.0.16", false), ("6.2.0", true), ("7.0.15", true), ("10.1.0", true)] {
            let info = format!("# Server\r\nredis_version:{version}\r\n# Memory\r\n");
            assert_eq!(looks_good("set", &[], &info), good, "{version}");
        }
        assert!(looks_good("set", &[], ""), "a server that does not tell");
    }

    #[test]
    fn offsets_that_may_be_evicted_are_for_commands_that_may_repeat() {
        for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random"] {
            let info = format!("maxmemory_policy:{policy}\r\n");
            assert!(looks_good("set", &[], &info) && looks_good("hset", &[], &info));
            for command in ["incrby", "incrbyfloat", "rpush", "lpush", "xadd"] {
                assert!(!looks_good(command, &[], &info), "{command}");
                assert!(looks_good(command, &[("CONNECT_REDIS_ALLOW_EVICTION", "true")], &info));
                assert!(looks_good(command, &[("CONNECT_REDIS_OFFSETS", "kafka")], &info));
            }
        }
        for policy in ["noeviction", "volatile-lru", "volatile-ttl"] {
            assert!(looks_good("incrby", &[], &format!("maxmemory_policy:{policy}\r\n")));
        }
    }
}
