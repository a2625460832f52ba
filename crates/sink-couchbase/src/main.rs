//! `sink-couchbase`: Kafka topics into Couchbase.

use std::process::ExitCode;

fn main() -> ExitCode {
    connect_core::main::<sink_couchbase::CouchbaseConnector>()
}
