//! Answers `GET /sessions/{user}` from the cache that `sink-redis` keeps, and, to show what the cache buys, from the topic.

pub mod latency;
pub mod log;
pub mod sessions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::latency::Latency;
use crate::log::Log;
use crate::sessions::Sessions;

/// What the service looks into, and how long that takes.
pub struct Service {
    sessions: Sessions,
    log: Log,
    from_cache: Latency,
    from_log: Latency,
}

impl Service {
    /// Over a cache and the topic that it is made from.
    pub fn new(sessions: Sessions, log: Log) -> Arc<Self> {
        Arc::new(Self { sessions, log, from_cache: Latency::default(), from_log: Latency::default() })
    }

    /// The latencies so far, a line for each way.
    pub fn latencies(&self) -> String {
        format!("from the cache  {}\nfrom the topic  {}\n", self.from_cache, self.from_log)
    }
}

/// The routes.
pub fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/sessions/{user}", get(from_cache))
        .route("/log/{partition}/{user}", get(from_log))
        .route("/latency", get(async |State(service): State<Arc<Service>>| service.latencies()))
        .with_state(service)
}

async fn from_cache(State(service): State<Arc<Service>>, Path(user): Path<String>) -> Response {
    let begun = Instant::now();
    let found = service.sessions.get(&user).await;
    answer(&user, found, "the cache", begun.elapsed(), &service.from_cache)
}

/// The same without a cache: the partition is read from its begin to its end, for the last event of one user.
async fn from_log(State(service): State<Arc<Service>>, Path((partition, user)): Path<(i32, String)>) -> Response {
    let begun = Instant::now();
    let found = service.log.last(partition, &user).await;
    answer(&user, found, "the topic", begun.elapsed(), &service.from_log)
}

/// Three answers that a caller can tell apart: the session, that there is none, that nobody knows at the moment.
fn answer(
    user: &str,
    found: anyhow::Result<Option<Value>>,
    place: &str,
    took: Duration,
    latency: &Latency,
) -> Response {
    let respond =
        |status, body: Value| (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    match found {
        Ok(Some(session)) => {
            latency.record(took);
            respond(StatusCode::OK, session)
        }
        Ok(None) => {
            let error = "no session: it has expired, or there was none";
            respond(StatusCode::NOT_FOUND, json!({ "error": error, "user": user }))
        }
        Err(error) => {
            eprintln!("{place} can't be read: {error:#}");
            let error = format!("{place} can't be read at the moment");
            let mut response = respond(StatusCode::SERVICE_UNAVAILABLE, json!({ "error": error, "user": user }));
            response.headers_mut().insert(RETRY_AFTER, 1.into());
            response
        }
    }
}
