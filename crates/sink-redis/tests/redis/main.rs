//! The sink against a real Redis.

#![allow(clippy::unwrap_used, reason = "a test")]

mod back_in_time;
mod cluster;
mod commands;
mod core;
mod expiry;
mod failures;
mod guard;
mod hostile;
mod json;
mod resume;
mod support;
mod topology;
mod transaction;
mod values;
mod ways;
