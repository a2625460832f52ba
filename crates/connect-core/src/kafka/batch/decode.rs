//! From the bytes of a fetch to records.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::compression::decompress;
use super::room::Room;
use super::{layout, varint};
use crate::record::{Header, Record, TopicPartition};

/// The smallest record: each of its seven numbers takes a byte.
const SMALLEST_RECORD: usize = 7;
/// The smallest header of a record: two lengths.
const SMALLEST_HEADER: usize = 2;
/// What a record costs in memory beside its bytes: its struct, and what a list that grows has to spare.
const RECORD: usize = size_of::<Record>() + 32;

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
    /// Bytes of the batches that were decoded.
    pub consumed: usize,
    /// Bytes of memory that decoding made: what was decompressed, and the records and headers themselves.
    pub made: usize,
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
    /// Decoding it takes more memory than was allowed.
    #[error("the batch at offset {offset} needs more than {room} bytes of memory")]
    Room {
        /// First offset of the batch.
        offset: i64,
        /// What was allowed.
        room: usize,
    },
}

/// Decodes the batches of a partition from the first that holds `from` on. Control batches and those of aborted
/// transactions move `next` and yield nothing. A batch that is cut off at the end, as brokers do, is left for the next
/// fetch. So is what follows once `room` bytes of memory were made: a few bytes can hold very many, or very many records.
///
/// # Errors
/// [`BatchError`] of the first batch. A later one is left for the next fetch, which then begins with its error.
pub fn decode(
    mut bytes: Bytes,
    partition: &TopicPartition,
    from: i64,
    aborted: Vec<Aborted>,
    room: usize,
) -> Result<Decoded, BatchError> {
    let mut decoded = Decoded { next: from, ..Decoded::default() };
    let mut transactions = Transactions::new(aborted);
    while let Some(batch) = Batch::take(&mut bytes).transpose() {
        let mut left = Room::of(room - decoded.made);
        let before = decoded.records.len();
        let read = batch.and_then(|batch| {
            batch.check()?;
            let yields = transactions.pass(&batch);
            if yields && batch.last_offset() >= from {
                let offset = batch.base_offset;
                let read = batch.read(partition, from, &mut left, &mut decoded.records);
                read.map_err(|what| match left.is_exceeded() {
                    true => BatchError::Room { offset, room },
                    false => BatchError::Format { offset, what },
                })?;
            }
            Ok(batch)
        });
        match read {
            Ok(batch) => {
                decoded.next = decoded.next.max(batch.last_offset().saturating_add(1));
                decoded.consumed += batch.bytes.len();
                decoded.made = room - left.left();
            }
            Err(_) if decoded.next > from => {
                decoded.records.truncate(before);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(decoded)
}

/// Which transactions are aborted where we are.
struct Transactions {
    /// Those to come, the latest first: they are taken from the end as batches reach them.
    aborted: Vec<Aborted>,
    /// Producers whose open transaction will be aborted.
    aborting: HashSet<i64>,
}

impl Transactions {
    fn new(mut aborted: Vec<Aborted>) -> Self {
        aborted.sort_unstable_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        Self { aborted, aborting: HashSet::new() }
    }

    /// Goes past a batch; says whether its records are for the reader.
    fn pass(&mut self, batch: &Batch) -> bool {
        while self.aborted.last().is_some_and(|transaction| transaction.first_offset <= batch.last_offset()) {
            self.aborting.extend(self.aborted.pop().map(|transaction| transaction.producer_id));
        }
        if batch.has(layout::CONTROL) {
            if batch.is_abort_marker() {
                self.aborting.remove(&batch.producer_id());
            }
            return false;
        }
        !(batch.has(layout::TRANSACTIONAL) && self.aborting.contains(&batch.producer_id()))
    }
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

    /// Every batch is checked, those that yield nothing too: a damaged bit may be what says so.
    fn check(&self) -> Result<(), BatchError> {
        let crc = (&self.bytes[layout::CRC..]).get_u32();
        if crc32c::crc32c(&self.bytes[layout::ATTRIBUTES..]) != crc {
            return Err(BatchError::Checksum { offset: self.base_offset });
        }
        Ok(())
    }

    /// Adds its records. An error may be that there is no room.
    fn read(
        &self,
        partition: &TopicPartition,
        from: i64,
        room: &mut Room,
        records: &mut Vec<Record>,
    ) -> Result<(), String> {
        let codec = self.attributes & layout::CODEC;
        let mut bytes = decompress(codec, self.bytes.slice(layout::RECORDS..), room)?;
        let count = self.i32_at(layout::COUNT).max(0) as usize;
        let likely = count.min(bytes.len() / SMALLEST_RECORD);
        room.take(likely * RECORD).ok_or("too many records")?;
        records.reserve(likely);
        for _ in 0..count {
            let read = take(&mut bytes, varint::read).and_then(|record| self.record(record, partition, room));
            let record = read.ok_or("a record is malformed")?;
            if record.offset >= from {
                records.push(record);
            }
        }
        Ok(())
    }

    fn record(&self, mut bytes: Bytes, partition: &TopicPartition, room: &mut Room) -> Option<Record> {
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
        let likely = count.min(bytes.len() / SMALLEST_HEADER);
        room.take(likely * size_of::<Header>())?;
        let mut headers = Vec::with_capacity(likely);
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
