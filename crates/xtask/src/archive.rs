//! Zip archives, by the Python that every Debian has.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};

use crate::packages::{self, PYTHON};

/// Unpacks an archive into a directory.
///
/// # Errors
/// Python isn't there and can't be had, or the archive is damaged.
pub fn unzip(archive: &Path, directory: &Path) -> Result<()> {
    run(python()?.arg("-e").arg(archive).arg(directory)).map(drop)
}

/// Makes an archive of what a directory contains.
///
/// # Errors
/// Python isn't there and can't be had, or the archive can't be written.
pub fn zip(directory: &Path, archive: &Path) -> Result<()> {
    let mut python = python()?;
    python.arg("-c").arg(archive);
    for entry in fs::read_dir(directory)? {
        python.arg(entry?.path());
    }
    run(&mut python).map(drop)
}

/// Runs a command whose output matters only when it fails.
///
/// # Errors
/// It can't be run, or it fails; the message has its output.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("can't run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{:?} failed ({}):\n{}{}",
            command.get_program(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

fn python() -> Result<Command> {
    packages::ensure(&[PYTHON])?;
    let mut python = Command::new(PYTHON.program);
    python.args(["-m", "zipfile"]);
    Ok(python)
}
