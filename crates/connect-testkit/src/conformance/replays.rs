//! What a sink does with batches that it has seen before.

use connect_core::Sink;
use futures::FutureExt;

use super::feed::{Process, recurring};
use super::harness::{Harness, Promise};
use super::report::{Checked, Run};

pub(super) async fn run<H: Harness>(run: &mut Run<'_>, harness: &H) {
    run.must("the same batch again changes nothing", same_batch(harness)).await;
    run.must("an overlapping batch with another boundary ends right", overlapping(harness)).await;
    run.must("a new process that reads everything again ends right", from_the_start(harness)).await;
    run.must("write may be dropped at any await", dropped(harness)).await;
    run.promised(Promise::Guarded, "an older batch after newer ones changes nothing", older_batch(harness)).await;
}

async fn same_batch<H: Harness>(harness: &H) -> Checked {
    let mut process = Process::first(harness).await?;
    let records = recurring(20);
    let batch = process.batch_of(&records);
    process.write(&records).await?;
    // The very same call, as after a time-out: a sink that keeps offsets may answer that it is out of step, too.
    let _ = process.attempt(&batch).await;
    process.holds(&records).await
}

async fn overlapping<H: Harness>(harness: &H) -> Checked {
    let mut process = Process::first(harness).await?;
    let records = recurring(30);
    process.write(&records[..20]).await?;
    process.go_back_to(10);
    process.write(&records[10..30]).await?;
    process.holds(&records).await
}

async fn from_the_start<H: Harness>(harness: &H) -> Checked {
    let records = recurring(30);
    let mut first = Process::first(harness).await?;
    first.write(&records).await?;
    let mut second = Process::start(harness, &first.place).await?;
    second.go_back_to(0);
    for batch in records.chunks(7) {
        second.write(batch).await?;
    }
    second.holds(&records).await
}

/// Drops `write` after its first poll, after its second, and so on until it comes to its end, each time followed by the whole again.
async fn dropped<H: Harness>(harness: &H) -> Checked {
    const POLLS: usize = 40;
    let records = recurring(12);
    for polls in 1..=POLLS {
        let mut process = Process::first(harness).await?;
        let batch = process.batch_of(&records);
        if !poll_and_drop(process.sink.write(&batch), polls).await {
            process.write(&records).await?;
            process.holds(&records).await?;
            continue;
        }
        return process.holds(&records).await;
    }
    Ok(())
}

/// Polls a future so many times and drops it then. Whether it came to its end.
async fn poll_and_drop(future: impl Future, polls: usize) -> bool {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if future.poll_unpin(context).is_ready() {
            return std::task::Poll::Ready(true);
        }
        left -= 1;
        if left == 0 { std::task::Poll::Ready(false) } else { std::task::Poll::Pending }
    })
    .await
}

async fn older_batch<H: Harness>(harness: &H) -> Checked {
    let mut process = Process::first(harness).await?;
    let records = recurring(30);
    let older = process.batch_of(&records[..10]);
    for batch in records.chunks(10) {
        process.write(batch).await?;
    }
    // What it answers is its own affair, also that it is out of step: the store must not change.
    let _ = process.attempt(&older).await;
    process.holds(&records).await
}
