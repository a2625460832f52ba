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
    /// Arguments with which it ends with success: Debian splits some programs, and what is there may lack a part. None: it only
    /// has to be there.
    probe: &'static [&'static str],
}

impl Package {
    /// A program that is there or not.
    pub const fn new(program: &'static str, package: &'static str) -> Self {
        Self { program, package, probe: &[] }
    }

    /// A program that may be there without the part which this package brings.
    pub const fn with_probe(self, probe: &'static [&'static str]) -> Self {
        Self { probe, ..self }
    }

    fn is_there(&self) -> bool {
        let Some(program) = find_program(Path::new(self.program)) else { return false };
        self.probe.is_empty()
            || Command::new(program).args(self.probe).output().is_ok_and(|output| output.status.success())
    }
}

/// Java, 17 on Debian 12.
pub const JAVA: Package = Package::new("java", "default-jre-headless");
/// Maven, which gets the jars of the Java servers.
pub const MAVEN: Package = Package::new("mvn", "maven");
/// Python, for zip archives.
pub const PYTHON: Package = Package::new("python3", "python3");
/// Python's package manager, for a Java newer than the system's.
pub const PIP: Package = Package::new("pip3", "python3-pip");
/// The Redis server.
pub const REDIS_SERVER: Package = Package::new("redis-server", "redis-server");
/// Python's virtual environments, which python3 alone doesn't bring on Debian.
pub const VENV: Package = Package::new("python3", "python3-venv").with_probe(&["-c", "import ensurepip, venv"]);
/// A C++ compiler, for libFuzzer.
pub const CPP: Package = Package::new("c++", "g++");
/// The C compiler for static binaries.
pub const MUSL: Package = Package::new("musl-gcc", "musl-tools");
/// `redis-cli` and `redis-benchmark`.
pub const REDIS_TOOLS: Package = Package::new("redis-cli", "redis-tools");

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
    run_apt(&apt, &arguments).with_context(|| format!("try by hand: {by_hand}"))?;
    still_missing(packages)
}

/// Another program of the same name may stand before the package's in PATH, and lack what the package has.
fn still_missing(packages: &[Package]) -> Result<()> {
    match packages.iter().find(|package| !package.is_there()) {
        None => Ok(()),
        Some(Package { program, package, probe }) => {
            bail!(
                "{package} is installed, but `{program} {}` still fails: see which {program} is in PATH",
                probe.join(" ")
            )
        }
    }
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
    packages.iter().filter(|package| !package.is_there()).map(|package| package.package).collect()
}

fn run_apt(apt: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new(apt)
        .args(["-o", "DPkg::Lock::Timeout=300", "-q"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // A package need not start its server: the ones that run here are ours, on ports of our choice. Where systemd runs it is
        // started all the same, and disturbs nobody.
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
        let there = Package::new("sh", "dash");
        let absent = Package::new("no-such-program-here", "no-such-package");
        assert_eq!(missing(&[there, absent]), ["no-such-package"]);
        assert!(still_missing(&[there]).is_ok());
    }

    #[test]
    fn a_program_that_lacks_a_part_is_missing() {
        let whole = Package::new("sh", "dash").with_probe(&["-c", "exit 0"]);
        let part = Package::new("sh", "the-other-part").with_probe(&["-c", "exit 1"]);
        assert_eq!(missing(&[whole, part]), ["the-other-part"]);
        let error = still_missing(&[whole, part]).unwrap_err().to_string();
        assert!(error.contains("the-other-part") && error.contains("sh -c exit 1"), "{error}");
    }
}
