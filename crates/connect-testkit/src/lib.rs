//! Shows that a sink keeps its promises.
//!
//! A sink's author needs [`conformance`] alone: forty named checks against the real store, from a harness of two
//! functions. What else is here is what the framework itself is tested with:
//!
//! - [`simulation`] runs the real pipeline through seeded schedules of faults, with [`log`], [`group`], [`letters`] and
//!   [`store`] in place of Kafka and a store, and [`faulty`] between them;
//! - [`broker`] is a Kafka cluster on loopback that answers as a test tells it to: any error code of any request, silence, garbage;
//! - [`proxy`] stands between a client and its server and disturbs what they say to each other;
//! - [`kill`] runs real binaries and kills them; [`scrape`] reads their metrics and checks that the account adds up.

pub mod broker;
pub mod conformance;
pub mod dice;
pub mod faulty;
pub mod group;
pub mod kill;
pub mod letters;
pub mod log;
pub mod met;
pub mod proxy;
pub mod scrape;
pub mod simulation;
pub mod store;

/// The guide's snippets are compiled, and run, with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/writing-a-sink.md")]
mod writing_a_sink {}
