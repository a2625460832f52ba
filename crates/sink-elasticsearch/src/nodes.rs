//! The nodes of the cluster: whose turn it is, and who is left alone for a while.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use connect_core::SinkError;
use connect_core::config::ExposeSecret;
use elasticsearch::auth::{ClientCertificate, Credentials};
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Method;
use elasticsearch::http::headers::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use tracing::{info, warn};

use crate::config::ElasticsearchConfig;

/// How long a node is left alone after its first failure; twice as long after each further one.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// How often the files for TLS are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// An answer of any status.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) query: &'a [(&'a str, &'a str)],
    pub(crate) content_type: &'static str,
    pub(crate) gzip: bool,
    pub(crate) body: Option<Bytes>,
}

impl<'a> Request<'a> {
    /// A request without a body.
    pub(crate) fn get(path: &'a str, query: &'a [(&'a str, &'a str)]) -> Self {
        Self { method: Method::Get, path, query, content_type: "application/json", gzip: false, body: None }
    }

    /// A request with a JSON body.
    pub(crate) fn json(method: Method, path: &'a str, query: &'a [(&'a str, &'a str)], body: Bytes) -> Self {
        Self { method, path, query, content_type: "application/json", gzip: false, body: Some(body) }
    }
}

/// The nodes of one cluster.
#[derive(Debug)]
pub(crate) struct Nodes {
    config: ElasticsearchConfig,
    /// Of one request.
    timeout: Duration,
    nodes: RwLock<Arc<[Node]>>,
    turn: AtomicUsize,
    files: Mutex<Seen>,
}

#[derive(Debug)]
struct Node {
    /// Without credentials, for messages.
    url: String,
    transport: Transport,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
}

/// The files for TLS as they were when they were last looked at.
#[derive(Debug)]
struct Seen {
    looked: Instant,
    changed: Vec<Option<SystemTime>>,
}

impl Nodes {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// A certificate or key that can't be used, named with its setting.
    pub(crate) fn new(config: ElasticsearchConfig, timeout: Duration) -> Result<Self, String> {
        let nodes = build(&config)?;
        let files = Mutex::new(Seen { looked: Instant::now(), changed: changed(&config) });
        Ok(Self { config, timeout, nodes: RwLock::new(nodes), turn: AtomicUsize::new(0), files })
    }

    /// Sends a request to the node whose turn it is, and to the others when it does not answer or has no cluster.
    ///
    /// # Errors
    /// `Transient` when no node answers; the request may have been taken all the same.
    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, SinkError> {
        self.renew();
        let nodes = Arc::clone(&self.nodes.read().unwrap_or_else(PoisonError::into_inner));
        let turn = self.turn.fetch_add(1, Relaxed);
        let order = order(&nodes, turn);
        let mut last = Err(SinkError::transient("connection", "CONNECT_ELASTICSEARCH_URLS is empty"));
        for index in order {
            let node = &nodes[index];
            match self.ask(node, request).await {
                // A gateway without a server behind it, a node without its cluster: another one may be better off.
                Ok(reply) if matches!(reply.status, 502 | 503) => {
                    node.failed();
                    warn!(node = node.url, status = reply.status, "Elasticsearch can't be used there");
                    last = Ok(reply);
                }
                Ok(reply) => {
                    node.answered();
                    return Ok(reply);
                }
                Err((timed_out, message)) => {
                    node.failed();
                    warn!(node = node.url, "no answer from Elasticsearch: {message}");
                    let reason = if timed_out { "timeout" } else { "connection" };
                    last = Err(SinkError::transient(reason, format!("{}: {message}", node.url)));
                    // The time of this write is used up.
                    if timed_out {
                        break;
                    }
                }
            }
        }
        last
    }

    async fn ask(&self, node: &Node, request: &Request<'_>) -> Result<Reply, (bool, String)> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(request.content_type));
        if request.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let exchange = async {
            let timeout = Some(self.timeout);
            let (query, body) = (Some(request.query), request.body.clone());
            let answer = node.transport.send(request.method, request.path, headers, query, body, timeout).await?;
            let status = answer.status_code().as_u16();
            Ok::<_, elasticsearch::Error>(Reply { status, body: answer.bytes().await? })
        };
        // The client's own limit does not cover everything that it does.
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) if !error.is_timeout() => Err((false, chain(&error))),
            Ok(Err(_)) | Err(_) => {
                let limit = self.timeout;
                Err((
                    true,
                    format!("no answer within CONNECT_ELASTICSEARCH_TIMEOUT={limit:?}; the request may still land"),
                ))
            }
        }
    }

    /// Takes up certificates anew when their files have changed.
    fn renew(&self) {
        let mut seen = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.looked.elapsed() < LOOK_AGAIN {
            return;
        }
        seen.looked = Instant::now();
        let now = changed(&self.config);
        if now == seen.changed {
            return;
        }
        match build(&self.config) {
            Ok(nodes) => {
                info!("the certificates have changed and are used from now on");
                *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
                seen.changed = now;
            }
            // A pair that is half written is whole the next time.
            Err(problem) => warn!("the certificates have changed but can't be used yet: {problem}"),
        }
    }
}

impl Node {
    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self) {
        *self.health() = Health::default();
    }

    fn failed(&self) {
        let mut health = self.health();
        let rest = FIRST_REST.saturating_mul(1 << health.failures.min(5)).min(LONGEST_REST);
        health.failures += 1;
        health.rests_until = Some(Instant::now() + rest);
    }
}

/// In which order nodes are asked: those that work in turn, then those that rest, the one first that rests the least.
/// Somebody is always asked: when all of them rest, nobody knows better.
fn order(nodes: &[Node], turn: usize) -> Vec<usize> {
    let now = Instant::now();
    let mut order: Vec<_> = (0..nodes.len()).map(|step| (turn + step) % nodes.len()).collect();
    order.sort_by_cached_key(|index| nodes[*index].health().rests_until.filter(|until| *until > now));
    order
}

fn files(config: &ElasticsearchConfig) -> impl Iterator<Item = &Path> {
    [&config.ca_file, &config.cert_file, &config.key_file].into_iter().flatten().map(|file| &**file)
}

fn changed(config: &ElasticsearchConfig) -> Vec<Option<SystemTime>> {
    files(config).map(|file| std::fs::metadata(file).and_then(|data| data.modified()).ok()).collect()
}

fn build(config: &ElasticsearchConfig) -> Result<Arc<[Node]>, String> {
    let read = |setting: &str, file: &Path| {
        std::fs::read(file).map_err(|error| format!("{setting}={}: {error}", file.display()))
    };
    let mut nodes = Vec::new();
    for url in config.urls.iter() {
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(url.0.clone())).enable_meta_header(false);
        builder = match &config.proxy {
            Some(proxy) => {
                let password = config.proxy_password.as_ref().map(|password| password.expose_secret().to_owned());
                builder.proxy(proxy.0.clone(), config.proxy_username.as_deref(), password.as_deref())
            }
            None => builder.disable_proxy(),
        };
        if let Some(file) = &config.ca_file {
            let authorities = Certificate::from_pem(&read("CONNECT_ELASTICSEARCH_CA_FILE", file)?)
                .map_err(|error| format!("CONNECT_ELASTICSEARCH_CA_FILE={}: {error}", file.display()))?;
            builder = builder.cert_validation(CertificateValidation::Full(authorities));
        }
        if let (Some(certificate), Some(key)) = (&config.cert_file, &config.key_file) {
            let mut pem = read("CONNECT_ELASTICSEARCH_KEY_FILE", key)?;
            pem.push(b'\n');
            pem.extend(read("CONNECT_ELASTICSEARCH_CERT_FILE", certificate)?);
            builder = builder.auth(Credentials::Certificate(ClientCertificate::Pem(pem)));
        }
        let transport = builder.build().map_err(|error| {
            let files: Vec<_> = files(config).collect();
            format!("the files {files:?} can't be used for TLS: {error}")
        })?;
        if let Some(credentials) = credentials(config) {
            // The certificate stays: it belongs to the connection, these to the request.
            transport.set_auth(credentials);
        }
        nodes.push(Node { url: url.0.to_string(), transport, health: Mutex::default() });
    }
    Ok(nodes.into())
}

fn credentials(config: &ElasticsearchConfig) -> Option<Credentials> {
    if let (Some(username), Some(password)) = (&config.username, &config.password) {
        return Some(Credentials::Basic(username.clone(), password.expose_secret().to_owned()));
    }
    if let Some(key) = &config.api_key {
        let key = key.expose_secret();
        return Some(match key.split_once(':') {
            Some((id, secret)) => Credentials::ApiKey(id.to_owned(), secret.to_owned()),
            None => Credentials::EncodedApiKey(key.to_owned()),
        });
    }
    config.token.as_ref().map(|token| Credentials::Bearer(token.expose_secret().to_owned()))
}

/// An error and all that it came from: the first alone says only that a request was not sent.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
