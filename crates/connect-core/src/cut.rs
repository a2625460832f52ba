//! Cuts a batch from the records that were read: prepares them until the batch is full.

use crate::dead_letters::{DeadLetter, DeadLetters};
use crate::mutants::mutant;
use crate::record::Record;
use crate::settings::{Settings, Tombstones};
use crate::sink::{Item, Rejection, Sink};

/// The next batch and what else became of its records.
#[derive(Debug)]
pub(crate) struct Cut<Op> {
    /// What is to be written.
    pub(crate) items: Vec<Item<Op>>,
    /// What can never be written, and has to be buried before the batch is written.
    pub(crate) letters: Vec<DeadLetter>,
    /// Records left out.
    pub(crate) filtered: usize,
    /// Records used up, those above included.
    pub(crate) taken: usize,
    /// Bytes of the records used up.
    pub(crate) bytes: usize,
    /// The offset to go on at.
    pub(crate) next: i64,
    /// The record at `next` can't be written and nothing may pass it: `CONNECT_DEAD_LETTERS=stop`.
    pub(crate) stop: Option<Rejection>,
}

/// Prepares records until the batch is full. `next`: where to go on once all of them are used up.
pub(crate) fn cut<K: Sink>(
    sink: &K,
    settings: &Settings,
    dead_letters: &DeadLetters,
    records: &[Record],
    next: i64,
) -> Cut<K::Op> {
    let expected_items = records.len().min(settings.batch_records);
    let mut cut = Cut {
        items: Vec::with_capacity(expected_items),
        letters: Vec::new(),
        filtered: 0,
        taken: 0,
        bytes: 0,
        next,
        stop: None,
    };
    for record in records {
        if cut.items.len() >= settings.batch_records || cut.bytes >= settings.batch_bytes {
            cut.next = record.offset;
            break;
        }
        match prepare(sink, settings.tombstones, record) {
            Ok(Some(op)) => cut.items.push(Item { offset: record.offset, op }),
            Ok(None) => cut.filtered += 1,
            Err(_) if matches!(dead_letters, DeadLetters::Stop) && mutant!(PassHeldRecord) => {}
            Err(rejection) if matches!(dead_letters, DeadLetters::Stop) => {
                cut.next = record.offset;
                cut.stop = Some(rejection);
                break;
            }
            Err(rejection) => cut.letters.push(DeadLetter { record: record.clone(), rejection }),
        }
        cut.taken += 1;
        cut.bytes += record.bytes();
    }
    cut
}

fn prepare<K: Sink>(sink: &K, tombstones: Tombstones, record: &Record) -> Result<Option<K::Op>, Rejection> {
    match (record.value.is_none(), tombstones) {
        (true, Tombstones::Ignore) => Ok(None),
        (true, Tombstones::Reject) => {
            Err(Rejection::new("the value is null (a tombstone) and CONNECT_TOMBSTONES=reject"))
        }
        _ => sink.prepare(record),
    }
}
