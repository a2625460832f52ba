//! The image and the compose file: linted, and held to the reference. There may be no engine here that builds them.

use std::fs;

use anyhow::{Context, Result, bail};

use super::{
    reference::{Chapter, is_known},
    tools::{Tools, succeed},
};
use crate::paths;

const COMPOSE: &str = "deploy/compose.yaml";

/// Checks both.
///
/// # Errors
/// What the linter found, or a variable that doesn't exist.
pub fn check(tools: &Tools, chapters: &[Chapter]) -> Result<()> {
    succeed("hadolint", tools.hadolint().args(["--failure-threshold", "style", "deploy/Dockerfile"]))?;
    let text = fs::read_to_string(paths::workspace().join(COMPOSE)).context(COMPOSE)?;
    let unknown: Vec<_> = variables(&text).filter(|name| !is_known(chapters, name)).collect();
    if !unknown.is_empty() {
        bail!("{COMPOSE}: not in docs/configuration.md: {}", unknown.join(", "));
    }
    succeed(COMPOSE, tools.compose().arg(COMPOSE))
}

fn variables(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with("CONNECT_"))
}
