//! The sink against real servers.

#![allow(clippy::unwrap_used, reason = "a test")]

mod answers;
mod conformance;
mod crash;
mod limits;
mod load;
mod security;
mod support;
mod targets;
mod updates;
