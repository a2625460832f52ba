//! Real servers on loopback: where they come from, how they are started, when they are ready, how they stop.

pub mod command;
pub mod couchbase;
pub mod elasticsearch;
pub mod kafka;
pub mod opensearch;
pub mod redis;
pub mod server;
pub mod shared;
pub mod state;
pub mod store;

pub use couchbase::{Couchbase, CouchbaseOptions};
pub use elasticsearch::{Elasticsearch, ElasticsearchOptions};
pub use kafka::{Kafka, KafkaOptions, Listener};
pub use opensearch::OpenSearch;
pub use redis::{Redis, RedisOptions, Tls, cluster::RedisCluster};
pub use store::Store;
