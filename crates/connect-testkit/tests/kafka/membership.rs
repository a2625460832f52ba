//! What a member tells the person who set it up.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use connect_core::kafka::{GroupAssignment, Subscription};
use connect_core::{Assignment, Change};
use connect_testkit::broker::{ApiKey, Fault, ResponseError};
use tracing_subscriber::fmt;

use crate::drive::GROUP;
use crate::{brokers, cluster, config};

/// What this thread logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a member with these settings logs until it has got its partitions for the second time.
async fn logged_by_a_member(settings: &[(&str, &str)]) -> String {
    let log = Log::default();
    let writer = log.clone();
    let lines = fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _listens = tracing::subscriber::set_default(lines);
    let brokers = brokers().await;
    let subscription = Subscription::new(&config(&brokers, settings).topics, None).expect("names");
    let mut member = GroupAssignment::new(cluster(&brokers, settings), GROUP, subscription);
    for _ in 0..2 {
        while !matches!(member.next().await, Ok(Change::Assigned(partitions)) if !partitions.is_empty()) {}
        for heartbeat in [ApiKey::ConsumerGroupHeartbeat, ApiKey::Heartbeat] {
            brokers.script(heartbeat, 1, Fault::EachPartition(ResponseError::UnknownMemberId));
        }
    }
    log.text()
}

#[tokio::test]
async fn a_session_time_out_that_the_group_does_not_heed_is_told_once() {
    let unheeded = "CONNECT_KAFKA_SESSION_TIMEOUT=10s is not heeded";
    for (settings, times) in [
        (&[("SESSION_TIMEOUT", "10s")][..], 1),
        (&[("SESSION_TIMEOUT", "10s"), ("GROUP_PROTOCOL", "classic")], 0),
        (&[], 0),
    ] {
        let log = logged_by_a_member(settings).await;
        assert_eq!(log.matches("joined the group").count(), 2, "{log}");
        assert_eq!(log.matches(unheeded).count(), times, "{settings:?}: {log}");
    }
}
