//! Couchbase: the in-memory test server of this project, for there is no package of the real one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::net::TcpStream;

use super::server::{Server, Service};
use crate::{
    connector, ports,
    process::{self, Lifetime},
};

/// A Couchbase test server on 127.0.0.1: user `Administrator`, password `password`, bucket `default`.
pub type Couchbase = Server<CouchbaseService>;

/// How a Couchbase test server is to be started.
#[derive(Debug, Clone, Default)]
pub struct CouchbaseOptions {
    /// The port; a free one if not given.
    pub port: Option<u16>,
    /// Where the log is kept; a directory that is removed at the end if not given.
    pub directory: Option<PathBuf>,
    /// The cargo profile that it is built with, `dev` if not given: `release` where speed is measured.
    pub profile: Option<&'static str>,
}

/// The test server as a [`Service`].
#[derive(Debug)]
pub struct CouchbaseService {
    binary: PathBuf,
    port: u16,
    management_port: u16,
}

impl Couchbase {
    /// Builds and starts a server and waits until it takes connections. It is killed when dropped, and its documents with it.
    ///
    /// # Errors
    /// It can't be built or doesn't start; the message has the end of its log.
    pub async fn start(options: CouchbaseOptions) -> Result<Self> {
        Self::start_for(options, Lifetime::Owned).await
    }

    pub(super) async fn start_for(options: CouchbaseOptions, lifetime: Lifetime) -> Result<Self> {
        let binary = connector::build("couchbase-test-server", options.profile.unwrap_or("dev"))?;
        let port = match options.port {
            Some(port) => port,
            None => ports::free()?,
        };
        let management_port = ports::free()?;
        Self::launch(CouchbaseService { binary, port, management_port }, options.directory, lifetime).await
    }

    /// Its connection string, as in `couchbase://127.0.0.1:12345`.
    pub fn url(&self) -> String {
        format!("couchbase://127.0.0.1:{}", self.service.port)
    }

    /// Every document of the default collection that is JSON.
    ///
    /// # Errors
    /// The server doesn't answer.
    pub async fn documents(&self) -> Result<BTreeMap<String, Value>> {
        let stream = TcpStream::connect(("127.0.0.1", self.service.management_port)).await?;
        let (status, body) = connector::get(stream, "/documents/_default/_default").await?;
        if status != 200 {
            bail!("the test server answered {status}");
        }
        Ok(serde_json::from_str(&body)?)
    }

    /// What a connector needs to write to it, beside its collections.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("CONNECT_COUCHBASE_URL", self.url()),
            ("CONNECT_COUCHBASE_USERNAME", "Administrator".to_owned()),
            ("CONNECT_COUCHBASE_PASSWORD", "password".to_owned()),
            ("CONNECT_COUCHBASE_BUCKET", "default".to_owned()),
        ]
    }
}

impl Service for CouchbaseService {
    const NAME: &'static str = "couchbase";

    fn prepare(&self, _directory: &Path) -> Result<()> {
        Ok(())
    }

    fn command(&self, _directory: &Path, lifetime: Lifetime) -> Result<Command> {
        let mut command = process::command(&self.binary, lifetime);
        command.args(["--port", &self.port.to_string(), "--management-port", &self.management_port.to_string()]);
        Ok(command)
    }

    async fn answers(&self) -> Result<()> {
        TcpStream::connect(("127.0.0.1", self.port)).await.context("no connection").map(drop)
    }
}
