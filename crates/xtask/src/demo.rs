//! `cargo xtask demo`: the main job, on a machine where nothing is set up.

pub mod couchbase;
mod live;
mod once;
mod stage;

pub use live::run as live;
pub use once::run as once;
