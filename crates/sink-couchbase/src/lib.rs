//! Kafka topics into Couchbase: each document remembers the offset of the record that last changed it, so that replays
//! and late requests change nothing.
//!
//! It stands on `couchbase-core`, the engine under the official `couchbase` crate and of the same release. The crate itself
//! drops the durability of every sub-document mutation (1.1.0), which is how guarded writes are made, and turns errors into text.

mod buckets;
pub mod config;
pub mod connection;
pub mod content;
pub mod errors;
pub mod expiry;
pub mod guard;
mod guarded;
pub mod keyspace;
pub mod op;
mod plain;
mod probe;
mod sequence;
pub mod sink;
mod step;
mod tls;
mod work;
mod write;

use connect_core::{Connector, Context};

pub use config::CouchbaseConfig;
pub use sink::CouchbaseSink;

/// The connector.
pub struct CouchbaseConnector;

impl Connector for CouchbaseConnector {
    type Config = CouchbaseConfig;
    type Sink = CouchbaseSink;
    const NAME: &'static str = "sink-couchbase";

    async fn sink(config: CouchbaseConfig, context: Context) -> Result<CouchbaseSink, String> {
        CouchbaseSink::new(config, &context)
    }
}
