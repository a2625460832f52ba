//! `couchbase-test-server`: the test server as a process of its own.

use std::path::PathBuf;

use clap::Parser;
use couchbase_test_server::{Certificates, Options, Server};
use tokio::signal::unix::{SignalKind, signal};

/// An in-memory Couchbase key-value server for tests: user Administrator, password "password", bucket "default".
#[derive(Parser)]
struct Arguments {
    /// Port of the key-value service of the first node; 0 for any free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Port of the management interface of the first node; 0 for any free one.
    #[arg(long, default_value_t = 0)]
    management_port: u16,
    /// Number of nodes.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Speaks TLS only, and writes the authority's certificate to this file.
    #[arg(long)]
    tls: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let certificates = arguments.tls.as_ref().map(|_| Certificates::generate()).transpose()?;
    if let (Some(path), Some(certificates)) = (&arguments.tls, &certificates) {
        std::fs::write(path, &certificates.authority)?;
    }
    let server = Server::start(Options {
        nodes: arguments.nodes,
        ports: vec![arguments.port],
        management_ports: vec![arguments.management_port],
        tls: certificates,
        ..Options::default()
    })
    .await?;
    println!("{}", server.url());
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
