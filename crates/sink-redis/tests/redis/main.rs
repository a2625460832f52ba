//! The sink against a real Redis.

#![allow(clippy::unwrap_used, reason = "a test")]

mod commands;
mod expiry;
mod failures;
mod guard;
mod resume;
mod support;
mod values;
mod ways;
