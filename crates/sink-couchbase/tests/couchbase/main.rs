//! The sink against the in-memory server.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

mod actions;
mod buckets;
mod connecting;
mod expiry;
mod faults;
mod guard;
mod support;
