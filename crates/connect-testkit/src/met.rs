//! What came up in a schedule. A fault that never does proves nothing, and shows in the count.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Something that the pipeline must stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Met {
    /// A write failed before it was applied.
    WriteRefused,
    /// A write was applied and its answer lost.
    AnswerLost,
    /// The store took some items of a batch and asks for the others again.
    SomeItemsAgain,
    /// A write was dropped while it was under way: by a time-out, a drain, a hand-over, a crash.
    WriteDropped,
    /// A request landed after its sender had given it up.
    LateLanding,
    /// The store refused an item.
    ItemRefused,
    /// An atomic store had part of a batch already.
    PartOfBatchStored,
    /// The store was further on than expected.
    OutOfStepForward,
    /// The store was not as far as expected.
    OutOfStepBack,
    /// The store's replica took over.
    FailOver,
    /// Nothing worked for a while.
    Outage,
    /// A read failed.
    ReadFailed,
    /// The place to read at was deleted by retention.
    OutOfRange,
    /// A read waited for memory.
    MemoryFull,
    /// Records of an open transaction waited for its decision.
    TransactionWaited,
    /// Compaction removed records.
    Compacted,
    /// A commit failed.
    CommitFailed,
    /// A commit was taken and its answer lost.
    CommitAnswerLost,
    /// A commit came from a process that had lost the partition.
    CommitFenced,
    /// A partition was handed over in time.
    HandedOver,
    /// A partition was taken away because handing it over took too long.
    HandOverTooLate,
    /// A partition was lost, and its owner worked on without knowing.
    LostUnheard,
    /// A process was killed.
    Crash,
    /// All processes were killed at a step between two effects, where no time passes.
    CrashAtStep,
    /// A process was stopped and started again.
    Restart,
    /// What was in hand did not end within the time for a drain.
    DrainTimeout,
    /// Dead letters could not be written.
    LettersFailed,
    /// Dead letters were written and the answer lost.
    LettersAnswerLost,
    /// The broker will not take a dead letter, for now.
    LettersRefused,
    /// A record held its partition until a person changed a setting.
    HeldByRecord,
    /// Records were given back unwritten: by a drain, a hand-over, a rewind, a crash.
    RecordsReturned,
    /// The store already held records that were read again.
    RecordsSuperseded,
    /// Records were gone before they were read, and counted as skipped.
    RecordsSkipped,
    /// The last process worked to the end and stopped by itself.
    WorkedToTheEnd,
}

impl Met {
    /// Everything that may come up.
    pub const ALL: [Self; 34] = [
        Self::WriteRefused,
        Self::AnswerLost,
        Self::SomeItemsAgain,
        Self::WriteDropped,
        Self::LateLanding,
        Self::ItemRefused,
        Self::PartOfBatchStored,
        Self::OutOfStepForward,
        Self::OutOfStepBack,
        Self::FailOver,
        Self::Outage,
        Self::ReadFailed,
        Self::OutOfRange,
        Self::MemoryFull,
        Self::TransactionWaited,
        Self::Compacted,
        Self::CommitFailed,
        Self::CommitAnswerLost,
        Self::CommitFenced,
        Self::HandedOver,
        Self::HandOverTooLate,
        Self::LostUnheard,
        Self::Crash,
        Self::CrashAtStep,
        Self::Restart,
        Self::DrainTimeout,
        Self::LettersFailed,
        Self::LettersAnswerLost,
        Self::LettersRefused,
        Self::HeldByRecord,
        Self::RecordsReturned,
        Self::RecordsSuperseded,
        Self::RecordsSkipped,
        Self::WorkedToTheEnd,
    ];
}

/// What has come up so far.
#[derive(Debug, Default)]
pub struct Encounters(Mutex<BTreeSet<Met>>);

impl Encounters {
    /// It came up.
    pub fn note(&self, met: Met) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(met);
    }

    /// Everything that came up.
    pub fn all(&self) -> BTreeSet<Met> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
