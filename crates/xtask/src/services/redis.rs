//! Redis, from the Debian package or as [`build`] says.

pub mod build;
pub mod cluster;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use super::server::{Server, Service};
use crate::{
    packages::{self, REDIS_SERVER, REDIS_TOOLS},
    ports,
    process::{self, Lifetime},
};

/// A Redis server on 127.0.0.1.
pub type Redis = Server<RedisService>;

/// How a Redis server is to be started.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// The port; a free one if not given.
    pub port: Option<u16>,
    /// Where data and log are kept; a directory that is removed at the end if not given.
    pub directory: Option<PathBuf>,
    /// More arguments, as in `["--maxmemory", "1mb"]`; they win over ours.
    pub arguments: Vec<String>,
    /// Keep the data in memory only. Otherwise it is appended to a file, so that a server that was killed has it all
    /// when it is started again.
    pub memory_only: bool,
    /// Serve TLS, and nothing but TLS.
    pub tls: Option<Tls>,
}

/// PEM files for a server that serves TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that clients check it with.
    pub authority: PathBuf,
}

/// Redis as a [`Service`].
#[derive(Debug)]
pub struct RedisService {
    program: PathBuf,
    options: RedisOptions,
    port: u16,
}

impl Redis {
    /// Starts a server and waits for its answer to PING. It is killed when dropped.
    ///
    /// # Errors
    /// Redis isn't installed and can't be, or doesn't start; the message has the end of its log.
    pub async fn start(options: RedisOptions) -> Result<Self> {
        Self::start_for(options, Lifetime::Owned).await
    }

    pub(super) async fn start_for(options: RedisOptions, lifetime: Lifetime) -> Result<Self> {
        packages::ensure(&[REDIS_SERVER, REDIS_TOOLS])?;
        let port = match options.port {
            Some(port) => port,
            None => ports::free()?,
        };
        let program = build::program()?;
        let directory = options.directory.clone();
        Self::launch(RedisService { program, options, port }, directory, lifetime).await
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.service.port
    }

    /// Its URL without credentials, as in `redis://127.0.0.1:12345`.
    pub fn url(&self) -> String {
        let scheme = match self.service.options.tls {
            Some(_) => "rediss",
            None => "redis",
        };
        format!("{scheme}://127.0.0.1:{}", self.port())
    }
}

impl Service for RedisService {
    const NAME: &'static str = "redis";

    fn prepare(&self, _directory: &Path) -> Result<()> {
        Ok(())
    }

    fn command(&self, directory: &Path, lifetime: Lifetime) -> Result<Command> {
        let port = self.port.to_string();
        let mut command = process::command(&self.program, lifetime);
        command.args(["--bind", "127.0.0.1", "--save", ""]);
        command.args(["--dir".as_ref(), directory.as_os_str()]);
        match &self.options.tls {
            None => command.args(["--port", &port]),
            Some(tls) => command
                .args(["--port", "0", "--tls-port", &port])
                .args(["--tls-cert-file".as_ref(), tls.certificate.as_os_str()])
                .args(["--tls-key-file".as_ref(), tls.key.as_os_str()])
                .args(["--tls-ca-cert-file".as_ref(), tls.authority.as_os_str()])
                .args(["--tls-auth-clients", "no"]),
        };
        if !self.options.memory_only {
            // What was written to the file survives the process without being synced to the disk.
            command.args(["--appendonly", "yes", "--appendfsync", "no"]);
        }
        command.args(&self.options.arguments);
        Ok(command)
    }

    async fn answers(&self) -> Result<()> {
        let mut command = tokio::process::Command::new(REDIS_TOOLS.program);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if let Some(tls) = &self.options.tls {
            command.arg("--tls").arg("--cacert").arg(&tls.authority);
        }
        command.arg("PING").stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await?;
        let answer = String::from_utf8_lossy(&output.stdout);
        // A server that wants a password has to say so to be called up; one that still loads its data isn't.
        if answer.starts_with("PONG") || answer.contains("NOAUTH") {
            return Ok(());
        }
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("PING was answered with {:?} {:?}", answer.trim(), error.trim())
    }
}
