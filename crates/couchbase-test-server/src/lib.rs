//! An in-memory Couchbase key-value server, for tests on machines that have no Couchbase.
//!
//! It speaks enough of the memcached binary protocol, of the cluster configuration and of the management interface
//! that Couchbase's own SDKs take it for a cluster: the Rust one and the one for Python (C++ core) both pass the same
//! checks against it. It is no Couchbase: nothing is stored on disk, nothing is replicated, a durable write answers at
//! once. What it adds are faults on demand: a status, a cut connection, an answer that never comes, a write that lands
//! late.
//!
//! Where the behaviour of the real server matters for a sink it follows the sources of `kv_engine`: extended attributes
//! whose name starts with `_` survive a deletion in its tombstone, a sub-document mutation checks the CAS value before
//! anything else, a plain `SET` keeps extended attributes.

mod cluster;
mod collections;
mod connection;
mod data;
mod documents;
mod error_map;
mod fault;
mod frame;
mod http;
mod options;
mod scram;
mod server;
mod session;
mod state;
pub mod status;
mod subdoc;
mod tls;

pub use documents::Document;
pub use fault::{Action, Fault};
pub use frame::opcode;
pub use options::Options;
pub use server::Server;
pub use tls::Certificates;
