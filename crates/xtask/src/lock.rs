//! A lock between processes: two checkouts' tests, or a person's and CI's, may install the same thing at once.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

/// Held until dropped; the kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "kept open for the lock")] File);

impl Lock {
    /// Waits until no other process holds the lock at `path`, then takes it. `purpose` is shown while waiting.
    ///
    /// # Errors
    /// The file can't be made or locked.
    pub fn acquire(path: &Path, purpose: &str) -> Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("can't make the directory {}", directory.display()))?;
        }
        let file = File::create(path).with_context(|| format!("can't make the lock file {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("waiting for another process to finish: {purpose}");
            flock(&file, FlockOperation::LockExclusive).with_context(|| format!("can't lock {}", path.display()))?;
        }
        Ok(Self(file))
    }
}
