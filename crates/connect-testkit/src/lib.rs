//! Shows that a sink keeps its promises.
//!
//! A sink's author needs [`conformance`] alone: about thirty named checks against the real store, from a harness of two
//! functions. [`store`] is a sink with its store in memory, and the model of what a store must hold. [`proxy`] stands between a client and its server and disturbs what they say to each other.

pub mod conformance;
pub mod proxy;
pub mod store;
