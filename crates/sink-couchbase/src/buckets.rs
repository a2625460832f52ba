//! The clients of all buckets that records go to, each made when it is first needed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use connect_core::{Item, SinkError};
use couchbase_core::agent::Agent;
use futures::future::join_all;

use crate::connection::{Bucket, Connection, Way};
use crate::op::Op;
use crate::probe;

/// The buckets of one cluster.
pub(crate) struct Buckets {
    way: Arc<Way>,
    /// Those that the settings name.
    needed: Vec<Arc<str>>,
    connections: Mutex<HashMap<Arc<str>, Arc<Connection>>>,
}

impl Buckets {
    pub fn new(way: Way, needed: Vec<Arc<str>>) -> Self {
        Self { way: Arc::new(way), needed, connections: Mutex::default() }
    }

    /// Looks at the user alone.
    ///
    /// # Errors
    /// What is missing.
    pub async fn check(&self) -> Result<(), SinkError> {
        Box::pin(probe::look(&self.way, None, &[])).await
    }

    /// The way to one bucket.
    pub fn of(&self, name: &Arc<str>) -> Arc<Connection> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        match connections.entry(Arc::clone(name)) {
            Entry::Occupied(entry) => Arc::clone(entry.get()),
            Entry::Vacant(entry) => {
                let bucket = Bucket { name: Arc::clone(name), needed: self.needed.contains(name) };
                Arc::clone(entry.insert(Arc::new(Connection::new(Arc::clone(&self.way), bucket))))
            }
        }
    }

    /// The clients that these items need, connected side by side; `None` where there are no items.
    pub async fn links(&self, items: &[Item<Op>]) -> Option<Links> {
        let mut names: Vec<&Arc<str>> = Vec::new();
        for item in items {
            let name = &item.op.keyspace.bucket;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut links = join_all(names.into_iter().map(|name| self.link(name))).await;
        let first = links.pop()?;
        Some(Links { first, others: links })
    }

    async fn link(&self, name: &Arc<str>) -> Link {
        let connection = self.of(name);
        let agent = connection.agent().await;
        Link {
            bucket: Arc::clone(name),
            connection,
            agent,
            settled: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
        }
    }
}

/// The clients that one batch needs: mostly a single one.
pub(crate) struct Links {
    first: Link,
    others: Vec<Link>,
}

impl Links {
    /// The one for this operation, of an item of the batch.
    pub fn of(&self, op: &Op) -> &Link {
        self.others.iter().find(|link| link.bucket == op.keyspace.bucket).unwrap_or(&self.first)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// The client of one bucket while a batch is written.
pub(crate) struct Link {
    bucket: Arc<str>,
    connection: Arc<Connection>,
    /// Or why there is none.
    pub agent: Result<Arc<Agent>, SinkError>,
    settled: AtomicUsize,
    silent: AtomicBool,
}

impl Link {
    /// So many items came to their end.
    pub fn settled(&self, items: usize) {
        self.settled.fetch_add(items, Relaxed);
    }

    /// Whether any item did.
    pub fn moved(&self) -> bool {
        self.settled.load(Relaxed) > 0
    }

    /// Something went wrong that may be the client's own fault.
    pub fn failed(&self, error: &SinkError) {
        if matches!(error, SinkError::Transient { reason: "timeout" | "connection" | "no_node", .. }) {
            self.silent.store(true, Relaxed);
        }
    }

    /// The batch is written: tells the connection how that went.
    pub fn end(&self) {
        if self.moved() {
            self.connection.works();
        } else if let (true, Ok(agent)) = (self.silent.load(Relaxed), &self.agent) {
            self.connection.fails(agent);
        }
    }
}
