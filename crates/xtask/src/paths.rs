//! Where things are kept. Everything that xtask makes is below the target directory, so `cargo clean` removes it.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The root of the workspace.
///
/// Found at run time when cargo starts us (`cargo run`, `cargo test`), so that a target directory which was copied
/// to another checkout never works on the first one.
pub fn workspace() -> PathBuf {
    let package = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let package = Path::new(&package);
    package.ancestors().find(|directory| directory.join("Cargo.lock").is_file()).unwrap_or(package).to_owned()
}

/// The target directory of the workspace.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace().join(directory),
        None => workspace().join("target"),
    }
}

/// Jars, data, logs and state of the servers.
pub fn services() -> PathBuf {
    target().join("services")
}
