//! What a sink does with well-meant records.

use connect_core::{Outcome, Record, Sink};

use super::feed::{Process, document, documents, failed, record, recurring};
use super::harness::{Harness, Promise};
use super::report::{Checked, Run};

pub(super) async fn run<H: Harness>(run: &mut Run<'_>, harness: &H) {
    run.must("check answers", check_answers(harness)).await;
    run.must("an empty batch changes nothing", empty_batch(harness)).await;
    run.must("a record is stored", ends_right(harness, documents(["a"]))).await;
    run.must("prepare gives the same answer for the same record", prepare_is_pure(harness)).await;
    run.must("10,000 records are stored", ten_thousand(harness)).await;
    run.must("the last write of a key wins in a batch", ends_right(harness, recurring(50))).await;
    run.must("the last write of a key wins across batches", batch_by_batch(harness, recurring(20))).await;
    run.must("keys of odd characters stay apart", ends_right(harness, odd_keys())).await;
    run.must("a value of 1 MiB is stored", ends_right(harness, vec![large()])).await;
    run.promised(Promise::Deletes, "a tombstone deletes", batch_by_batch(harness, tombstones())).await;
    run.promised(Promise::Deletes, "write, delete and write in one batch", ends_right(harness, tombstones())).await;
    run.promised(Promise::Deletes, "a tombstone of an absent key is no error", absent_tombstone(harness)).await;
}

/// Writes in one batch and compares.
async fn ends_right<H: Harness>(harness: &H, records: Vec<Record>) -> Checked {
    let mut process = Process::first(harness).await?;
    let settled = process.write(&records).await?;
    if !settled.rejected.is_empty() {
        return Err(failed(format!("the records at {:?} were rejected", settled.rejected)));
    }
    process.holds(&records).await
}

/// Writes every record as a batch of its own and compares.
async fn batch_by_batch<H: Harness>(harness: &H, records: Vec<Record>) -> Checked {
    let mut process = Process::first(harness).await?;
    for record in records.chunks(1) {
        process.write(record).await?;
    }
    process.holds(&records).await
}

async fn check_answers<H: Harness>(harness: &H) -> Checked {
    let process = Process::first(harness).await?;
    process.sink.check().await.map_err(|error| failed(format!("the store is well, and check says: {error}")))
}

async fn empty_batch<H: Harness>(harness: &H) -> Checked {
    let mut process = Process::first(harness).await?;
    let outcome = process.attempt(&process.batch(&[], 0).0).await;
    if !outcome.as_ref().is_ok_and(|outcome| *outcome == Outcome::written()) {
        return Err(failed(format!("an empty batch was answered with {outcome:?}")));
    }
    let records = documents(["a"]);
    process.write(&records).await?;
    process.write(&[]).await?;
    process.holds(&records).await
}

async fn prepare_is_pure<H: Harness>(harness: &H) -> Checked {
    let process = Process::first(harness).await?;
    let prepare = |record: &Record| {
        let op = process.sink.prepare(record);
        op.map(|op| op.map(|op| process.sink.target(&op).map(<[u8]>::to_vec)))
    };
    let (first, again, later) = (document(0, "a"), document(0, "a"), document(9, "a"));
    let answer = prepare(&first);
    if prepare(&again) != answer {
        return Err(failed("the same record gave two answers".to_owned()));
    }
    if prepare(&later) != answer {
        return Err(failed("two records of one key have different targets: their order would not be kept".to_owned()));
    }
    Ok(())
}

async fn ten_thousand<H: Harness>(harness: &H) -> Checked {
    let keys: Vec<String> = (0..10_000).map(|number| format!("key-{number}")).collect();
    ends_right(harness, documents(keys.iter().map(String::as_str))).await
}

/// Keys which a careless sink takes for its own syntax, or for one another.
fn odd_keys() -> Vec<Record> {
    let keys = ["a", "A", "a b", "a:b", "a/b", "a\"b", "a'b", "{a}b", "%61", "a\\b", "ключ", "鍵", "a\nb", "*", "a,b"];
    documents(keys)
}

fn large() -> Record {
    let value = serde_json::json!({ "id": "large", "text": "x".repeat(1 << 20) }).to_string();
    record(0, Some(b"large"), Some(value.as_bytes()))
}

fn tombstones() -> Vec<Record> {
    let gone = |offset, key: &str| record(offset, Some(key.as_bytes()), None);
    vec![document(0, "a"), document(1, "b"), gone(2, "a"), document(3, "c"), gone(4, "b"), document(5, "a")]
}

async fn absent_tombstone<H: Harness>(harness: &H) -> Checked {
    ends_right(harness, vec![record(0, Some(b"never-written"), None), document(1, "b")]).await
}
