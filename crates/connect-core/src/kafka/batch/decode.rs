//! From the bytes of a fetch to records.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::compression::decompress;
use super::{layout, varint};
use crate::record::{Header, Record, TopicPartition};

/// The smallest record: each of its seven numbers takes a byte.
const SMALLEST_RECORD: usize = 7;
/// The smallest header of a record: two lengths.
const SMALLEST_HEADER: usize = 2;

/// A transaction that was aborted, as a fetch response names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Who wrote it.
    pub producer_id: i64,
    /// Its first record.
    pub first_offset: i64,
}

/// What a fetch brought.
#[derive(Default)]
pub struct Decoded {
    /// Records in offset order, none below the offset asked for.
    pub records: Vec<Record>,
    /// Where to read on: behind the last whole batch, whatever it held.
    pub next: i64,
    /// Bytes of buffers made by decompression.
    pub decompressed: usize,
}

/// Bytes that are no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The checksum is another: the bytes were damaged on their way or on disk.
    #[error("the batch at offset {offset} is damaged: its checksum is wrong")]
    Checksum {
        /// First offset of the batch.
        offset: i64,
    },
    /// Not what the format says; fetching it again will not help.
    #[error("the batch at offset {offset} cannot be read: {what}")]
    Format {
        /// First offset of the batch.
        offset: i64,
        /// What is wrong.
        what: String,
    },
}

/// Decodes the batches of a partition from the first that holds `from` on. Control batches and those of aborted
/// transactions move `next` and yield nothing. A batch that is cut off at the end, as brokers do, is left for the next
/// fetch; and so is what follows once more than `most` bytes were decompressed, as few bytes can hold very many.
///
/// # Errors
/// [`BatchError`]; nothing of what came before the bad batch is returned unless it is the first.
pub fn decode(
    mut bytes: Bytes,
    partition: &TopicPartition,
    from: i64,
    mut aborted: Vec<Aborted>,
    most: usize,
) -> Result<Decoded, BatchError> {
    let mut decoded = Decoded { next: from, ..Decoded::default() };
    // The latest first: transactions are taken from the end as batches reach them.
    aborted.sort_unstable_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
    let mut aborting = HashSet::new();
    while decoded.decompressed <= most
        && let Some(batch) = Batch::take(&mut bytes)?
    {
        let last = batch.last_offset();
        while aborted.last().is_some_and(|transaction| transaction.first_offset <= last) {
            aborting.extend(aborted.pop().map(|transaction| transaction.producer_id));
        }
        let wanted = last >= from;
        if batch.has(layout::CONTROL) {
            if batch.is_abort_marker() {
                aborting.remove(&batch.producer_id());
            }
        } else if wanted && !(batch.has(layout::TRANSACTIONAL) && aborting.contains(&batch.producer_id())) {
            let read = batch.read(partition, from, &mut decoded);
            if let Err(error) = read {
                // What precedes it is whole: it is handed out first, and the next fetch begins with the error.
                decoded.records.retain(|record| record.offset < batch.base_offset);
                return if decoded.next > from { Ok(decoded) } else { Err(error) };
            }
        }
        decoded.next = decoded.next.max(last.saturating_add(1));
    }
    Ok(decoded)
}

struct Batch {
    bytes: Bytes,
    base_offset: i64,
    attributes: i16,
}

impl Batch {
    /// The next whole batch; `None` at the end.
    fn take(bytes: &mut Bytes) -> Result<Option<Self>, BatchError> {
        if bytes.len() <= layout::MAGIC {
            return Ok(None);
        }
        let base_offset = (&bytes[layout::BASE_OFFSET..]).get_i64();
        let format = |what: String| BatchError::Format { offset: base_offset, what };
        let length = (&bytes[layout::LENGTH..]).get_i32();
        let length =
            usize::try_from(length).map_err(|_| format(format!("its length is {length}")))? + layout::MAGIC - 4;
        let magic = bytes[layout::MAGIC];
        if magic != 2 {
            return Err(format(format!(
                "it has message format {magic}, from before Kafka 0.11; rewrite the topic with a current producer"
            )));
        }
        if length < layout::RECORDS {
            return Err(format(format!("it has {length} bytes")));
        }
        if bytes.len() < length {
            return Ok(None);
        }
        let bytes = bytes.split_to(length);
        let attributes = (&bytes[layout::ATTRIBUTES..]).get_i16();
        Ok(Some(Self { bytes, base_offset, attributes }))
    }

    fn has(&self, attribute: i16) -> bool {
        self.attributes & attribute != 0
    }

    fn i64_at(&self, position: usize) -> i64 {
        (&self.bytes[position..]).get_i64()
    }

    fn i32_at(&self, position: usize) -> i32 {
        (&self.bytes[position..]).get_i32()
    }

    fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.i32_at(layout::LAST_OFFSET_DELTA)))
    }

    fn producer_id(&self) -> i64 {
        self.i64_at(layout::PRODUCER_ID)
    }

    /// Whether this control batch ends a transaction by aborting it: its record's key is a version and a type, 0 = abort.
    fn is_abort_marker(&self) -> bool {
        let marker = || {
            let mut records = self.bytes.slice(layout::RECORDS..);
            let mut record = take(&mut records, varint::read)?;
            skip(&mut record, 1)?;
            varint::read(&mut record)?;
            varint::read(&mut record)?;
            let key = take(&mut record, varint::read)?;
            key.get(2..4).map(|kind| kind == [0, 0])
        };
        marker().unwrap_or(false)
    }

    fn read(&self, partition: &TopicPartition, from: i64, decoded: &mut Decoded) -> Result<(), BatchError> {
        let offset = self.base_offset;
        let crc = (&self.bytes[layout::CRC..]).get_u32();
        if crc32c::crc32c(&self.bytes[layout::ATTRIBUTES..]) != crc {
            return Err(BatchError::Checksum { offset });
        }
        let codec = self.attributes & layout::CODEC;
        let mut records = decompress(codec, self.bytes.slice(layout::RECORDS..))
            .map_err(|what| BatchError::Format { offset, what })?;
        if codec != 0 {
            decoded.decompressed += records.len();
        }
        let count = self.i32_at(layout::COUNT).max(0) as usize;
        decoded.records.reserve(count.min(records.len() / SMALLEST_RECORD));
        for _ in 0..count {
            let read = take(&mut records, varint::read).and_then(|record| self.record(record, partition));
            let record = read.ok_or_else(|| BatchError::Format { offset, what: "a record is malformed".to_owned() })?;
            if record.offset >= from {
                decoded.records.push(record);
            }
        }
        Ok(())
    }

    fn record(&self, mut bytes: Bytes, partition: &TopicPartition) -> Option<Record> {
        // Attributes, of which there are none.
        skip(&mut bytes, 1)?;
        let timestamp_delta = varint::read(&mut bytes)?;
        let offset_delta = varint::read(&mut bytes)?;
        let timestamp = if self.has(layout::LOG_APPEND_TIME) {
            self.i64_at(layout::MAX_TIMESTAMP)
        } else {
            self.i64_at(layout::BASE_TIMESTAMP).wrapping_add(timestamp_delta)
        };
        let key = take_nullable(&mut bytes)?;
        let value = take_nullable(&mut bytes)?;
        let count = usize::try_from(varint::read(&mut bytes)?).ok()?;
        let mut headers = Vec::with_capacity(count.min(bytes.len() / SMALLEST_HEADER));
        for _ in 0..count {
            headers.push(Header { key: take(&mut bytes, varint::read)?, value: take_nullable(&mut bytes)? });
        }
        Some(Record {
            topic: Arc::clone(&partition.topic),
            partition: partition.partition,
            offset: self.base_offset.checked_add(offset_delta)?,
            timestamp,
            key,
            value,
            headers,
        })
    }
}

/// Bytes behind their length.
fn take(bytes: &mut Bytes, length: impl Fn(&mut Bytes) -> Option<i64>) -> Option<Bytes> {
    let length = usize::try_from(length(bytes)?).ok()?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

/// Bytes behind their length, of which −1 is null.
fn take_nullable(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    let length = varint::read(bytes)?;
    if length == -1 {
        return Some(None);
    }
    take(bytes, |_| Some(length)).map(Some)
}

fn skip(bytes: &mut Bytes, count: usize) -> Option<()> {
    (count <= bytes.len()).then(|| bytes.advance(count))
}
