//! What `docs/writing-a-sink.md` tells a person to type, typed: the example is copied, renamed and tested, and runs beside a Kafka.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use xtask::services::shared;
use xtask::{cargo::cargo, connector, paths};

/// The commands of a step of the guide.
fn commands(step: &str) -> Vec<String> {
    let guide = std::fs::read_to_string(paths::workspace().join("docs/writing-a-sink.md")).unwrap();
    let (_, step) = guide.split_once(&format!("## {step}. ")).unwrap();
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
fn the_example_is_short() {
    let files = ["src/lib.rs", "src/main.rs", "tests/conformance.rs"];
    let lines = files.map(|file| {
        let text = std::fs::read_to_string(paths::workspace().join("examples/custom-sink").join(file)).unwrap();
        text.lines().count()
    });
    let [sink, main, test] = lines;
    assert!(sink + main <= 60 && test <= 15, "{sink} + {main} lines, and {test} of its test");
}

#[test]
fn a_copy_of_the_example_is_renamed_wherever_its_name_stands() {
    let checkout = checkout();
    let [copy_and_rename @ .., test] = &commands("1")[..] else { panic!("the guide's first step has no commands") };
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
    for command in commands("1") {
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

#[test]
#[ignore = "needs servers: cargo xtask test"]
fn the_commands_beside_a_kafka_move_records() {
    let (kafka, binary) = (shared::kafka().unwrap(), connector::build("custom-sink", "dev").unwrap());
    // Where the tests of an older Kafka have been, there are two.
    let directory = tempfile::tempdir().unwrap();
    let services = directory.path().join("target/services");
    std::fs::create_dir_all(services.join("kafka-3.0.0")).unwrap();
    let installed = std::fs::read_dir(paths::services()).unwrap().map(|entry| entry.unwrap().path());
    let is_kafka = |path: &PathBuf| {
        path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kafka-"))
    };
    let newest = installed.filter(is_kafka).max().unwrap();
    symlink(&newest, services.join(newest.file_name().unwrap())).unwrap();
    let topic = format!("guide-{}", chrono::Utc::now().timestamp_micros());
    let block = commands("6").join("\n");
    let [up, port] = ["cargo xtask services up\n", "127.0.0.1:PORT"];
    assert!(block.starts_with(up) && block.contains(port), "{block}");
    let block = block
        .replace(up, "")
        .replace(port, &kafka)
        .replace("orders", &topic)
        .replace("my-rows", &topic)
        .replace("/tmp/rows.db", "rows.db")
        // Nobody is there to type Ctrl-C.
        .replace("cargo run -p sink-fancy ", "CONNECT_KAFKA_STOP=end cargo run -p sink-fancy ")
        .replace("cargo run -p sink-fancy -- ", &format!("{} ", binary.display()))
        .replace("cargo run -p sink-fancy ", &format!("{} ", binary.display()));
    let mut shell = Command::new("sh");
    shell.arg("-ec").arg(&block).current_dir(directory.path()).env("CONNECT_ADMIN_LISTEN", "127.0.0.1:0");
    let output = shell.output().unwrap();
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).join("\n");
    assert!(output.status.success(), "{said}");
    let account = said.lines().find(|line| line.contains("what became of the records")).expect(&said);
    assert!(account.contains("written=3") || account.contains(r#""written":3"#), "{said}");
    assert!(said.contains("LAG"), "{said}");
}
