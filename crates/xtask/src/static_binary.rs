//! The static binaries that container images hold.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{cargo::cargo, connector::run_cargo, deploy::tools::succeed, packages, paths};

/// The most that the static binary of a connector may weigh, in MiB: what an image of it is.
#[must_use]
pub fn most_mib(package: &str) -> f64 {
    // Couchbase's client brings a library for cryptography of its own, beside the one that all the others share.
    if package == "sink-couchbase" { 17.0 } else { 15.0 }
}

/// A copy of what the build of an image sees, so that a file that it lacks is missed here too.
///
/// It is the one place that static binaries are built from. For cargo a package is the same one wherever the workspace stands: built from
/// the workspace as well, what was once built from the copy would pass for what newer sources make.
#[derive(Debug)]
pub struct Sources(PathBuf);

impl Sources {
    /// Copies them.
    ///
    /// # Errors
    /// That fails.
    pub fn copy() -> Result<Self> {
        let list = fs::read_to_string(paths::workspace().join("deploy/Dockerfile.dockerignore"))?;
        let seen = list.lines().filter_map(|line| line.strip_prefix('!')).map(|name| paths::workspace().join(name));
        let copy = paths::target().join("tools/context");
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        fs::create_dir_all(&copy)?;
        let mut cp = Command::new("cp");
        // With the times of the files, so that cargo builds again only what has changed.
        succeed("cp", cp.args(["--archive", "--target-directory"]).arg(&copy).args(seen))?;
        Ok(Self(copy))
    }

    /// Builds the static binary of a connector's package, and says where it is.
    ///
    /// # Errors
    /// The target for musl or its C compiler can't be installed, or it doesn't compile.
    pub fn build(&self, package: &str) -> Result<PathBuf> {
        let target = static_target()?;
        let mut build = cargo();
        build.current_dir(&self.0).env("CARGO_TARGET_DIR", paths::target());
        build.args(["build", "--locked", "--release", "--package", package, "--target", &target]);
        // Parts of zstd and ring are C.
        build.env(format!("CC_{}", target.replace('-', "_")), packages::MUSL.program);
        run_cargo(package, &mut build)
    }
}

/// The target of static binaries, installed with its C compiler where they aren't there.
///
/// # Errors
/// One can't be installed; the message has the command that does.
pub fn static_target() -> Result<String> {
    packages::ensure(&[packages::MUSL])?;
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    // A Rust that didn't come by rustup may have it as well.
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", &target]).output();
    if libraries.is_ok_and(|found| Path::new(String::from_utf8_lossy(&found.stdout).trim()).is_dir()) {
        return Ok(target);
    }
    let added = Command::new("rustup").args(["target", "add", &target]).status();
    if !added.is_ok_and(|added| added.success()) {
        bail!(
            "Rust's libraries for static binaries can't be installed; do it with: rustup target add {target}; or, where Rust is \
             the system's, by its package for musl"
        );
    }
    Ok(target)
}
