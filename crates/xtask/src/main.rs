//! `cargo xtask`: the project's tasks, each of which does its own set-up.

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use xtask::{deploy, services};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's tasks; each does its own set-up")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The test servers, for a person who develops
    #[command(subcommand)]
    Services(Services),
    /// Check the files for containers and Kubernetes: chart, alerts, dashboard, image
    Deploy {
        /// First make the generated part of the chart's schema anew, from docs/configuration.md
        #[arg(long)]
        write: bool,
    },
}

#[derive(Subcommand)]
enum Services {
    /// Start Kafka and Redis on loopback, apart from this terminal
    Up,
    /// Stop them and remove their data
    Down,
    /// List them
    Status,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().task {
        // Dropped when interrupted, so that no server is left which isn't in the list.
        Task::Services(Services::Up) => tokio::select! {
            result = services::command::up() => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        },
        Task::Services(Services::Down) => services::command::down().await,
        Task::Services(Services::Status) => services::command::status(),
        Task::Deploy { write } => deploy::run(write),
    }
}
