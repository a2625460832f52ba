//! How many requests are in flight, and how large they are: as much as the cluster bears.
//!
//! Additive increase, multiplicative decrease, as TCP does it, for the same reason: nobody else's load is known, and
//! connectors that share a cluster this way end up with equal shares. A request that is answered fast while all the
//! places were taken earns a part of one more place, so that it takes one round of requests to earn it whole; and requests
//! grow by a part of their size. A request that the cluster refuses (429, 503) or leaves without an answer halves the
//! places, and one that it takes long for shrinks the requests. Requests that were in flight at a decrease say nothing about
//! it and don't decrease again. Between fast and slow nothing changes: the band keeps the pace from swinging.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;
use tokio::sync::Notify;

/// An answer within this time earns more.
const FAST: Duration = Duration::from_secs(1);
/// An answer after this time costs.
const SLOW: Duration = Duration::from_secs(5);
/// Requests are not made smaller than this because of load: smaller ones only cost the cluster more.
const LEAST_BYTES: usize = 128 << 10;
/// What requests begin with.
const FIRST_BYTES: usize = 1 << 20;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// It was answered.
    Answered,
    /// The cluster has too much to do, or did not answer at all.
    Refused,
    /// It says nothing about the load: a bad request, a broken connection.
    Unknown,
}

/// The pace of a connector.
#[derive(Debug)]
pub(crate) struct Pace {
    most: f64,
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug)]
struct State {
    in_flight: usize,
    /// The places, 1 or more.
    places: f64,
    bytes: usize,
    most_bytes: usize,
    decreased: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(most: usize, most_bytes: usize) -> Self {
        let bytes = FIRST_BYTES.min(most_bytes);
        let places = 2.0_f64.min(most as f64);
        let state = State { in_flight: 0, places, bytes, most_bytes, decreased: None };
        Self { most: most as f64, state: Mutex::new(state), room: Notify::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most bytes of a request.
    pub(crate) fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// Waits for a place.
    pub(crate) async fn place(&self) -> Place<'_> {
        loop {
            {
                let mut state = self.state();
                if state.in_flight < state.places as usize {
                    let full = state.in_flight + 1 >= state.places as usize;
                    state.in_flight += 1;
                    if !full {
                        // One notice is kept at most, however many places became free: pass it on.
                        self.room.notify_one();
                    }
                    return Place { pace: self, started: Instant::now(), full };
                }
            }
            self.room.notified().await;
        }
    }

    /// A request of so many bytes was refused for its size: no other will be as large.
    pub(crate) fn too_large(&self, bytes: usize) {
        let mut state = self.state();
        state.most_bytes = state.most_bytes.min((bytes / 4 * 3).max(1));
        state.bytes = state.bytes.min(state.most_bytes);
    }
}

/// A place among the requests in flight; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pace: &'a Pace,
    started: Instant,
    /// All places were taken, this one included: the pace is what holds the connector back.
    full: bool,
}

impl Place<'_> {
    /// The request has ended.
    pub(crate) fn ended(self, load: Load) {
        let took = self.started.elapsed();
        let mut state = self.pace.state();
        let fresh = state.decreased.is_none_or(|decreased| self.started > decreased);
        match load {
            Load::Refused if fresh => {
                state.places = (state.places / 2.0).max(1.0);
                state.bytes = (state.bytes / 4 * 3).max(LEAST_BYTES.min(state.most_bytes));
                state.decreased = Some(Instant::now());
            }
            Load::Answered if took >= SLOW && fresh => {
                state.bytes = (state.bytes / 2).max(LEAST_BYTES.min(state.most_bytes));
                state.places = (state.places * 0.75).max(1.0);
                state.decreased = Some(Instant::now());
            }
            Load::Answered if took < FAST => {
                if self.full {
                    state.places = (state.places + 1.0 / state.places).min(self.pace.most);
                }
                state.bytes = (state.bytes + state.bytes / 16 + 1).min(state.most_bytes);
            }
            Load::Answered | Load::Refused | Load::Unknown => {}
        }
        gauge!("connect_elasticsearch_places").set(state.places.floor());
        gauge!("connect_elasticsearch_request_bytes").set(state.bytes as f64);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pace.state().in_flight -= 1;
        self.pace.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    async fn round(pace: &Pace, load: Load) {
        let mut places = Vec::new();
        while let Some(place) = pace.place().now_or_never() {
            places.push(place);
        }
        for place in places {
            place.ended(load);
        }
    }

    #[tokio::test]
    async fn a_cluster_that_answers_fast_gets_more_up_to_the_bound() {
        let pace = Pace::new(4, 10 << 20);
        for _ in 0..100 {
            round(&pace, Load::Answered).await;
        }
        assert_eq!(pace.state().places as usize, 4);
        assert_eq!(pace.bytes(), 10 << 20);
        let places = futures::future::join_all((0..4).map(|_| pace.place())).await;
        assert!(pace.place().now_or_never().is_none(), "the bound holds");
        drop(places);
    }

    #[tokio::test]
    async fn a_round_of_refusals_halves_once_and_one_place_always_stays() {
        let pace = Pace::new(64, 10 << 20);
        pace.state().places = 16.0;
        round(&pace, Load::Refused).await;
        assert_eq!(pace.state().places as usize, 8, "sixteen requests were refused at once");
        for _ in 0..10 {
            round(&pace, Load::Refused).await;
        }
        assert_eq!(pace.state().places as usize, 1);
        assert_eq!(pace.bytes(), LEAST_BYTES);
    }

    #[tokio::test]
    async fn a_size_that_was_refused_is_remembered() {
        let pace = Pace::new(4, 10 << 20);
        pace.too_large(1 << 20);
        for _ in 0..100 {
            round(&pace, Load::Answered).await;
        }
        assert_eq!(pace.bytes(), 768 << 10);
    }

    #[tokio::test]
    async fn every_waiter_gets_a_place_when_several_become_free() {
        let pace = Pace::new(3, 1 << 20);
        pace.state().places = 3.0;
        let places = futures::future::join_all((0..3).map(|_| pace.place())).await;
        let waiters = futures::future::join_all((0..3).map(|_| async { drop(pace.place().await) }));
        let (_, ()) = tokio::join!(waiters, async { drop(places) });
        assert_eq!(pace.state().in_flight, 0);
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_frees_its_place() {
        let pace = Pace::new(1, 1 << 20);
        drop(pace.place().await);
        assert!(pace.place().now_or_never().is_some());
    }
}
