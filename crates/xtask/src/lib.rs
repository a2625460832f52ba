//! The project's own tools: real servers for tests, the demo, the test run, the benchmark.
//!
//! The system tests use this library for their servers: [`services`] is the one place that knows how a server is
//! obtained, started and stopped.

pub mod archive;
pub mod bench;
pub mod cargo;
pub mod certificates;
pub mod connector;
pub mod demo;
pub mod deploy;
pub mod effort;
pub mod elasticsearch_client;
pub mod events;
pub mod fuzz;
pub mod interrupt;
pub mod java;
pub mod kafka_client;
pub mod lock;
pub mod maven;
pub mod packages;
pub mod paths;
pub mod ports;
pub mod proc;
pub mod process;
pub mod redis_client;
pub mod seed;
pub mod services;
pub mod soak;
pub mod static_binary;
pub mod test;
pub mod wheel;
