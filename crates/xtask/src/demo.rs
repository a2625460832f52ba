//! `cargo xtask demo`: the main job, on a machine where nothing is set up.

pub mod couchbase;
mod elasticsearch;
mod live;
mod once;
mod stage;

pub use elasticsearch::run as elasticsearch;
pub use live::run as live;
pub use once::run as once;
