//! The servers that `cargo xtask test` starts once for all system tests.
//!
//! Tests that don't disturb a server use these, each with topics and keys of its own. Tests that stop, fill or
//! misconfigure one start their own.

use anyhow::{Context, Result};

/// Tells the tests where Kafka is. Not named `CONNECT_…`: connectors refuse such names if they don't know them.
pub const KAFKA_VARIABLE: &str = "SYSTEM_TEST_KAFKA";
/// Tells the tests where Redis is.
pub const REDIS_VARIABLE: &str = "SYSTEM_TEST_REDIS";

/// The address of the shared broker, as in `127.0.0.1:12345`.
///
/// # Errors
/// There is none.
pub fn kafka() -> Result<String> {
    address(KAFKA_VARIABLE)
}

/// The URL of the shared Redis.
///
/// # Errors
/// There is none.
pub fn redis() -> Result<String> {
    address(REDIS_VARIABLE)
}

fn address(variable: &str) -> Result<String> {
    std::env::var(variable).with_context(|| {
        format!("{variable} isn't set: run this test with `cargo xtask test NAME_OF_THE_TEST`, or set it to an address of `cargo xtask services up`")
    })
}
