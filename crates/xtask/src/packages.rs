//! Programs that come as Debian packages: found, installed where that is possible, or named with the command that
//! installs them.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{lock::Lock, paths};

/// A program and the Debian package that it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// The name of the executable.
    pub program: &'static str,
    /// The name of the package.
    pub package: &'static str,
}

/// Java, 17 on Debian 12.
pub const JAVA: Package = Package { program: "java", package: "default-jre-headless" };
/// Maven, which gets the jars of the Java servers.
pub const MAVEN: Package = Package { program: "mvn", package: "maven" };
/// Python, for zip archives.
pub const PYTHON: Package = Package { program: "python3", package: "python3" };
/// Python's package manager, for a Java newer than the system's.
pub const PIP: Package = Package { program: "pip3", package: "python3-pip" };
/// The Redis server.
pub const REDIS_SERVER: Package = Package { program: "redis-server", package: "redis-server" };
/// The C compiler for static binaries.
pub const MUSL: Package = Package { program: "musl-gcc", package: "musl-tools" };
/// `redis-cli` and `redis-benchmark`.
pub const REDIS_TOOLS: Package = Package { program: "redis-cli", package: "redis-tools" };

/// Makes sure that all programs are there; installs what is missing if we are root on a system with apt.
///
/// # Errors
/// Something is missing and can't be installed; the message has the command that does.
pub fn ensure(packages: &[Package]) -> Result<()> {
    if missing(packages).is_empty() {
        return Ok(());
    }
    let _lock = Lock::acquire(&paths::services().join("packages.lock"), "installing packages")?;
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    let by_hand = format!("sudo apt-get update && sudo apt-get install --no-install-recommends {names}");
    let Some(apt) = find_program(Path::new("apt-get")) else {
        bail!(
            "not installed: {names}. This system has no apt-get; on Debian or Ubuntu: {by_hand}. The demo can do with Docker alone: \
             cargo xtask demo --compose"
        );
    };
    if !rustix::process::geteuid().is_root() {
        bail!("not installed: {names}. Install with: {by_hand}");
    }
    eprintln!("installing Debian packages: {names}");
    run_apt(&apt, &["update"]).with_context(|| format!("try by hand: {by_hand}"))?;
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(&missing);
    run_apt(&apt, &arguments).with_context(|| format!("try by hand: {by_hand}"))
}

/// The full path of a program: itself if it has a directory, otherwise what PATH has.
pub fn find_program(program: &Path) -> Option<PathBuf> {
    let is_executable =
        |path: &Path| path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
    if program.components().count() > 1 {
        return is_executable(program).then(|| program.to_owned());
    }
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(program)).find(|path| is_executable(path))
}

fn missing(packages: &[Package]) -> Vec<&'static str> {
    packages
        .iter()
        .filter(|package| find_program(Path::new(package.program)).is_none())
        .map(|package| package.package)
        .collect()
}

fn run_apt(apt: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new(apt)
        .args(["-o", "DPkg::Lock::Timeout=300", "-q"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // A package must not start its server: the ones that run here are ours, on ports of our choice.
        .env("RUNLEVEL", "1")
        .output()
        .context("can't run apt-get")?;
    if !output.status.success() {
        bail!(
            "apt-get {} failed ({}):\n{}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path_or_not_at_all() {
        assert!(find_program(Path::new("sh")).is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program(Path::new("no-such-program-here")), None);
        assert_eq!(find_program(Path::new("/no/such/directory/sh")), None);
    }

    #[test]
    fn only_what_is_missing_is_named() {
        let there = Package { program: "sh", package: "dash" };
        let absent = Package { program: "no-such-program-here", package: "no-such-package" };
        assert_eq!(missing(&[there, absent]), ["no-such-package"]);
    }
}
