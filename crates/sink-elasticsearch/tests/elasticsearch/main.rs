//! The sink against real servers.

#![allow(clippy::unwrap_used, reason = "a test")]

mod answers;
mod check;
mod conformance;
mod crash;
mod epochs;
mod failover;
mod limits;
mod load;
mod proxies;
mod security;
mod support;
mod targets;
mod updates;
mod versions;
