//! The service: `REDIS_URL`, `KAFKA_BROKERS`, `KAFKA_TOPIC` and `LISTEN` say where everything is.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};
use clickstream_cache::log::Log;
use clickstream_cache::sessions::Sessions;
use clickstream_cache::{Service, router};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;

/// How often the latencies are printed.
const PRINT: Duration = Duration::from_secs(10);

fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[tokio::main]
async fn main() -> Result<()> {
    let sessions = Sessions::connect(&setting("REDIS_URL", "redis://127.0.0.1:6379")).context("REDIS_URL")?;
    let log = Log::new(&setting("KAFKA_BROKERS", "127.0.0.1:9092"), &setting("KAFKA_TOPIC", "clickstream"));
    let service = Service::new(sessions, log);
    let listener = TcpListener::bind(setting("LISTEN", "127.0.0.1:8080")).await.context("LISTEN")?;
    println!("listening on http://{}", listener.local_addr()?);
    let print = {
        let service = service.clone();
        async move {
            let mut ticks = interval(PRINT);
            ticks.tick().await;
            loop {
                ticks.tick().await;
                print!("{}", service.latencies());
            }
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
            () = print => {}
        }
    };
    axum::serve(listener, router(service.clone())).with_graceful_shutdown(stop).await?;
    print!("{}", service.latencies());
    Ok(())
}
