//! Records that can't be written, or not yet: each is named, exactly, and its neighbours are stored.

use connect_core::{Record, Sink, Verdict};

use super::feed::{Process, document, failed, record};
use super::harness::{Harness, Place};
use super::report::{Checked, Obstacle, Run};

pub(super) async fn run<H: Harness>(run: &mut Run<'_>, harness: &H) {
    run.must("a null key is stored, filtered or rejected", odd_record(harness, record(1, None, Some(b"{}")))).await;
    run.must("an empty key is stored, filtered or rejected", odd_record(harness, record(1, Some(b""), Some(b"{}"))))
        .await;
    run.must("an empty value is stored, filtered or rejected", odd_record(harness, record(1, Some(b"k"), Some(b""))))
        .await;
    run.must("a null key and value are no panic", odd_record(harness, record(1, None, None))).await;
    let value = record(1, Some(b"k"), Some(b"\xff\xfe{\x00"));
    run.must("a value of invalid UTF-8 is stored as it is, or rejected", odd_record(harness, value)).await;
    let key = record(1, Some(b"\xff\xfe\x00"), Some(b"{}"));
    run.must("a key of invalid UTF-8 is stored as it is, or rejected", odd_record(harness, key)).await;
    run.must("what the store refuses is named exactly", refused(harness)).await;
    run.must("what the store puts off is named exactly", put_off(harness)).await;
}

/// An odd record between two good ones: whatever becomes of it, the good ones are stored, and it is never stored wrongly.
async fn odd_record<H: Harness>(harness: &H, odd: Record) -> Checked {
    let mut process = Process::first(harness).await?;
    let filtered = matches!(process.sink.prepare(&odd), Ok(None));
    let records = vec![document(0, "before"), odd, document(2, "after")];
    let settled = process.write(&records).await?;
    if settled.rejected.iter().any(|offset| *offset != 1) {
        return Err(failed(format!("the records at {:?} were rejected, not only the odd one", settled.rejected)));
    }
    let without = [records[0].clone(), records[2].clone()];
    // A record without a key is stored under a name of the sink's choice: only its neighbours can be looked for.
    if records[1].key.is_none() && !filtered && settled.rejected.is_empty() {
        return process.holds_of(&without).await;
    }
    process.holds(if filtered || settled.rejected == [1] { &without } else { &records }).await
}

async fn refused<H: Harness>(harness: &H) -> Checked {
    let place = Place::new();
    let second = harness.poison(&place, document(1, "p1")).await;
    let (Some(second), Some(fourth)) = (second, harness.poison(&place, document(3, "p3")).await) else {
        return Err(Obstacle::NotPromised("the harness knows no record that the store itself refuses"));
    };
    let mut process = Process::start(harness, &place).await?;
    let records = [document(0, "a"), second, document(2, "b"), fourth, document(4, "c")];
    let settled = process.write(&records).await?;
    if settled.rejected != [1, 3] {
        return Err(failed(format!("the store refuses the records at 1 and 3, the sink named {:?}", settled.rejected)));
    }
    // What the harness arranged under the refused keys may be there, untouched.
    process.holds_of(&[records[0].clone(), records[2].clone(), records[4].clone()]).await
}

async fn put_off<H: Harness>(harness: &H) -> Checked {
    let place = Place::new();
    let second = harness.push_back(&place, document(1, "p1")).await;
    let (Some(second), Some(fourth)) = (second, harness.push_back(&place, document(3, "p3")).await) else {
        return Err(Obstacle::NotPromised("the harness knows no record that the store takes only later"));
    };
    let mut process = Process::start(harness, &place).await?;
    let records = [document(0, "a"), second, document(2, "b"), fourth, document(4, "c")];
    let batch = process.batch_of(&records);
    let outcome =
        process.attempt(&batch).await.map_err(|error| failed(format!("of five items two are put off: {error}")))?;
    let again = outcome.into_sorted().into_iter().filter(|(_, verdict)| *verdict == Verdict::Retry);
    let again: Vec<usize> = again.map(|(index, _)| index).collect();
    if again.iter().any(|index| ![1, 3].contains(index)) {
        return Err(failed(format!("the store puts off the items 1 and 3, the sink named {again:?}")));
    }
    // A sink may have tried again by itself. What it does not name is durable now.
    let named = |record: &&Record| again.contains(&(record.offset as usize));
    let durable: Vec<Record> = records.iter().filter(|record| !named(record)).cloned().collect();
    process.holds_of(&durable).await?;
    process.write(&records).await?;
    process.holds(&records).await
}
