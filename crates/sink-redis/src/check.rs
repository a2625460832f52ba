//! Whether this Redis can be used with these settings.

use connect_core::SinkError;
use fred::types::Value;
use tracing::warn;

use crate::connection::Connection;

/// The oldest server that knows what the scripts need.
const OLDEST: (u32, u32) = (6, 2);

/// Looks at the server and at the offsets key.
///
/// # Errors
/// Why it can't be used.
pub async fn check(connection: &Connection, offsets_key: &str) -> Result<(), SinkError> {
    connection.command("PING", Vec::new()).await?;
    match connection.command("INFO", Vec::new()).await {
        Ok(info) => look_at_info(&Info(info.as_string().unwrap_or_default()), offsets_key)?,
        Err(SinkError::Fatal(message)) => warn!(message, "INFO is not allowed: version and eviction can't be checked"),
        Err(error) => return Err(error),
    }
    let kind = connection.command("TYPE", vec![Value::from(offsets_key)]).await?;
    match kind.as_str().as_deref() {
        Some("none" | "hash") => Ok(()),
        kind => Err(SinkError::fatal(format!(
            "the key {offsets_key} in Redis, where the offsets are to be kept, holds a {} of somebody else: choose another \
             CONNECT_NAME or CONNECT_REDIS_OFFSETS_KEY",
            kind.unwrap_or("value")
        ))),
    }
}

fn look_at_info(info: &Info, offsets_key: &str) -> Result<(), SinkError> {
    if let Some(version) = info.field("redis_version") {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if found < OLDEST {
            return Err(SinkError::fatal(format!("this Redis is version {version}; 6.2 or newer is needed")));
        }
    }
    let policy = info.field("maxmemory_policy").unwrap_or("noeviction");
    if policy.starts_with("allkeys-") {
        warn!(
            policy,
            offsets_key,
            "this Redis may evict the offsets: the connector then goes on at the offset committed to Kafka. Prefer a \
             volatile-* policy with CONNECT_REDIS_TTL, or noeviction"
        );
    }
    Ok(())
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

    #[test]
    fn an_old_redis_is_refused() {
        let info = |version: &str| {
            Info(format!("# Server\r\nredis_version:{version}\r\n# Memory\r\nmaxmemory_policy:allkeys-lru\r\n"))
        };
        for (version, good) in [("6.0.16", false), ("6.2.0", true), ("7.0.15", true), ("10.1.0", true)] {
            assert_eq!(look_at_info(&info(version), "offsets").is_ok(), good, "{version}");
        }
        assert!(look_at_info(&Info(String::new()), "offsets").is_ok(), "a server that does not tell");
    }
}
