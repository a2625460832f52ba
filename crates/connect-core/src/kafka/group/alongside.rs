//! Heartbeats that go on while something is looked up, however long that takes.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// Who must be heard from.
pub(super) trait Heartbeats {
    /// How often.
    fn interval(&self) -> Duration;

    /// Sends a heartbeat and takes up what its answer says. What goes wrong goes wrong with the next one, too.
    fn beat(&mut self) -> impl Future<Output = ()> + Send;
}

/// Does some work, and sends heartbeats meanwhile. One that is on its way when the work is done is waited for: its answer
/// may change what we are.
pub(super) async fn alongside<T>(work: impl Future<Output = T>, heartbeats: &mut impl Heartbeats) -> T {
    let mut work = pin!(work);
    loop {
        if let Ok(done) = timeout(heartbeats.interval(), &mut work).await {
            return done;
        }
        let mut beating = pin!(heartbeats.beat());
        tokio::select! {
            done = &mut work => {
                beating.await;
                return done;
            }
            () = &mut beating => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    /// Counts the answers, each of which takes half a second.
    struct Counting(u32);

    impl Heartbeats for Counting {
        fn interval(&self) -> Duration {
            Duration::from_secs(1)
        }

        async fn beat(&mut self) {
            sleep(Duration::from_millis(500)).await;
            self.0 += 1;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_work_is_accompanied_and_the_last_heartbeat_is_not_lost() {
        let mut counting = Counting(0);
        alongside(sleep(Duration::from_millis(4_250)), &mut counting).await;
        // They end after 1.5 s, 3 s, and the one that is on its way when the work ends after 4.5 s.
        assert_eq!(counting.0, 3);
    }
}
