//! The connection to one bucket, made when it is first needed. The client keeps it up from then on: it follows moved
//! vbuckets and connects again to nodes that come back. One that goes on failing all the same is thrown away for a new one,
//! which also finds out why: a password that was changed, a bucket that is gone.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use connect_core::SinkError;
use connect_core::config::ExposeSecret;
use couchbase_core::address::Address;
use couchbase_core::agent::Agent;
use couchbase_core::authenticator::{Authenticator, CertificateAuthenticator, PasswordAuthenticator};
use couchbase_core::options::agent::{AgentOptions, KvConfig, SeedConfig};
use couchbase_core::retry::{RetryAction, RetryReason, RetryRequest, RetryStrategy};
use futures::future::{Either, select};
use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::config::CouchbaseConfig;
use crate::keyspace::Keyspace;
use crate::{probe, tls};

/// How long the client waits before it connects to a lost node again.
const RECONNECT: Duration = Duration::from_millis(500);

/// How to reach the cluster.
#[derive(Clone)]
pub struct Way {
    pub(crate) seeds: Vec<Address>,
    pub(crate) http_seeds: Vec<Address>,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) authenticator: Authenticator,
    /// Of each step, and of a whole attempt to connect.
    pub(crate) timeout: Duration,
}

impl Way {
    /// The way that the settings describe. Reads the files that they name.
    ///
    /// # Errors
    /// The setting that is wrong.
    pub fn new(config: &CouchbaseConfig, timeout: Duration) -> Result<Self, String> {
        let spec = couchbase_connstr::parse(config.url.as_str()).map_err(|error| error.to_string())?;
        // Without SRV look-up this does no I/O: it fills in the ports.
        let resolved = futures::executor::block_on(couchbase_connstr::resolve(spec));
        let resolved = resolved.map_err(|error| format!("CONNECT_COUCHBASE_URL: {error}"))?;
        let address = |address: couchbase_connstr::Address| Address { host: address.host, port: address.port };
        let authenticator = match (&config.username, &config.password) {
            (Some(username), Some(password)) => Authenticator::PasswordAuthenticator(PasswordAuthenticator {
                username: username.clone(),
                password: password.expose_secret().to_owned(),
            }),
            _ => Authenticator::CertificateAuthenticator(CertificateAuthenticator {}),
        };
        Ok(Self {
            seeds: resolved.memd_hosts.into_iter().map(address).collect(),
            http_seeds: resolved.http_hosts.into_iter().map(address).collect(),
            tls: tls::client_config(config)?,
            authenticator,
            timeout,
        })
    }
}

/// Writes that failed whole, one after the other, before the client is given up.
const MOST_FAILURES: u32 = 3;

/// A bucket that records go to.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub name: Arc<str>,
    /// The settings name it, and not a record: nothing works without it.
    pub needed: bool,
}

/// One client for all partitions.
pub(crate) struct Connection {
    way: Arc<Way>,
    bucket: Bucket,
    state: Mutex<State>,
    failures: AtomicU32,
}

#[derive(Default)]
struct State {
    agent: Option<Arc<Agent>>,
    /// The last attempt to connect, if it failed.
    failed: Option<(Instant, SinkError)>,
}

impl Connection {
    /// Goes this way when it is needed.
    pub fn new(way: Arc<Way>, bucket: Bucket) -> Self {
        Self { way, bucket, state: Mutex::default(), failures: AtomicU32::new(0) }
    }

    /// The connected client.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn agent(&self) -> Result<Arc<Agent>, SinkError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(agent) = &state.agent {
            return Ok(Arc::clone(agent));
        }
        // Whoever waited while another one tried shares what came of it: partitions don't wait for each other's time-outs.
        if let Some((at, error)) = &state.failed
            && *at >= asked
        {
            return Err(error.clone());
        }
        match self.connect().await {
            Ok(agent) => {
                let agent = Arc::new(agent);
                *state = State { agent: Some(Arc::clone(&agent)), failed: None };
                Ok(agent)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Something was answered.
    pub fn works(&self) {
        self.failures.store(0, Relaxed);
    }

    /// Nothing was answered. When it happens again and again the client is given up.
    pub fn fails(&self, agent: &Arc<Agent>) {
        if self.failures.fetch_add(1, Relaxed) + 1 < MOST_FAILURES {
            return;
        }
        // Whoever holds it makes or takes a client just now: then the next failure will do.
        let Ok(mut state) = self.state.try_lock() else { return };
        if state.agent.as_ref().is_some_and(|current| Arc::ptr_eq(current, agent)) {
            info!(bucket = %self.bucket.name, "the client gets no answers: connecting anew");
            state.agent = None;
            self.works();
        }
    }

    /// Looks at user, bucket and collections, one by one.
    ///
    /// # Errors
    /// What is missing.
    pub async fn check(&self, keyspaces: &[Arc<Keyspace>]) -> Result<(), SinkError> {
        Box::pin(probe::look(&self.way, Some(&self.bucket), keyspaces)).await
    }

    async fn connect(&self) -> Result<Agent, SinkError> {
        let seeds = SeedConfig::default().memd_addrs(self.way.seeds.clone()).http_addrs(self.way.http_seeds.clone());
        // Nobody looks at the tokens and durations that answers could carry.
        let kv = KvConfig::default().enable_mutation_tokens(false).enable_server_durations(false);
        let kv = kv.connect_timeout(self.way.timeout).connect_throttle_timeout(RECONNECT);
        let options = AgentOptions::new(seeds, self.way.authenticator.clone())
            .tls_config(self.way.tls.clone())
            .bucket_name(self.bucket.name.to_string())
            .kv_config(kv);
        let connect = pin!(timeout(self.way.timeout, Box::pin(Agent::new(options))));
        // The client tries for ever and never says why: a wrong password, or a bucket that is not there, looks like a cluster that
        // is down. So we look ourselves meanwhile.
        let look = Box::pin(probe::look(&self.way, Some(&self.bucket), &[]));
        let (connected, found) = match select(connect, look).await {
            Either::Left((Ok(Ok(agent)), _)) => return Ok(agent),
            Either::Left((connected, look)) => (connected, look.await),
            // It may have asked a node that is down.
            Either::Right((
                found @ (Ok(()) | Err(SinkError::Transient { reason: "connection" | "timeout", .. })),
                connect,
            )) => (connect.await, found),
            Either::Right((Err(error), _)) => return Err(error),
        };
        let problem = match connected {
            Ok(Ok(agent)) => return Ok(agent),
            Ok(Err(error)) => format!("no connection to Couchbase: {error}"),
            Err(_) => format!("no connection to Couchbase within CONNECT_COUCHBASE_TIMEOUT={:?}", self.way.timeout),
        };
        found?;
        Err(SinkError::transient("connection", problem))
    }
}

/// Tries again at once what passes soon, and gives the rest back: the core waits longer, and says why.
#[derive(Debug)]
pub struct Briefly;

impl RetryStrategy for Briefly {
    fn retry_after(&self, request: &RetryRequest, reason: &RetryReason) -> Option<RetryAction> {
        const MOST: u32 = 6;
        let attempts = request.retry_attempts();
        let may = reason.allows_non_idempotent_retry() && attempts < MOST;
        may.then(|| RetryAction::new(Duration::from_millis(4 << attempts)))
    }
}
