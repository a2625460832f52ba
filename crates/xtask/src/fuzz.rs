//! `cargo xtask fuzz`: hostile bytes for the decoders, found by cargo-fuzz from what real servers sent.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{
    cargo::{self, cargo},
    packages, paths,
};

/// How long each target is run unless said otherwise.
pub const LENGTH: Duration = Duration::from_secs(60);
/// The targets in `fuzz/fuzz_targets`, and where the bytes are that each begins with.
const TARGETS: [(&str, &str); 1] = [("record_batch", "crates/connect-core/tests/golden")];

/// Runs each target for this long. What is found is kept below `target/fuzz`, and the next run goes on from there.
///
/// # Errors
/// An input makes a target panic, or take too much memory or time: its file is named. Or the targets can't be built.
pub async fn run(length: Duration) -> Result<()> {
    let program = tools().await?;
    // Cargo looks for its extensions there, and ours is below `target/tools`.
    let others = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(program.parent().map(Path::to_owned).into_iter().chain(env::split_paths(&others)))?;
    for (target, seeds) in TARGETS {
        let corpus = paths::target().join("fuzz/corpus").join(target);
        copy(&paths::workspace().join(seeds), &corpus)?;
        let mut command = Command::from(cargo());
        command
            .env("PATH", &path)
            .args(["fuzz", "run", target])
            .arg(&corpus)
            // No sanitizer: they find bad memory accesses, and there are none without unsafe code. They would also ask for the
            // standard library built with them. What is looked for are panics, endless loops and too much memory.
            .args(["--sanitizer", "none", "--target-dir"])
            .arg(paths::target().join("fuzz"))
            .arg("--")
            .arg(format!("-max_total_time={}", length.as_secs()))
            // Seconds and MiB for one input; most take microseconds and a few MiB.
            .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
            // A stable compiler instruments code as a nightly one does, and refuses only to be asked for it.
            .env("RUSTC_BOOTSTRAP", "1")
            .kill_on_drop(true);
        let status = command.status().await.context("can't run cargo")?;
        if !status.success() {
            bail!("{target}: {status}; what it was given is in fuzz/artifacts/{target}");
        }
    }
    Ok(())
}

/// cargo-fuzz, and what it builds with; installed where they aren't there.
///
/// # Errors
/// One can't be installed; the message, or cargo before it, says why.
pub async fn tools() -> Result<PathBuf> {
    packages::ensure(&[packages::CPP])?;
    cargo::installed("cargo-fuzz").await
}

/// Adds the golden bytes to what earlier runs have found.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = fs::create_dir_all(to).and_then(|()| {
        for seed in fs::read_dir(from)? {
            let seed = seed?.path();
            if let (Some("bin"), Some(name)) = (seed.extension().and_then(|end| end.to_str()), seed.file_name()) {
                fs::copy(&seed, to.join(name))?;
            }
        }
        Ok(())
    });
    copied.with_context(|| format!("can't copy {} to {}", from.display(), to.display()))
}
