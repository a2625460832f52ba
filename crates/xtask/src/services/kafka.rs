//! Apache Kafka in KRaft mode, one node or a cluster of three, from its Maven artifacts.

mod transactions;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

pub use self::transactions::Transactions;
use super::server::{Server, Service};
use crate::{
    kafka_client,
    lock::Lock,
    packages::{self, JAVA, MAVEN},
    paths, ports,
    process::{self, Lifetime},
};

/// The versions that the connectors are tested with: the last of the 3.x line and a current one.
pub const VERSIONS: [&str; 2] = ["3.9.1", "4.1.1"];

/// Names the version to use where none is asked for; [`VERSIONS`]' last if not set.
pub const VERSION_VARIABLE: &str = "SYSTEM_TEST_KAFKA_VERSION";

/// A Kafka broker on 127.0.0.1.
pub type Kafka = Server<KafkaService>;

/// How a broker is to be started.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// One of [`VERSIONS`]; see [`VERSION_VARIABLE`] if not given.
    pub version: Option<String>,
    /// The port that clients connect to; a free one if not given.
    pub port: Option<u16>,
    /// Where data and log are kept; a directory that is removed at the end if not given.
    pub directory: Option<PathBuf>,
    /// More lines for `server.properties`; they win over ours.
    pub properties: Vec<String>,
    /// Listeners beside the plain one, each on a free port.
    pub listeners: Vec<Listener>,
    /// Users that may log in by SCRAM, as `kafka-storage format --add-scram` takes them.
    pub scram_users: Vec<String>,
}

/// A listener with a security of its own.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name, in capitals.
    pub name: &'static str,
    /// `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub protocol: &'static str,
    /// Its properties, without `listener.name.….` in front.
    pub properties: Vec<String>,
}

/// Kafka as a [`Service`].
#[derive(Debug)]
pub struct KafkaService {
    jars: PathBuf,
    /// Every node of the cluster.
    nodes: Vec<Node>,
    /// Which of them this one is.
    this: usize,
    properties: Vec<String>,
    listeners: Vec<(Listener, u16)>,
    scram_users: Vec<String>,
}

/// Where a node of a cluster listens.
#[derive(Debug, Clone, Copy)]
struct Node {
    port: u16,
    controller_port: u16,
}

impl Kafka {
    /// Starts a broker and waits until it answers a metadata request. It is killed when dropped.
    ///
    /// # Errors
    /// Java or the jars aren't there and can't be had, or the broker doesn't start; the message has the end of its log.
    pub async fn start(options: KafkaOptions) -> Result<Self> {
        Self::start_for(options, Lifetime::Owned).await
    }

    pub(super) async fn start_for(options: KafkaOptions, lifetime: Lifetime) -> Result<Self> {
        let node = Node { port: options.port.map_or_else(ports::free, Ok)?, controller_port: ports::free()? };
        let service = KafkaService {
            jars: jars(&options.version.unwrap_or_else(default_version))?,
            nodes: vec![node],
            this: 0,
            properties: options.properties,
            listeners: options
                .listeners
                .into_iter()
                .map(|listener| Ok((listener, ports::free()?)))
                .collect::<Result<_>>()?,
            scram_users: options.scram_users,
        };
        Self::launch(service, options.directory, lifetime).await
    }

    /// Starts a cluster of three nodes, of which any two are enough: everything is on all three, and acknowledged when two
    /// have it. The nodes are 1, 2 and 3, each in a rack of its own: `rack-1` and so on. Port, directory, listeners and users of the options are not used.
    ///
    /// # Errors
    /// As for [`Kafka::start`].
    pub async fn cluster(options: KafkaOptions) -> Result<[Self; 3]> {
        let jars = jars(&options.version.unwrap_or_else(default_version))?;
        let node = || anyhow::Ok(Node { port: ports::free()?, controller_port: ports::free()? });
        let nodes = vec![node()?, node()?, node()?];
        let launch = |this| {
            let (jars, nodes, properties) = (jars.clone(), nodes.clone(), options.properties.clone());
            let service =
                KafkaService { jars, nodes, this, properties, listeners: Vec::new(), scram_users: Vec::new() };
            Self::launch(service, None, Lifetime::Owned)
        };
        // Side by side: no node answers before two are there.
        Ok(tokio::try_join!(launch(0), launch(1), launch(2))?.into())
    }

    /// Its address, as in `127.0.0.1:12345`; those of all nodes of a cluster, with commas between them.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<_> = self.service.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        addresses.join(",")
    }

    /// Whether every partition is on all nodes that should have it, as this node sees it.
    ///
    /// # Errors
    /// Kafka's tool can't be run.
    pub async fn is_replicated(&self) -> Result<bool> {
        let mut tool = tokio::process::Command::from(self.tool("org.apache.kafka.tools.TopicCommand"));
        tool.args(["--bootstrap-server", &self.service.address(), "--describe", "--under-replicated-partitions"]);
        let output = tool.output().await.context("can't run java")?;
        Ok(output.status.success() && output.stdout.trim_ascii().is_empty())
    }

    /// The address of one of its other listeners.
    ///
    /// # Errors
    /// It has none of that name.
    pub fn listener(&self, name: &str) -> Result<String> {
        let port = self.service.listeners.iter().find(|(listener, _)| listener.name == name).map(|(_, port)| port);
        port.map(|port| format!("localhost:{port}")).with_context(|| format!("there is no listener {name}"))
    }

    /// A command that runs one of Kafka's own tools, as in `kafka.tool("org.apache.kafka.tools.TopicCommand")`.
    pub fn tool(&self, class: &str) -> Command {
        let mut command = java(&self.service.jars, "256m", Lifetime::Owned);
        command.arg(class);
        command
    }
}

impl Service for KafkaService {
    const NAME: &'static str = "kafka";

    fn prepare(&self, directory: &Path) -> Result<()> {
        let data = directory.join("data");
        let configuration = directory.join("server.properties");
        fs::write(&configuration, self.configuration(&data))
            .with_context(|| format!("can't write {}", configuration.display()))?;
        if data.join("meta.properties").exists() {
            return Ok(());
        }
        let output = java(&self.jars, "128m", Lifetime::Owned)
            .args(["-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format"])
            // Any 16 bytes will do; a cluster of one node that nobody else knows needs no name of its own.
            .args(["--cluster-id", "Y29ubmVjdC10ZXN0cy0wMA", "--config"])
            .arg(&configuration)
            .args(self.scram_users.iter().flat_map(|user| ["--add-scram", user]))
            .output()
            .context("can't run java")?;
        if !output.status.success() {
            bail!(
                "Kafka's storage can't be formatted ({}):\n{}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    fn command(&self, directory: &Path, lifetime: Lifetime) -> Result<Command> {
        let mut command = java(&self.jars, "640m", lifetime);
        command.arg("kafka.Kafka").arg(directory.join("server.properties"));
        Ok(command)
    }

    async fn answers(&self) -> Result<()> {
        let client = kafka_client::connect(&self.address()).await?;
        client.list_topics().await?;
        Ok(())
    }
}

impl KafkaService {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.nodes[self.this].port)
    }

    fn configuration(&self, data: &Path) -> String {
        let Node { port, controller_port } = self.nodes[self.this];
        let (mut listeners, mut protocols, mut own) = (String::new(), String::new(), String::new());
        for (Listener { name, protocol, properties }, port) in &self.listeners {
            listeners += &format!(",{name}://localhost:{port}");
            protocols += &format!(",{name}:{protocol}");
            for property in properties {
                own += &format!("listener.name.{}.{property}\n", name.to_lowercase());
            }
        }
        let id = self.this + 1;
        let voter = |(index, node): (usize, &Node)| format!("{}@127.0.0.1:{}", index + 1, node.controller_port);
        let voters = self.nodes.iter().enumerate().map(voter).collect::<Vec<_>>().join(",");
        let replicas = self.nodes.len();
        // One node less may go away.
        let in_sync = (replicas - 1).max(1);
        let ours = format!(
            "process.roles=broker,controller
node.id={id}
broker.rack=rack-{id}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}{listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes=16777216
group.initial.rebalance.delay.ms=0
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
",
            data = data.display()
        );
        ours + &own + &self.properties.join("\n") + "\n"
    }
}

/// A command that runs one of Kafka's own tools, of the version that the tests use.
///
/// # Errors
/// Java or the jars aren't there and can't be had.
pub fn tool(class: &str) -> Result<Command> {
    let mut command = java(&jars(&default_version())?, "256m", Lifetime::Owned);
    command.args(["-XX:TieredStopAtLevel=1", class]);
    Ok(command)
}

fn default_version() -> String {
    let [.., newest] = VERSIONS;
    std::env::var(VERSION_VARIABLE).unwrap_or_else(|_| newest.to_owned())
}

fn java(jars: &Path, heap: &str, lifetime: Lifetime) -> Command {
    let mut command = process::command(JAVA.program, lifetime);
    command
        .arg(format!("-Xmx{heap}"))
        // One node of little memory: the serial collector has the fewest threads and the least overhead.
        .args(["-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true"])
        .args(["-Dlog4j2.disable.jmx=true"])
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"])
        .args(["-Dorg.slf4j.simpleLogger.showDateTime=true"])
        .arg("-cp")
        .arg(jars.join("*"));
    command
}

/// The directory with the jars of a Kafka version; downloaded the first time.
fn jars(version: &str) -> Result<PathBuf> {
    packages::ensure(&[JAVA])?;
    let directory = paths::services().join(format!("kafka-{version}"));
    // Written last, so a download that was cut short is begun anew.
    let done = directory.join(".done");
    if done.exists() {
        return Ok(directory);
    }
    let _lock = Lock::acquire(&paths::services().join("kafka.lock"), "downloading Kafka's jars")?;
    if done.exists() {
        return Ok(directory);
    }
    packages::ensure(&[MAVEN])?;
    eprintln!("downloading the jars of Kafka {version} with Maven");
    let pom = paths::workspace().join("crates/xtask/services/kafka/pom.xml");
    let output = Command::new(MAVEN.program)
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(pom)
        .arg("dependency:copy-dependencies")
        .arg(format!("-Dkafka.version={version}"))
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", directory.display()))
        .output()
        .context("can't run mvn")?;
    if !output.status.success() {
        bail!(
            "Maven can't get the jars of Kafka {version} ({}); is its repository reachable from here?\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    fs::write(&done, "").with_context(|| format!("can't write {}", done.display()))?;
    Ok(directory)
}
