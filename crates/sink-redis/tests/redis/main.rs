//! The sink against a real Redis.

#![allow(clippy::unwrap_used, reason = "a test")]

mod failures;
mod guard;
mod resume;
mod support;
mod values;
