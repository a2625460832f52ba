//! What a binary adds to the framework: a sink, and how it is made from its section of the configuration.

use std::future::Future;

use crate::config::{Configuration, Section};
use crate::settings::Settings;
use crate::sink::Sink;

/// A connector: `fn main() -> ExitCode { connect_core::main::<Fancy>() }` is the whole binary.
pub trait Connector: Sized + Send + Sync + 'static {
    /// Its section of the configuration.
    type Config: Section + Clone + Sync + 'static;
    /// Its store.
    type Sink: Sink;
    /// Name of the binary.
    const NAME: &'static str;
    /// Version of the binary.
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// Makes the sink. Where the store is a server it does not connect yet, for an error here is final: [`Sink::check`] connects, again
    /// and again until the store answers, and so does [`Sink::write`] after a failure.
    ///
    /// # Errors
    /// What a person must change, in words for the log: the process ends with exit code 1.
    fn sink(config: Self::Config, context: Context) -> impl Future<Output = Result<Self::Sink, String>> + Send;
}

/// What a sink may want to know apart from its own section.
#[derive(Clone, Debug)]
pub struct Context {
    /// `CONNECT_NAME`: what a sink stores offsets under.
    pub name: String,
    /// `CONNECT_EPOCH`, 0 to 32767: a store that guards its contents by offsets must take those of a higher epoch for newer. `epoch << 48 | offset`
    /// as `i64` is such a version.
    pub epoch: u16,
    /// The topics that are read.
    pub topics: Vec<String>,
    /// The settings of the pipeline.
    pub settings: Settings,
}

impl Context {
    /// The context that this configuration describes.
    pub fn new<C>(configuration: &Configuration<C>) -> Self {
        Self {
            name: configuration.core.name.as_str().to_owned(),
            epoch: configuration.core.epoch.get(),
            topics: configuration.kafka.topics.names().to_vec(),
            settings: configuration.core.settings(&configuration.kafka),
        }
    }
}
