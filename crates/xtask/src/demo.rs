//! `cargo xtask demo`: the main job, on a machine where nothing is set up.

mod clickstream;
pub mod compose;
mod couchbase;
mod elasticsearch;
mod live;
mod once;
mod redis;
mod stage;

pub use clickstream::run as clickstream;
pub use couchbase::Couchbase;
pub use elasticsearch::run as elasticsearch;
pub use live::run as live;
pub use once::run as once;
pub use redis::Redis;
pub use stage::Store;
