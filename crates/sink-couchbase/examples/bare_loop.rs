//! The limit that `cargo xtask bench couchbase` compares with: nothing but upserts through the official crate, as many at once
//! as the sink has. Prints how many a second, and CPU seconds for a million.
//!
//! Arguments: connection string, the content of each document, upserts, documents, upserts at once.

use std::env::args;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use couchbase::authenticator::PasswordAuthenticator;
use couchbase::cluster::Cluster;
use couchbase::options::cluster_options::ClusterOptions;
use couchbase::transcoding::{DataType, encode_common_flags};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [url, content, numbers @ ..] = &arguments[..] else { return Err("expected five arguments".into()) };
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>()?;
    let [upserts, documents, at_once] = numbers[..] else { return Err("expected five arguments".into()) };

    let user = PasswordAuthenticator::new("Administrator", "password");
    let cluster = Cluster::connect(url, ClusterOptions::new(user.into())).await?;
    let bucket = cluster.bucket("default");
    bucket.wait_until_ready(None).await?;
    let collection = bucket.default_collection();
    let body: Arc<[u8]> = content.as_bytes().into();
    let flags = encode_common_flags(DataType::Json);
    let next = Arc::new(AtomicU64::new(0));

    let begun = Instant::now();
    let mut loops = Vec::new();
    for _ in 0..at_once {
        let (collection, body, next) = (collection.clone(), Arc::clone(&body), Arc::clone(&next));
        loops.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= upserts {
                    return Ok::<(), couchbase::error::Error>(());
                }
                collection.upsert_raw(format!("bare-{}", number % documents), &body, flags, None).await?;
            }
        }));
    }
    for task in loops {
        task.await??;
    }
    let rate = upserts as f64 / begun.elapsed().as_secs_f64();
    println!("{rate} {}", cpu_seconds()? * 1e6 / upserts as f64);
    Ok(())
}

/// User and system time of this process, from Linux.
fn cpu_seconds() -> Result<f64, Box<dyn std::error::Error>> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(") ").ok_or("no process name")?.1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok()).ok_or("no ticks");
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
