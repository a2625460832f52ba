//! The metrics recorder: buckets, descriptions, and what is gathered at a scrape.

use std::sync::{Arc, OnceLock};

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use crate::budget::Budget;
use crate::health::Health;
use crate::ledger::Ledgers;

/// Seconds: a local store answers in a millisecond, a struggling one in its time-out.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];
/// Records in a batch: up to `CONNECT_BATCH_RECORDS`.
const RECORDS: [f64; 10] = [1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 16000.0];

/// The recorder of this process, installed by the first call.
///
/// # Errors
/// When another recorder than ours is there already.
pub fn recorder() -> Result<PrometheusHandle, String> {
    static RECORDER: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    let installed = RECORDER.get_or_init(|| install().map_err(|error| format!("metrics can't be recorded: {error}")));
    installed.clone()
}

fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("connect_write_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("connect_batch_records".to_owned()), &RECORDS)?
        .install_recorder()?;
    describe();
    begin_at_zero();
    Ok(handle)
}

/// A counter that is first seen at 1 has not increased: an alert on it would miss the first time.
fn begin_at_zero() {
    counter!("connect_rewinds_total").increment(0);
    counter!("connect_retries_total", "reason" => "out_of_step").increment(0);
}

fn describe() {
    describe_counter!("connect_records_read_total", "Records read; what was read again counts again");
    describe_counter!("connect_records_total", "Records by what became of them");
    describe_counter!("connect_records_skipped_total", "Offsets that were deleted before they were read");
    describe_counter!("connect_bytes_read_total", "Bytes of keys, values and headers read");
    describe_counter!("connect_retries_total", "Tries that failed and were made again, by reason");
    describe_counter!("connect_rewinds_total", "Times a partition went back to an earlier offset");
    describe_histogram!("connect_batch_records", "Records in one write");
    describe_histogram!("connect_write_seconds", "Seconds that a write took");
    describe_gauge!("connect_lag", "Records behind the durable position, of partitions that are ours");
    describe_gauge!(
        "connect_committed_offset",
        "The offset below which everything is durable; Kafka is told within a second"
    );
    describe_gauge!("connect_stalled_seconds", "Seconds since the last progress while records wait");
    describe_gauge!("connect_in_flight_bytes", "Bytes of the budget CONNECT_MEMORY in use");
    describe_gauge!("connect_partitions", "Partitions that this process works on");
}

/// What a scrape shows.
pub struct Scrape {
    handle: PrometheusHandle,
    process: Collector,
    ledgers: Arc<Ledgers>,
    budget: Arc<Budget>,
    health: Arc<Health>,
}

impl Scrape {
    /// Gathers from these.
    pub fn new(handle: PrometheusHandle, ledgers: Arc<Ledgers>, budget: Arc<Budget>, health: Arc<Health>) -> Self {
        let process = Collector::default();
        process.describe();
        Self { handle, process, ledgers, budget, health }
    }

    /// The text of `/metrics`.
    pub fn render(&self) -> String {
        self.ledgers.publish();
        self.process.collect();
        gauge!("connect_in_flight_bytes").set(self.budget.used() as f64);
        gauge!("connect_partitions").set(self.health.partitions() as f64);
        leave_out_what_has_no_value(&self.handle.render())
    }

    /// Folds samples that nobody has scraped: call it every few seconds, or they pile up.
    pub fn fold(&self) {
        self.handle.run_upkeep();
    }
}

/// A partition that went to another process has no lag of ours. Its gauge would stay in the recorder for ever, and one NaN makes
/// every sum NaN.
fn leave_out_what_has_no_value(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.trim_end().ends_with(" NaN")).collect()
}
