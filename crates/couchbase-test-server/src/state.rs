//! What all connections of a server share.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cluster::Cluster;
use crate::collections::Manifest;
use crate::documents::Documents;
use crate::fault::Faults;

/// The bucket, the cluster and the faults.
pub struct State {
    pub documents: Documents,
    pub manifest: Manifest,
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

/// The state behind its lock, which is held for one request at a time.
pub struct Shared {
    pub username: String,
    pub password: String,
    pub bucket: String,
    state: Mutex<State>,
}

impl Shared {
    pub fn new(username: String, password: String, bucket: String, cluster: Cluster) -> Self {
        let state = State {
            documents: Documents::new(),
            manifest: Manifest::new(),
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
        Self { username, password, bucket, state: Mutex::new(state) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
