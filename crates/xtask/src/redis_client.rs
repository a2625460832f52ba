//! Looks into Redis: what a connector has left there.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use fred::{
    clients::Client,
    interfaces::{ClientLike, KeysInterface},
    types::{Builder, config::Config},
};
use tokio::time::timeout;

/// Keys asked for in one command.
const BATCH: usize = 1_000;
/// A server on this machine answers within this time or is broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Connects to a server.
///
/// # Errors
/// It doesn't answer.
pub async fn connect(url: &str) -> Result<Client> {
    let client = Builder::from_config(Config::from_url(url)?)
        .with_performance_config(|performance| {
            performance.default_command_timeout = ANSWER_WITHIN;
        })
        .build()?;
    timeout(ANSWER_WITHIN, client.init())
        .await
        .context("no answer")?
        .with_context(|| format!("can't connect to Redis at {url}"))?;
    Ok(client)
}

/// The values of the keys, in their order.
///
/// # Errors
/// The server doesn't answer, or a key holds something that isn't a string.
pub async fn values(client: &Client, keys: &[String]) -> Result<Vec<Option<Bytes>>> {
    let mut values = Vec::with_capacity(keys.len());
    for batch in keys.chunks(BATCH) {
        let found: Vec<Option<Bytes>> = client.mget(batch.to_vec()).await?;
        values.extend(found);
    }
    Ok(values)
}

/// The keys that begin with `prefix`.
///
/// # Errors
/// The server doesn't answer, or a key is not UTF-8.
pub async fn keys(client: &Client, prefix: &str) -> Result<Vec<String>> {
    // KEYS blocks the server, which is ours alone.
    Ok(client.custom(fred::cmd!("KEYS"), vec![format!("{prefix}*")]).await?)
}

/// How many keys there are that begin with `prefix`.
///
/// # Errors
/// As for [`keys`].
pub async fn count(client: &Client, prefix: &str) -> Result<usize> {
    Ok(keys(client, prefix).await?.len())
}

/// How many keys there are beside those of connectors: their offsets, and the markers of their transactions.
///
/// # Errors
/// The server doesn't answer.
pub async fn size(client: &Client) -> Result<u64> {
    let ours = count(client, "connect:offsets:").await? as u64;
    let all: u64 = client.custom(fred::cmd!("DBSIZE"), Vec::<String>::new()).await?;
    Ok(all.saturating_sub(ours))
}

/// The sum of the offsets in a connector's hash of them. Its other fields are no numbers.
///
/// # Errors
/// The server doesn't answer.
pub async fn offsets(client: &Client, hash: &str) -> Result<u64> {
    let values: Vec<String> = client.custom(fred::cmd!("HVALS"), vec![hash]).await?;
    let offset = |value: &String| value.split('@').next()?.parse::<u64>().ok();
    Ok(values.iter().filter_map(offset).sum())
}

/// Removes everything.
///
/// # Errors
/// The server doesn't answer.
pub async fn flush(client: &Client) -> Result<()> {
    Ok(client.flushall(false).await?)
}
