//! Couchbase's SDK for Python takes the server for a cluster too: a witness that shares no code with the Rust one.
#![allow(clippy::unwrap_used, reason = "a helper of tests may fail the test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use couchbase_test_server::{Certificates, Options, Server};
use xtask::packages::{self, PIP, PYTHON};

const PACKAGE: &str = "couchbase==4.6.3";

/// The directory with the SDK, installed once.
fn sdk() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python").join(PACKAGE);
        // Written last, so an installation that was cut short is begun anew.
        let done = directory.join(".done");
        if !done.exists() {
            packages::ensure(&[PYTHON, PIP]).unwrap();
            let options = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", PACKAGE];
            run(Command::new(PYTHON.program).args(options).arg("--target").arg(&directory));
            std::fs::write(done, "").unwrap();
        }
        directory
    })
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{text}");
}

async fn check(server: &Server, authority: Option<&Path>) {
    server.create_bucket("other");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python_sdk.py");
    let (url, authority) = (server.url(), authority.map(Path::to_owned));
    let check = move || {
        let mut python = Command::new(PYTHON.program);
        run(python.env("PYTHONPATH", sdk()).arg("-B").arg(script).arg(url).args(authority));
    };
    tokio::task::spawn_blocking(check).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs a Python package: run by cargo xtask test"]
async fn the_python_sdk_passes_the_same_checks() {
    check(&Server::start(Options { nodes: 2, ..Options::default() }).await.unwrap(), None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs a Python package: run by cargo xtask test"]
async fn the_python_sdk_passes_them_over_tls_too() {
    let certificates = Certificates::generate().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("authority.pem");
    std::fs::write(&authority, &certificates.authority).unwrap();
    let server = Server::start(Options { tls: Some(certificates), ..Options::default() }).await.unwrap();
    check(&server, Some(&authority)).await;
}
