//! Kafka topics into Elasticsearch and OpenSearch.

mod answer;
mod bulk;
mod check;
pub mod config;
mod epoch;
mod errors;
mod index_template;
mod json;
mod nodes;
pub mod op;
mod pace;
pub mod sink;
mod topics;
mod update;

use connect_core::connector::{Connector, Context};

pub use config::ElasticsearchConfig;
pub use sink::ElasticsearchSink;

/// The connector, as `connect_core::main` runs it.
pub struct ElasticsearchConnector;

impl Connector for ElasticsearchConnector {
    type Config = ElasticsearchConfig;
    type Sink = ElasticsearchSink;
    const NAME: &'static str = "sink-elasticsearch";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    async fn sink(config: ElasticsearchConfig, context: Context) -> Result<ElasticsearchSink, String> {
        ElasticsearchSink::new(config, context)
    }
}
