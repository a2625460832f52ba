//! Runs cargo from within a program that cargo itself has started.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{lock::Lock, packages::find_program, paths};

/// The cargo that runs us, in the workspace's root, with the environment that a person's own call would have.
///
/// Cargo tells a program which package it is (`CARGO_PKG_NAME` …). Handed on, that would change the environment of the
/// build scripts, and those that watch it (ring's does) would be run again, with everything above them built anew, each
/// time a person's call and one of ours alternate.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// A program that extends cargo, such as `cargo-deny`: ours, or one in `PATH`.
pub fn extension(name: &str) -> Option<PathBuf> {
    find_program(&tools().join("bin").join(name)).or_else(|| find_program(Path::new(name)))
}

/// The same, installed below `target/tools` where there is none.
///
/// # Errors
/// It can't be installed; cargo has written why.
pub async fn installed(name: &str) -> Result<PathBuf> {
    if let Some(program) = extension(name) {
        return Ok(program);
    }
    let _lock = Lock::acquire(&tools().join(format!("{name}.lock")), &format!("installing {name}"))?;
    let mut install = tokio::process::Command::from(cargo());
    install.args(["install", name, "--locked", "--root"]).arg(tools()).kill_on_drop(true);
    let status = install.status().await.context("can't run cargo")?;
    if !status.success() {
        bail!("{name} can't be installed ({status}), see above");
    }
    Ok(tools().join("bin").join(name))
}

fn tools() -> PathBuf {
    paths::target().join("tools")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_that_runs_it_is_not_handed_on() {
        assert_eq!(env::var("CARGO_PKG_NAME").as_deref(), Ok("xtask"), "run by cargo");
        let command = cargo();
        let removed = |name: &str| command.get_envs().any(|(key, value)| key == name && value.is_none());
        assert!(removed("CARGO_PKG_NAME"));
        assert!(removed("CARGO_MANIFEST_DIR"));
        assert!(!removed("PATH"));
    }
}
