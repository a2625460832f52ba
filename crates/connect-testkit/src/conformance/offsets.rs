//! What a sink promises that keeps offsets with the data.

use connect_core::{Resume, Sink, SinkError};

use super::feed::{Process, connect, documents, failed, recurring};
use super::harness::{Harness, Place, Promise};
use super::report::{Checked, Run};

pub(super) async fn run<H: Harness>(run: &mut Run<'_>, harness: &H) {
    run.promised(Promise::KeepsOffsets, "resume names no offset where nothing was written", resume_empty(harness))
        .await;
    run.promised(Promise::KeepsOffsets, "resume names the offset behind the last batch", resume_exact(harness)).await;
    run.promised(Promise::KeepsOffsets, "a batch without items moves the offset", offset_alone(harness)).await;
    run.promised(Promise::KeepsOffsets, "a batch that expects another offset is refused", out_of_step(harness)).await;
    run.promised(Promise::Fenced, "a process that lost its partition can't write", stale_owner(harness)).await;
}

async fn resume_empty<H: Harness>(harness: &H) -> Checked {
    let place = Place::new();
    let sink = connect(harness, &place).await?;
    match sink.resume(&super::feed::assigned()).await {
        // A store that is not empty otherwise may not want to call itself new.
        Ok(Resume::Empty | Resume::NotKept) => Ok(()),
        other => Err(failed(format!("it says {other:?}"))),
    }
}

async fn resume_exact<H: Harness>(harness: &H) -> Checked {
    let mut first = Process::first(harness).await?;
    let records = recurring(13);
    for batch in records.chunks(5) {
        first.write(batch).await?;
        let mut second = Process::start(harness, &first.place).await?;
        expect_resume(&mut second, batch[batch.len() - 1].offset + 1).await?;
    }
    first.holds(&records).await
}

async fn offset_alone<H: Harness>(harness: &H) -> Checked {
    let process = Process::first(harness).await?;
    // Everything up to 70 was filtered out, compacted away or a control record.
    let batch = process.batch(&[], 70).0;
    process.attempt(&batch).await.map_err(|error| failed(error.to_string()))?;
    let mut next = Process::start(harness, &process.place).await?;
    expect_resume(&mut next, 70).await
}

async fn out_of_step<H: Harness>(harness: &H) -> Checked {
    let mut process = Process::first(harness).await?;
    let records = documents(["a", "b", "c", "d"]);
    process.write(&records[..2]).await?;
    process.go_back_to(3);
    match process.attempt(&process.batch_of(&records[3..])).await {
        Err(SinkError::OutOfStep { stored: Some(2) }) => process.holds(&records[..2]).await,
        other => Err(failed(format!("the store holds 2, the batch expects 3, and the answer was {other:?}"))),
    }
}

async fn stale_owner<H: Harness>(harness: &H) -> Checked {
    let records = recurring(30);
    let mut stale = Process::first(harness).await?;
    stale.write(&records[..10]).await?;
    let mut owner = Process::start(harness, &stale.place).await?;
    owner.write(&records[10..25]).await?;
    // Whether it is told that all is there already, or that it is out of step: nothing may change.
    match stale.attempt(&stale.batch_of(&records[10..20])).await {
        Ok(_) | Err(SinkError::OutOfStep { .. }) => {}
        Err(error) => return Err(failed(format!("a batch that is stored already was answered: {error}"))),
    }
    expect_resume(&mut owner, 25).await?;
    owner.holds(&records[..25]).await
}

async fn expect_resume<H: Harness>(process: &mut Process<'_, H>, offset: i64) -> Checked {
    match process.take_up().await? {
        Resume::At(at) if at == offset => Ok(()),
        other => Err(failed(format!("{offset} is next, and resume says {other:?}"))),
    }
}
