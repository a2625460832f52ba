//! How long answers take, as percentiles: an average would hide the slow ones.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies, in microseconds, each within 0.1 %.
pub struct Latency(Mutex<Histogram<u64>>);

impl Default for Latency {
    fn default() -> Self {
        const DIGITS: u8 = 3;
        // A minute; what took longer counts as a minute.
        const LONGEST: u64 = 60_000_000;
        let histogram = Histogram::new_with_max(LONGEST, DIGITS);
        Self(Mutex::new(histogram.unwrap_or_else(|_| unreachable!("both are in the range of a histogram"))))
    }
}

impl Latency {
    /// Adds one.
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let milliseconds = |micros: u64| micros as f64 / 1_000.0;
        let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
        let [half, most, nearly_all] = [0.5, 0.99, 0.999].map(at);
        let (count, longest) = (histogram.len(), milliseconds(histogram.max()));
        write!(f, "p50 {half:.3} ms  p99 {most:.3} ms  p99.9 {nearly_all:.3} ms  longest {longest:.3} ms  of {count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let latency = Latency::default();
        (1..=1_000).for_each(|millis| latency.record(Duration::from_millis(millis)));
        let text = latency.to_string();
        assert!(text.starts_with("p50 500.") && text.ends_with("of 1000"), "{text}");
    }
}
