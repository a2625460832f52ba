//! Elasticsearch, one node, plain or with TLS and users.

mod install;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use elasticsearch::{auth::Credentials, http::Method};

use super::server::{Server, Service};
use crate::{
    certificates::Certificates,
    elasticsearch_client::Client,
    java, paths, ports,
    process::{self, Lifetime},
};

/// The older version that the connector is tested with.
pub const VERSION_8: &str = "8.19.21";
/// The newer version that the connector is tested with.
pub const VERSION_9: &str = "9.5.3";

/// The password of every user of a secured server.
pub const PASSWORD: &str = "test-password";
/// The user who may do everything.
pub const ADMINISTRATOR: &str = "administrator";
/// A user with the privileges that the documentation names for the connector, on indices that begin with `connect-`.
pub const WRITER: &str = "writer";
/// A user who may only read.
pub const READER: &str = "reader";

/// The password as the file of users has it: unsalted SHA-1, the one way that needs no tool of the server's.
const PASSWORD_HASH: &str = "{SHA}eJy+BAeECxwgQcszRS/2Dxm/WMw=";

const ROLES: &str = "\
writer:
  cluster: [monitor]
  indices:
    - names: ['connect-*']
      privileges: [auto_configure, create_doc, index, delete]
    - names: ['connect-topics']
      privileges: [auto_configure, create_doc, read]
reader:
  cluster: [monitor]
  indices:
    - names: ['*']
      privileges: [read]
";

/// An Elasticsearch server on 127.0.0.1.
pub type Elasticsearch = Server<ElasticsearchService>;

/// How a server is to be started.
#[derive(Debug, Clone, Default)]
pub struct ElasticsearchOptions {
    /// [`VERSION_9`] if not given.
    pub version: Option<String>,
    /// The port; a free one if not given.
    pub port: Option<u16>,
    /// Where data and log are kept; a directory that is removed at the end if not given.
    pub directory: Option<PathBuf>,
    /// TLS on both sides, users, API keys and tokens.
    pub secured: bool,
    /// More lines for `elasticsearch.yml`.
    pub settings: Vec<String>,
}

impl ElasticsearchOptions {
    /// Limits so small that a few hundred documents meet them: 413 for the size of a request, 429 for what the node
    /// has in work.
    pub fn limited() -> Self {
        let settings = ["http.max_content_length: 512kb", "indexing_pressure.memory.limit: 256kb"];
        Self { settings: settings.map(str::to_owned).to_vec(), ..Self::default() }
    }
}

/// Elasticsearch as a [`Service`].
#[derive(Debug)]
pub struct ElasticsearchService {
    home: PathBuf,
    java: PathBuf,
    port: u16,
    transport_port: u16,
    certificates: Option<Certificates>,
    settings: Vec<String>,
}

impl Elasticsearch {
    /// Starts a server and waits until its cluster is ready. It is killed when dropped.
    ///
    /// # Errors
    /// The server isn't there and can't be had, or doesn't start; the message has the end of its log.
    pub async fn start(options: ElasticsearchOptions) -> Result<Self> {
        Self::start_for(options, Lifetime::Owned).await
    }

    pub(super) async fn start_for(options: ElasticsearchOptions, lifetime: Lifetime) -> Result<Self> {
        let version = options.version.unwrap_or_else(|| VERSION_9.to_owned());
        let certificates = match options.secured {
            true => Some(Certificates::in_directory(&paths::services().join("certificates"))?),
            false => None,
        };
        let port = match options.port {
            Some(port) => port,
            None => ports::free()?,
        };
        let service = ElasticsearchService {
            home: install::home(&version, options.secured)?,
            java: java::runtime()?,
            port,
            transport_port: ports::free()?,
            certificates,
            settings: options.settings,
        };
        Self::launch(service, options.directory, lifetime).await
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.service.port
    }

    /// Its URL without credentials, as in `http://127.0.0.1:12345`.
    pub fn url(&self) -> String {
        self.service.url()
    }

    /// A client that may do everything.
    ///
    /// # Errors
    /// Its certificates can't be read.
    pub fn client(&self) -> Result<Client> {
        self.service.client()
    }

    /// The certificates that a secured server was given.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.service.certificates.as_ref()
    }
}

impl ElasticsearchService {
    fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    fn client(&self) -> Result<Client> {
        let Some(certificates) = &self.certificates else {
            return Client::new(&self.url());
        };
        let credentials = Credentials::Basic(ADMINISTRATOR.to_owned(), PASSWORD.to_owned());
        Client::secured(&self.url(), credentials, certificates)
    }

    fn configuration(&self, directory: &Path) -> String {
        let Self { port, transport_port, .. } = self;
        let directory = directory.display();
        let mut configuration = format!(
            "cluster.name: test
node.name: test
path.data: {directory}/data
path.logs: {directory}/logs
network.host: 127.0.0.1
http.port: {port}
transport.port: {transport_port}
discovery.type: single-node
cluster.routing.allocation.disk.threshold_enabled: false
"
        );
        match &self.certificates {
            None => configuration.push_str("xpack.security.enabled: false\n"),
            Some(_) => configuration.push_str(
                "xpack.security.enabled: true
xpack.security.autoconfiguration.enabled: false
xpack.security.authc.api_key.enabled: true
xpack.security.http.ssl.enabled: true
xpack.security.http.ssl.key: server.key
xpack.security.http.ssl.certificate: server.crt
xpack.security.http.ssl.certificate_authorities: ca.crt
xpack.security.http.ssl.client_authentication: required
xpack.security.transport.ssl.enabled: false
",
            ),
        }
        configuration + &self.settings.join("\n") + "\n"
    }
}

impl Service for ElasticsearchService {
    const NAME: &'static str = "elasticsearch";
    const READY_WITHIN: Duration = Duration::from_secs(240);

    fn prepare(&self, directory: &Path) -> Result<()> {
        let configuration = directory.join("config");
        fs::create_dir_all(&configuration).with_context(|| format!("can't make {}", configuration.display()))?;
        let write = |name: &str, text: &str| {
            fs::write(configuration.join(name), text).with_context(|| format!("can't write {name}"))
        };
        write("elasticsearch.yml", &self.configuration(directory))?;
        write("log4j2.properties", include_str!("../../services/elasticsearch/log4j2.properties"))?;
        if let Some(certificates) = &self.certificates {
            // The server reads nothing outside its directory.
            for file in [certificates.authority(), certificates.server(), certificates.server_key()] {
                fs::copy(&file, configuration.join(file.file_name().unwrap_or_default()))
                    .with_context(|| format!("can't copy {}", file.display()))?;
            }
            let users = [ADMINISTRATOR, WRITER, READER];
            write("users", &users.map(|user| format!("{user}:{PASSWORD_HASH}\n")).concat())?;
            write("users_roles", "superuser:administrator\nwriter:writer\nreader:reader\n")?;
            write("roles.yml", ROLES)?;
            write("role_mapping.yml", "")?;
        }
        Ok(())
    }

    fn command(&self, directory: &Path, lifetime: Lifetime) -> Result<Command> {
        let mut command = process::command(&self.java, lifetime);
        command
            .current_dir(directory)
            .args(["-Xms512m", "-Xmx1g", "-XX:+UseSerialGC"])
            .arg(format!("-Des.path.home={}", self.home.display()))
            .arg(format!("-Des.path.conf={}/config", directory.display()))
            .arg(format!("-Des.logs.base_path={}/logs", directory.display()))
            .args(["-Des.distribution.type=tar", "-Dlog4j2.disable.jmx=true", "-Dlog4j2.formatMsgNoLookups=true"])
            .args(["-Dio.netty.noUnsafe=true", "-Dio.netty.noKeySetOptimization=true"])
            .args(["-Dio.netty.recycler.maxCapacityPerThread=0", "-Djava.security.manager=allow"])
            .args(["--add-opens=java.base/java.io=ALL-UNNAMED", "--enable-native-access=ALL-UNNAMED"])
            // The artifacts bring no native libraries.
            .arg("-Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false")
            .arg("-cp")
            .arg(self.home.join("lib/*"))
            .arg("StartNode");
        Ok(command)
    }

    async fn answers(&self) -> Result<()> {
        self.client()?.ask(Method::Get, "_cluster/health?wait_for_status=yellow&timeout=2s", "").await.map(drop)
    }
}
