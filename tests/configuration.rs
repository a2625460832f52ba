//! Configuration errors: all at once, each with its variable and what is expected, exit code 64. No server is needed.

use std::process::{Command, Output};

use anyhow::Result;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_sink-redis"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()?)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn an_empty_environment_names_everything_that_is_required() -> Result<()> {
    let output = run(&[], &[])?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(64), "{said}");
    for variable in ["CONNECT_NAME", "CONNECT_KAFKA_BROKERS", "CONNECT_KAFKA_TOPICS", "CONNECT_REDIS_URL"] {
        assert!(said.contains(variable), "{variable} is not named: {said}");
    }
    Ok(())
}

#[test]
fn unknown_misspelt_and_wrong_values_are_reported_together() -> Result<()> {
    let environment = [
        ("CONNECT_NAME", "a"),
        ("CONNECT_KAFKA_BROKERS", "localhost"),
        ("CONNECT_KAFKA_TOPICS", "t"),
        ("CONNECT_REDIS_URL", "redis://localhost:1"),
        ("CONNECT_REDSI_KEY", "x"),
        ("CONNECT_BATCH_RECORDS", "many"),
        ("CONNECT_REDIS_TTL", "0s"),
        ("CONNECT_DRAIN_TIMEOUT", "25"),
        ("CONNECT_REDIS_KEY", "session:{kye}"),
    ];
    let output = run(&[], &environment)?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(64), "{said}");
    for part in [
        "CONNECT_REDSI_KEY",
        "CONNECT_REDIS_KEY",
        "CONNECT_BATCH_RECORDS",
        "CONNECT_REDIS_TTL",
        "CONNECT_DRAIN_TIMEOUT",
        "{kye}",
    ] {
        assert!(said.contains(part), "{part} is not named: {said}");
    }
    Ok(())
}

#[test]
fn the_effective_configuration_shows_no_secret() -> Result<()> {
    let environment = [
        ("CONNECT_NAME", "a"),
        ("CONNECT_KAFKA_BROKERS", "localhost:9092"),
        ("CONNECT_KAFKA_TOPICS", "t"),
        ("CONNECT_REDIS_URL", "redis://localhost:1"),
        ("CONNECT_REDIS_PASSWORD", "hunter2"),
    ];
    let output = run(&["config"], &environment)?;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("CONNECT_REDIS_PASSWORD") && !said.contains("hunter2"), "{said}");
    Ok(())
}
