//! Documents, their tombstones, and the two clocks that order changes.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::frame::DATATYPE_JSON;

/// Values of expiry up to this are seconds from now, larger ones seconds since the epoch.
const LONGEST_RELATIVE_EXPIRY: u32 = 30 * 24 * 60 * 60;

/// A document, or what is left of a deleted one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The body; empty in a tombstone.
    pub value: Vec<u8>,
    /// The flags that SDKs keep the body's format in.
    pub flags: u32,
    /// Seconds since the epoch, 0 for never.
    pub expiry: u32,
    /// Changes with every write.
    pub cas: u64,
    /// Extended attributes.
    pub xattrs: Map<String, Value>,
    /// A tombstone: only extended attributes whose name starts with `_` are left.
    pub deleted: bool,
    /// Until when it is locked, and the CAS value that opens it.
    pub lock: Option<(Instant, u64)>,
}

impl Document {
    /// Whether the body is JSON, as the server finds by itself.
    pub fn is_json(&self) -> bool {
        serde_json::from_slice::<serde_json::Value>(&self.value).is_ok()
    }

    pub(crate) fn datatype(&self) -> u8 {
        if self.is_json() { DATATYPE_JSON } else { 0 }
    }

    /// Makes a tombstone of it.
    pub(crate) fn bury(&mut self) {
        self.value.clear();
        self.deleted = true;
        self.expiry = 0;
        self.lock = None;
        self.xattrs.retain(|name, _| name.starts_with('_'));
    }
}

/// Number of a collection and id of a document.
pub type Key = (u32, Vec<u8>);

/// Every document of the bucket. Nodes share it: a vbucket that moves takes its documents along.
pub struct Documents {
    documents: HashMap<Key, Document>,
    cas: u64,
    sequence: u64,
}

impl Documents {
    pub fn new() -> Self {
        Self { documents: HashMap::new(), cas: 0, sequence: 0 }
    }

    /// The document or its tombstone, with expiry and locks brought up to date.
    pub fn get(&mut self, key: &Key) -> Option<Document> {
        let now = now();
        let document = self.documents.get_mut(key)?;
        if document.expiry != 0 && document.expiry <= now {
            document.bury();
        }
        if document.lock.is_some_and(|(until, _)| Instant::now() >= until) {
            document.lock = None;
        }
        Some(document.clone())
    }

    /// The document, unless it is deleted.
    pub fn live(&mut self, key: &Key) -> Option<Document> {
        self.get(key).filter(|document| !document.deleted)
    }

    /// Stores a document under a new CAS value, which it returns with the sequence number of the change.
    pub fn store(&mut self, key: Key, document: Document) -> (u64, u64) {
        let stamp = self.stamp();
        self.store_as(key, document, stamp);
        stamp
    }

    /// Stores a document under a stamp that was taken before.
    pub fn store_as(&mut self, key: Key, mut document: Document, stamp: (u64, u64)) {
        document.cas = stamp.0;
        document.lock = None;
        self.documents.insert(key, document);
    }

    /// Leaves a tombstone.
    pub fn delete(&mut self, key: Key, mut document: Document) -> (u64, u64) {
        document.bury();
        self.store(key, document)
    }

    /// Locks a document: its CAS value changes, and only who knows the new one may write.
    pub fn lock(&mut self, key: Key, mut document: Document, time: Duration) -> u64 {
        let (cas, _) = self.stamp();
        document.cas = cas;
        document.lock = Some((Instant::now() + time, cas));
        self.documents.insert(key, document);
        cas
    }

    /// Takes a lock off without a change.
    pub fn unlock(&mut self, key: Key, mut document: Document) {
        document.lock = None;
        self.documents.insert(key, document);
    }

    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Every live document of a collection.
    pub fn all(&mut self, collection: u32) -> BTreeMap<String, Document> {
        let keys: Vec<Key> = self.documents.keys().filter(|key| key.0 == collection).cloned().collect();
        let live = keys.into_iter().filter_map(|key| Some((key.clone(), self.live(&key)?)));
        live.map(|(key, document)| (String::from_utf8_lossy(&key.1).into_owned(), document)).collect()
    }

    /// A new CAS value and sequence number.
    pub fn stamp(&mut self) -> (u64, u64) {
        // As the real server's: the time in nanoseconds, never twice the same.
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        self.cas = (self.cas + 1).max(time & !0xffff);
        self.sequence += 1;
        (self.cas, self.sequence)
    }
}

/// Seconds since the epoch.
pub fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as u32
}

/// An expiry as it comes over the wire, as a point in time.
pub fn absolute_expiry(expiry: u32) -> u32 {
    if expiry == 0 || expiry > LONGEST_RELATIVE_EXPIRY { expiry } else { now() + expiry }
}
