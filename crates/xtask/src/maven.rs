//! Jars of the Java servers, by Maven.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    packages::{self, MAVEN},
    paths,
};

/// Copies what a `pom.xml` depends on at run time. `pom` is its path below `crates/xtask/services`.
///
/// # Errors
/// Maven isn't there and can't be had, or it can't get a jar.
pub fn copy_dependencies(pom: &str, properties: &[(&str, &str)], directory: &Path) -> Result<()> {
    let pom = paths::workspace().join("crates/xtask/services").join(pom);
    let mut command = Command::new(MAVEN.program);
    command.arg("--file").arg(pom).arg("dependency:copy-dependencies").arg("-DincludeScope=runtime");
    for (name, value) in properties {
        command.arg(format!("-D{name}={value}"));
    }
    run(command, directory)
}

/// Copies one artifact, named as in `group:artifact:version:packaging`, without what it depends on.
///
/// # Errors
/// As for [`copy_dependencies`].
pub fn copy(artifact: &str, directory: &Path) -> Result<()> {
    let mut command = Command::new(MAVEN.program);
    command.arg("org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy").arg(format!("-Dartifact={artifact}"));
    run(command, directory)
}

fn run(mut command: Command, directory: &Path) -> Result<()> {
    packages::ensure(&[MAVEN])?;
    let output = command
        .args(["--quiet", "--batch-mode"])
        .arg(format!("-DoutputDirectory={}", directory.display()))
        .output()
        .context("can't run mvn")?;
    if !output.status.success() {
        bail!(
            "Maven can't fill {} ({}); is its repository reachable from here?\n{}{}",
            directory.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
