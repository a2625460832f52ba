//! `docs/writing-a-sink.md`, step 1, done as it is written there: the example is copied, renamed and tested.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use xtask::{cargo::cargo, paths};

/// The commands of the guide's first step.
fn commands() -> Vec<String> {
    let guide = std::fs::read_to_string(paths::workspace().join("docs/writing-a-sink.md")).unwrap();
    let (_, step) = guide.split_once("## 1. ").unwrap();
    let (_, block) = step.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block.lines().map(str::to_owned).collect()
}

/// A checkout where nothing is shared that the commands change.
fn checkout() -> TempDir {
    let (checkout, workspace) = (tempfile::tempdir().unwrap(), paths::workspace());
    let link = |name: &str| symlink(workspace.join(name), checkout.path().join(name)).unwrap();
    for file in ["Cargo.toml", "Cargo.lock"] {
        std::fs::copy(workspace.join(file), checkout.path().join(file)).unwrap();
    }
    for name in ["docs", "tests"] {
        link(name);
    }
    std::fs::create_dir(checkout.path().join("crates")).unwrap();
    for package in std::fs::read_dir(workspace.join("crates")).unwrap() {
        link(&format!("crates/{}", package.unwrap().file_name().display()));
    }
    let examples = Command::new("cp").arg("-r").arg(workspace.join("examples")).arg(checkout.path()).status();
    assert!(examples.unwrap().success());
    checkout
}

fn run(command: &str, directory: &Path) {
    let status = Command::new("sh").arg("-ec").arg(command).current_dir(directory).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// Names of the files below a directory, and all that is in them.
fn contents(directory: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        text += &format!("{}\n", path.file_name().unwrap().display());
        text += &if path.is_dir() { contents(&path) } else { std::fs::read_to_string(&path).unwrap() };
    }
    text
}

#[test]
fn a_copy_of_the_example_is_renamed_wherever_its_name_stands() {
    let checkout = checkout();
    let [copy_and_rename @ .., test] = &commands()[..] else { panic!("the guide's first step has no commands") };
    assert_eq!(test, "cargo test -p sink-fancy");
    copy_and_rename.iter().for_each(|command| run(command, checkout.path()));
    let copy = contents(&checkout.path().join("crates/sink-fancy"));
    assert!(copy.contains("sink-fancy") && copy.contains("sink_fancy"), "{copy}");
    assert!(!copy.contains("custom"), "{copy}");
}

#[test]
#[ignore = "compiles the framework again, in another directory: cargo xtask test --nightly"]
fn nightly_a_copy_of_the_example_compiles_and_conforms() {
    let checkout = checkout();
    for command in commands() {
        match command.strip_prefix("cargo ") {
            None => run(&command, checkout.path()),
            Some(arguments) => {
                let mut command = cargo();
                command.args(arguments.split(' ')).current_dir(checkout.path());
                let status = command.env("CARGO_TARGET_DIR", paths::target()).status().unwrap();
                assert!(status.success(), "{command:?}: {status}");
            }
        }
    }
}
