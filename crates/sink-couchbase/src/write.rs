//! What every operation on a document shares: the settings, the place, the time-out.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use connect_core::SinkError;
use couchbase_core::agent::Agent;
use couchbase_core::memdx::durability_level::DurabilityLevel;
use couchbase_core::memdx::subdoc::{MutateInOp, MutateInOpType, SubdocDocFlag, SubdocOpFlag};
use couchbase_core::options::crud::{MutateInOptions, ReplaceOptions};
use couchbase_core::retry::RetryStrategy;
use tokio::time::{Instant, Sleep, sleep};

use crate::config::{CouchbaseConfig, Create, Durability, Format, Guard};
use crate::errors::{self, Failure};
use crate::guard::{ATTRIBUTE, Memory};
use crate::keyspace::Keyspace;
use crate::op::Op;

/// What SDKs tell the format of a document by.
const JSON_FLAGS: u32 = 2 << 24;
const BINARY_FLAGS: u32 = 3 << 24;

/// How documents are written.
pub struct Writer {
    pub(crate) durability: Option<DurabilityLevel>,
    pub(crate) flags: u32,
    pub(crate) preserve_expiry: bool,
    pub(crate) create: Create,
    pub(crate) path: String,
    pub(crate) timeout: Duration,
    pub(crate) retry: Arc<dyn RetryStrategy>,
    pub(crate) memory: Memory,
}

impl Writer {
    pub fn new(config: &CouchbaseConfig, timeout: Duration, retry: Arc<dyn RetryStrategy>) -> Self {
        let durability = match config.durability {
            Durability::None => None,
            Durability::Majority => Some(DurabilityLevel::MAJORITY),
            Durability::MajorityAndPersistActive => Some(DurabilityLevel::MAJORITY_AND_PERSIST_ACTIVE),
            Durability::PersistToMajority => Some(DurabilityLevel::PERSIST_TO_MAJORITY),
        };
        Self {
            durability,
            flags: if config.format == Format::Json { JSON_FLAGS } else { BINARY_FLAGS },
            preserve_expiry: config.preserve_expiry,
            create: config.create,
            path: config.path.clone().unwrap_or_default(),
            timeout,
            retry,
            memory: Memory::new(config.guard_cache.get()),
        }
    }

    /// What a change of a part says about the path to it.
    pub(crate) fn path_flags(&self) -> SubdocOpFlag {
        if self.create == Create::Nothing { SubdocOpFlag::empty() } else { SubdocOpFlag::MKDIR_P }
    }

    /// Tries a change that can't succeed, in the way that records will be written: the answer tells whether we may.
    ///
    /// # Errors
    /// We may not, or Couchbase can't tell now.
    pub async fn check_rights(&self, agent: &Agent, keyspace: &Keyspace, guard: Guard) -> Result<(), SinkError> {
        const ID: &[u8] = b"connect:check";
        let (scope, collection) = (&*keyspace.scope, &*keyspace.collection);
        let mut alarm = Alarm::new(self.timeout, Instant::now() + self.timeout);
        let answer = match guard {
            Guard::On => {
                // As a new document, for Couchbase looks at the rights to attributes only once there is one. Nothing stands at
                // the path, so none is made.
                let path = format!("{ATTRIBUTE}.check");
                let specs =
                    [MutateInOp::new(MutateInOpType::Replace, path.as_bytes(), b"0").flags(SubdocOpFlag::XATTR_PATH)];
                let options = MutateInOptions::new(ID, scope, collection, &specs)
                    .flags(SubdocDocFlag::AddDoc)
                    .retry_strategy(Arc::clone(&self.retry));
                alarm.bounded(pin!(agent.mutate_in(options))).await.map(|_| ())
            }
            Guard::Off => {
                // A CAS value that no document has: nothing changes even if there is one.
                let options =
                    ReplaceOptions::new(ID, scope, collection, b"0").cas(1).retry_strategy(Arc::clone(&self.retry));
                alarm.bounded(pin!(agent.replace(options))).await.map(|_| ())
            }
        };
        match answer {
            Err(Failure::Error(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Ends calls that take too long: the client itself has no time-out.
///
/// One timer serves all calls that a worker makes one after the other. It is set anew only where it goes off, and so seldom: to
/// make one for each call took 0.7 µs of the 11 of a write.
pub(crate) struct Alarm {
    timeout: Duration,
    /// Of all calls.
    end: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Alarm {
    /// One call may take this long, and none goes on after the end.
    pub fn new(timeout: Duration, end: Instant) -> Self {
        Self { timeout, end, timer: Box::pin(sleep(timeout)) }
    }

    /// Each call to Couchbase goes through here. It is pinned where it was made: the client's futures have almost 6 KiB, and to
    /// move each to the heap took 2 µs.
    pub async fn bounded<T>(
        &mut self,
        mut call: Pin<&mut impl Future<Output = Result<T, couchbase_core::error::Error>>>,
    ) -> Result<T, Failure> {
        let end = self.end.min(Instant::now() + self.timeout);
        loop {
            tokio::select! {
                biased;
                answer = &mut call => return answer.map_err(|error| errors::of(&error)),
                () = &mut self.timer => {}
            }
            if Instant::now() >= end {
                return Err(errors::timed_out(self.timeout));
            }
            // It was set for an earlier call.
            self.timer.as_mut().reset(end);
        }
    }
}

/// Where a document is, as the client wants it.
pub(crate) struct Place<'a> {
    pub scope: &'a str,
    pub collection: &'a str,
    pub id: &'a [u8],
}

impl<'a> Place<'a> {
    pub fn of(op: &'a Op) -> Self {
        Self { scope: &op.keyspace.scope, collection: &op.keyspace.collection, id: &op.id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(after: Duration) -> Result<(), couchbase_core::error::Error> {
        sleep(after).await;
        Ok(())
    }

    /// How long it took to give up a call that is never answered in time.
    async fn given_up_after(alarm: &mut Alarm) -> Duration {
        let begun = Instant::now();
        let result = alarm.bounded(pin!(answer(Duration::from_secs(3600)))).await;
        assert!(matches!(result, Err(Failure::Error(SinkError::Transient { reason: "timeout", .. }))), "{result:?}");
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_has_the_whole_time_however_many_went_before() {
        let mut alarm = Alarm::new(Duration::from_secs(10), Instant::now() + Duration::from_secs(3600));
        for calls in 0..20 {
            // They leave the alarm set for anywhen.
            for _ in 0..calls {
                assert_eq!(alarm.bounded(pin!(answer(Duration::from_secs(7)))).await, Ok(()));
            }
            assert_eq!(given_up_after(&mut alarm).await.as_secs(), 10, "behind {calls} calls");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_goes_on_after_the_end() {
        let mut alarm = Alarm::new(Duration::from_secs(10), Instant::now() + Duration::from_secs(12));
        assert_eq!(alarm.bounded(pin!(answer(Duration::from_secs(7)))).await, Ok(()));
        assert_eq!(given_up_after(&mut alarm).await.as_secs(), 5);
        assert_eq!(given_up_after(&mut alarm).await.as_secs(), 0);
    }
}
