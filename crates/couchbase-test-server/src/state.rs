//! What all connections of a server share.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cluster::Cluster;
use crate::collections::Manifest;
use crate::documents::Documents;
use crate::fault::Faults;
use crate::session::Agreed;

/// One bucket.
pub struct Bucket {
    pub name: String,
    pub documents: Documents,
    pub manifest: Manifest,
}

impl Bucket {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), documents: Documents::new(), manifest: Manifest::new() }
    }
}

/// The buckets, the cluster and the faults.
pub struct State {
    /// The first one is there from the beginning.
    pub buckets: Vec<Bucket>,
    pub cluster: Cluster,
    pub faults: Faults,
    /// Connections to the key-value service that are open.
    pub connections: usize,
    /// Requests that were put off and have not been applied yet.
    pub late: usize,
    /// Requests that came to a node which does not have the vbucket.
    pub misdirected: u64,
    /// Requests seen, by operation code.
    pub requests: BTreeMap<u8, u64>,
    /// Durable writes seen, by level.
    pub durable: BTreeMap<u8, u64>,
    /// Answered to each durable write instead of doing it.
    pub durability_impossible: bool,
    /// Whether the user may touch extended attributes whose name starts with `_`.
    pub system_xattrs_allowed: bool,
}

impl State {
    /// The bucket that a connection has selected.
    pub fn bucket(&mut self, agreed: Agreed) -> &mut Bucket {
        &mut self.buckets[agreed.bucket]
    }

    /// The documents of the bucket that a connection has selected.
    pub fn documents(&mut self, agreed: Agreed) -> &mut Documents {
        &mut self.bucket(agreed).documents
    }

    /// The place of a bucket.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.buckets.iter().position(|bucket| bucket.name.as_bytes() == name)
    }

    /// Makes a bucket; one that is there already stays.
    pub fn create_bucket(&mut self, name: &str) {
        if self.find(name.as_bytes()).is_none() {
            self.buckets.push(Bucket::new(name));
        }
    }
}

/// The state behind its lock, which is held for one request at a time.
pub struct Shared {
    pub username: String,
    pub password: String,
    state: Mutex<State>,
}

impl Shared {
    pub fn new(username: String, password: String, bucket: &str, cluster: Cluster) -> Self {
        let state = State {
            buckets: vec![Bucket::new(bucket)],
            cluster,
            faults: Faults::default(),
            connections: 0,
            late: 0,
            misdirected: 0,
            requests: BTreeMap::new(),
            durable: BTreeMap::new(),
            durability_impossible: false,
            system_xattrs_allowed: true,
        };
        Self { username, password, state: Mutex::new(state) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
