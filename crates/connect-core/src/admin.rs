//! `/livez`, `/readyz` and `/metrics`.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::interval;
use tracing::info;

use crate::health::Health;
use crate::observe::Scrape;

/// How often histograms are folded when nobody scrapes.
const FOLD: Duration = Duration::from_secs(5);

/// What the answers are made from.
#[derive(Clone)]
struct Facts {
    health: Arc<Health>,
    scrape: Arc<Scrape>,
}

/// Binds `CONNECT_ADMIN_LISTEN` and returns what serves it until it is dropped.
///
/// # Errors
/// When the address can't be bound, in words for the log.
pub async fn listen(
    address: SocketAddr,
    health: Arc<Health>,
    scrape: Arc<Scrape>,
) -> Result<(SocketAddr, impl Future<Output = String> + Send + 'static), String> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|error| {
        format!("can't listen on CONNECT_ADMIN_LISTEN={address}: {error}; choose another port or free this one")
    })?;
    let bound = listener.local_addr().map_err(|error| format!("CONNECT_ADMIN_LISTEN={address}: {error}"))?;
    info!(address = %bound, "serving /livez, /readyz and /metrics");
    let folding = Arc::clone(&scrape);
    let serve = axum::serve(listener, routes(health, scrape)).into_future();
    let work = async move {
        let mut ticks = interval(FOLD);
        tokio::pin!(serve);
        loop {
            tokio::select! {
                end = &mut serve => return format!("the server on CONNECT_ADMIN_LISTEN={address} ended: {end:?}"),
                _ = ticks.tick() => folding.fold(),
            }
        }
    };
    Ok((bound, work))
}

fn routes(health: Arc<Health>, scrape: Arc<Scrape>) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Facts { health, scrape })
}

async fn live(State(facts): State<Facts>) -> (StatusCode, String) {
    answer(facts.health.alive())
}

async fn ready(State(facts): State<Facts>) -> (StatusCode, String) {
    answer(facts.health.ready().map_err(ToOwned::to_owned))
}

fn answer(condition: Result<(), String>) -> (StatusCode, String) {
    match condition {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
    }
}

async fn metrics(State(facts): State<Facts>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], facts.scrape.render())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::budget::Budget;
    use crate::ledger::{Fate, Ledgers};
    use crate::observe;
    use crate::record::TopicPartition;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn the_probes_and_the_scrape_tell_the_state() {
        let (health, ledgers, budget) = (Arc::new(Health::default()), Arc::new(Ledgers::default()), Budget::new(8192));
        let recorder = observe::recorder().expect("a recorder");
        let scrape = Scrape::new(recorder, Arc::clone(&ledgers), Arc::clone(&budget), Arc::clone(&health));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (address, serve) = listen(any, Arc::clone(&health), Arc::new(scrape)).await.expect("a free port");
        tokio::spawn(serve);

        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let ready = get(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("the store has not answered its check yet\n"));
        health.set_store_checked();
        health.set_assigned();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        health.set_draining();
        let ready = get(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.ends_with("draining\n"), "{ready}");
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));

        let ledger = ledgers.of(&TopicPartition::new("scraped", 3));
        ledger.take_up();
        ledger.advance(14);
        ledger.observe(15, 16);
        ledger.read(5, 500);
        ledger.settle(Fate::Written, 4);
        health.set_partitions(2);
        let _charge = budget.reserve(4096).await;
        metrics::histogram!("connect_write_seconds").record(0.002);
        let scraped = get(address, "/metrics").await;
        for line in [
            "connect_records_read_total{topic=\"scraped\",partition=\"3\"} 5",
            "connect_records_total{topic=\"scraped\",partition=\"3\",outcome=\"written\"} 4",
            "connect_in_flight_bytes 4096",
            "connect_partitions 2",
            "connect_rewinds_total 0",
            "connect_retries_total{reason=\"out_of_step\"} 0",
            "connect_lag{topic=\"scraped\",partition=\"3\"} 2",
            "connect_committed_offset{topic=\"scraped\",partition=\"3\"} 14",
            "# HELP connect_bytes_read_total Bytes of keys, values and headers read",
        ] {
            assert!(scraped.lines().any(|other| other == line), "{line}: {scraped}");
        }
        for name in ["connect_write_seconds_bucket", "process_resident_memory_bytes", "process_cpu_seconds_total"] {
            assert!(scraped.lines().any(|line| line.starts_with(name)), "{name}: {scraped}");
        }
        // Another process shows these from now on; what this one has counted stays.
        ledger.give_up();
        let scraped = get(address, "/metrics").await;
        for name in ["connect_lag{", "connect_committed_offset{", "connect_stalled_seconds{"] {
            assert!(!scraped.lines().any(|line| line.starts_with(name)), "{name}: {scraped}");
        }
        assert!(scraped.contains("connect_records_read_total{topic=\"scraped\",partition=\"3\"} 5"), "{scraped}");
    }

    #[tokio::test]
    async fn an_address_in_use_names_the_variable() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let health = Arc::new(Health::default());
        let recorder = observe::recorder().expect("a recorder");
        let scrape = Scrape::new(recorder, Arc::default(), Budget::new(1), Arc::clone(&health));
        let address = taken.local_addr().expect("an address");
        let problem = listen(address, health, Arc::new(scrape)).await.map(|_| ()).expect_err("taken");
        assert!(problem.contains(&format!("CONNECT_ADMIN_LISTEN={address}")), "{problem}");
    }
}
