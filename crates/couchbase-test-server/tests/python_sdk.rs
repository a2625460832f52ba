//! Couchbase's SDK for Python takes the server for a cluster too: a witness that shares no code with the Rust one.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use couchbase_test_server::{Options, Server};

const PACKAGE: &str = "couchbase==4.6.3";

/// A Python with the SDK, made once under the target directory.
fn python() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-couchbase");
    let python = home.join("bin/python");
    if !home.join("complete").exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", PACKAGE]));
        std::fs::write(home.join("complete"), PACKAGE).unwrap();
    }
    python
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs a Python package: run by cargo xtask test"]
async fn the_python_sdk_passes_the_same_checks() {
    let server = Server::start(Options { nodes: 2, ..Options::default() }).await.unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python_sdk.py");
    let url = server.url();
    let check = move || run(Command::new(python()).arg(script).arg(url));
    tokio::task::spawn_blocking(check).await.unwrap();
}
