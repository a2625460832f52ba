//! A server that tests start, hurt and look into.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::cluster::{Cluster, Ports};
use crate::documents::Document;
use crate::fault::Fault;
use crate::options::Options;
use crate::session::Session;
use crate::state::{Bucket, Shared, State};
use crate::tls::Certificates;
use crate::{connection, http};

/// A running server. Ends when it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    nodes: Vec<Ports>,
    /// The accepting tasks; each owns the tasks of its connections.
    accepting: Mutex<JoinSet<()>>,
}

impl Server {
    /// Starts a server with its nodes on ports of the loopback interface.
    ///
    /// # Errors
    /// A port is taken, or the certificates are unusable.
    pub async fn start(options: Options) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for node in 0..options.nodes.max(1) {
            let port = |ports: &[u16]| ports.get(node).copied().unwrap_or(0);
            let ports = Ports { key_value: port(&options.ports), management: port(&options.management_ports) };
            listeners.push(Listeners::bind(ports).await?);
        }
        let nodes = listeners.iter().map(Listeners::ports).collect::<io::Result<Vec<_>>>()?;
        let tls = options.tls.as_ref().map(Certificates::acceptor).transpose()?;
        let cluster = Cluster::new(tls.is_some(), options.replicas, nodes.clone());
        let shared = Arc::new(Shared::new(options.username, options.password, &options.bucket, cluster));
        let server = Self { shared, tls, nodes, accepting: Mutex::default() };
        server.accept(listeners);
        Ok(server)
    }

    /// The connection string: `couchbase://…` or `couchbases://…`, every node in it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "couchbases" } else { "couchbase" };
        let hosts: Vec<String> = self.nodes.iter().map(|ports| format!("127.0.0.1:{}", ports.key_value)).collect();
        format!("{scheme}://{}", hosts.join(","))
    }

    /// The key-value address of the first node.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.nodes.first().map_or(0, |ports| ports.key_value)))
    }

    /// Tells clients that connect from now on this key-value port in place of the first node's own: that of a proxy.
    pub fn advertise(&self, port: Option<u16>) {
        self.state().cluster.advertise(port);
    }

    /// Cuts every connection and takes no new one; documents stay.
    pub async fn stop(&self) {
        let mut accepting = std::mem::take(&mut *self.accepting());
        accepting.shutdown().await;
    }

    /// Listens again on the same ports, with the documents as they were.
    ///
    /// # Errors
    /// A port was taken meanwhile.
    pub async fn resume(&self) -> io::Result<()> {
        let mut listeners = Vec::new();
        for ports in &self.nodes {
            listeners.push(Listeners::bind(*ports).await?);
        }
        self.accept(listeners);
        Ok(())
    }

    /// Makes something go wrong.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.add(fault);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Answers each durable write with "impossible", or not any more.
    pub fn make_durability_impossible(&self, impossible: bool) {
        self.state().durability_impossible = impossible;
    }

    /// Takes away the right to extended attributes whose name starts with `_`, or gives it back.
    pub fn allow_system_xattrs(&self, allowed: bool) {
        self.state().system_xattrs_allowed = allowed;
    }

    /// Moves every vbucket to the next node, as a rebalance does.
    pub fn move_vbuckets(&self) {
        self.state().cluster.rotate();
    }

    /// Makes another bucket, which has the default collection; what is there already stays.
    pub fn create_bucket(&self, name: &str) {
        self.state().create_bucket(name);
    }

    /// Makes a scope and a collection in the first bucket; what is there already stays.
    pub fn create_collection(&self, scope: &str, collection: &str) {
        create_collection(&mut self.state().buckets[0], scope, collection);
    }

    /// Makes a bucket, and a scope and a collection in it; what is there already stays.
    pub fn create_collection_in(&self, bucket: &str, scope: &str, collection: &str) {
        let mut state = self.state();
        state.create_bucket(bucket);
        if let Some(found) = state.find(bucket.as_bytes()) {
            create_collection(&mut state.buckets[found], scope, collection);
        }
    }

    /// Takes a collection of the first bucket away.
    pub fn drop_collection(&self, scope: &str, collection: &str) {
        let _ = self.state().buckets[0].manifest.drop_collection(scope, collection);
    }

    /// A document of the first bucket's default collection, or its tombstone.
    pub fn document(&self, id: &str) -> Option<Document> {
        self.state().buckets[0].documents.get(&(0, id.as_bytes().to_vec()))
    }

    /// Every live document of a collection of the first bucket, by id; empty when there is no such collection.
    pub fn documents(&self, scope: &str, collection: &str) -> BTreeMap<String, Document> {
        documents(&mut self.state().buckets[0], scope, collection)
    }

    /// Every live document of a collection, by id; empty when there is no such bucket or collection.
    pub fn documents_in(&self, bucket: &str, scope: &str, collection: &str) -> BTreeMap<String, Document> {
        let mut state = self.state();
        let Some(found) = state.find(bucket.as_bytes()) else { return BTreeMap::new() };
        documents(&mut state.buckets[found], scope, collection)
    }

    /// Writes a document of the first bucket's default collection behind everybody's back: a foreign writer.
    pub fn put(&self, id: &str, document: Document) {
        self.state().buckets[0].documents.store((0, id.as_bytes().to_vec()), document);
    }

    /// How many connections to the key-value service are open.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// How many requests were put off ([`Action::Late`](crate::Action::Late)) and are not applied yet.
    pub fn late(&self) -> usize {
        self.state().late
    }

    /// How many requests came to a node that did not have the document, since vbuckets moved.
    pub fn misdirected(&self) -> u64 {
        self.state().misdirected
    }

    /// How many requests with this operation code came in.
    pub fn requests(&self, opcode: u8) -> u64 {
        self.state().requests.get(&opcode).copied().unwrap_or_default()
    }

    /// How many durable writes came in with this level: 1 majority, 2 majority and persisted on the active node,
    /// 3 persisted on a majority.
    pub fn durable_writes(&self, level: u8) -> u64 {
        self.state().durable.get(&level).copied().unwrap_or_default()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.lock()
    }

    fn accepting(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, listeners: Vec<Listeners>) {
        let mut accepting = self.accepting();
        for (node, listeners) in listeners.into_iter().enumerate() {
            let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
            let serve = move |stream| key_value(Arc::clone(&shared), tls.clone(), node, stream);
            accepting.spawn(accept_each(listeners.key_value, serve));
            let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
            let serve = move |stream| management(Arc::clone(&shared), tls.clone(), stream);
            accepting.spawn(accept_each(listeners.management, serve));
        }
    }
}

fn create_collection(bucket: &mut Bucket, scope: &str, collection: &str) {
    let _ = bucket.manifest.create_scope(scope);
    let _ = bucket.manifest.create_collection(scope, collection);
}

fn documents(bucket: &mut Bucket, scope: &str, collection: &str) -> BTreeMap<String, Document> {
    let Some(id) = bucket.manifest.id(scope, collection) else { return BTreeMap::new() };
    bucket.documents.all(id)
}

/// What one node listens with.
struct Listeners {
    key_value: TcpListener,
    management: TcpListener,
}

impl Listeners {
    async fn bind(ports: Ports) -> io::Result<Self> {
        let key_value = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.key_value)).await?;
        let management = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.management)).await?;
        Ok(Self { key_value, management })
    }

    fn ports(&self) -> io::Result<Ports> {
        Ok(Ports { key_value: self.key_value.local_addr()?.port(), management: self.management.local_addr()?.port() })
    }
}

async fn accept_each<F, S>(listener: TcpListener, serve: F)
where
    F: Fn(TcpStream) -> S,
    S: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream));
        while connections.try_join_next().is_some() {}
    }
}

async fn management(shared: Arc<Shared>, tls: Option<TlsAcceptor>, stream: TcpStream) -> io::Result<()> {
    match tls {
        Some(tls) => http::serve(shared, tls.accept(stream).await?).await,
        None => http::serve(shared, stream).await,
    }
}

/// Counts a connection as long as it is open.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.lock().connections += 1;
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().connections -= 1;
    }
}

async fn key_value(shared: Arc<Shared>, tls: Option<TlsAcceptor>, node: usize, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let _open = Open::new(&shared);
    let Some(tls) = tls else { return connection::serve(shared, Session::new(node, false), stream).await };
    let stream = tls.accept(stream).await?;
    let certified = stream.get_ref().1.peer_certificates().is_some();
    connection::serve(shared, Session::new(node, certified), stream).await
}
