//! `cargo xtask deploy`: the files below `deploy/` are checked as Helm, Kubernetes and Prometheus would.

pub mod chart;
pub mod contents;
pub mod expressions;
mod files;
pub mod image;
pub mod observation;
pub mod pods;
pub mod reference;
pub mod release;
mod rules;
mod scaling;
pub mod schema;
pub mod tools;

use std::fs;

use anyhow::{Context, Result};

use crate::paths;

/// Checks everything; with `write`, makes the generated part of the chart's schema anew instead.
///
/// # Errors
/// The first thing that is wrong.
pub async fn run(write: bool) -> Result<()> {
    // What it runs is waited for: an interrupt must be noticed meanwhile.
    tokio::task::spawn_blocking(move || checks(write)).await?
}

fn checks(write: bool) -> Result<()> {
    let document =
        fs::read_to_string(paths::workspace().join("docs/configuration.md")).context("docs/configuration.md")?;
    let chapters = reference::read(&document)?;
    schema::keep(&chapters, write)?;
    if write {
        return Ok(());
    }
    let tools = tools::Tools::ensure()?;
    let rendered = chart::check(&tools, &chapters)?;
    observation::check(&tools, &rendered)?;
    image::check(&tools, &chapters)
}
