//! `sink-elasticsearch`: Kafka topics into Elasticsearch and OpenSearch.

use std::process::ExitCode;

fn main() -> ExitCode {
    connect_core::main::<sink_elasticsearch::ElasticsearchConnector>()
}
