//! What all partitions of a process share.

use std::sync::Arc;

use crate::dead_letters::DeadLetters;
use crate::ledger::Ledgers;
use crate::rate::Rate;
use crate::settings::Settings;

/// The way of the records from a source to a sink, shared by every partition.
pub struct Pipeline<S, K> {
    /// Where records come from.
    pub source: Arc<S>,
    /// Where they go.
    pub sink: Arc<K>,
    /// Where those go that can't be written.
    pub dead_letters: DeadLetters,
    /// What a person chose.
    pub settings: Settings,
    /// The account of every partition.
    pub ledgers: Arc<Ledgers>,
    pub(crate) rate: Rate,
}

impl<S, K> Pipeline<S, K> {
    /// Puts the parts together.
    pub fn new(
        source: Arc<S>,
        sink: Arc<K>,
        dead_letters: DeadLetters,
        settings: Settings,
        ledgers: Arc<Ledgers>,
    ) -> Self {
        let rate = Rate::new(settings.rate);
        Self { source, sink, dead_letters, settings, ledgers, rate }
    }
}
