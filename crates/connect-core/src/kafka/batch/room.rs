//! How much memory decoding may make: a batch of a few KiB can hold gigabytes, or millions of empty records or headers.

/// Memory that may still be made.
pub(super) struct Room {
    left: usize,
    exceeded: bool,
}

impl Room {
    /// Room for so many bytes.
    pub fn of(bytes: usize) -> Self {
        Self { left: bytes, exceeded: false }
    }

    /// Takes some of it, before the memory is made; `None` when there is too little.
    pub fn take(&mut self, bytes: usize) -> Option<()> {
        let left = self.left.checked_sub(bytes);
        self.exceeded |= left.is_none();
        self.left = left?;
        Some(())
    }

    pub fn left(&self) -> usize {
        self.left
    }

    /// Whether something had no room.
    pub fn is_exceeded(&self) -> bool {
        self.exceeded
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::{Draft, encode};
    use super::super::{BatchError, decode, layout};
    use crate::record::{Header, TopicPartition};
    use bytes::{Bytes, BytesMut};

    const MIB: usize = 1 << 20;

    /// The batch with its records compressed by zstd.
    fn compressed(batch: &Bytes) -> Bytes {
        let records = zstd::encode_all(&batch[layout::RECORDS..], 1).expect("compressed");
        let mut bytes = BytesMut::from(&batch[..layout::RECORDS]);
        bytes.extend_from_slice(&records);
        let length = (bytes.len() - layout::LENGTH - 4) as i32;
        bytes[layout::LENGTH..][..4].copy_from_slice(&length.to_be_bytes());
        bytes[layout::ATTRIBUTES + 1] |= 4;
        let crc = crc32c::crc32c(&bytes[layout::ATTRIBUTES..]);
        bytes[layout::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
        bytes.freeze()
    }

    /// What is refused until there is this much room, and takes no more than `most`.
    fn needs(bytes: &Bytes, least: usize, most: usize) {
        assert!(bytes.len() < least / 50, "{} bytes are a bomb", bytes.len());
        let decode = |room| decode(bytes.clone(), &TopicPartition::new("t", 0), 0, vec![], room);
        for room in [0, 1000, least] {
            assert_eq!(decode(room).err(), Some(BatchError::Room { offset: 0, room }));
        }
        let decoded = decode(most).expect("there is room");
        assert!((least..=most).contains(&decoded.made), "{} bytes were made", decoded.made);
    }

    #[test]
    fn a_value_a_record_and_a_header_are_made_only_where_there_is_room() {
        let value = Draft { value: Some(vec![0; 8 * MIB].into()), ..Draft::default() };
        needs(&compressed(&encode(&[value])), 8 * MIB, 9 * MIB);
        // Seven bytes each, more than a hundred in memory.
        needs(&compressed(&encode(&vec![Draft::default(); 200_000])), 20 * MIB, 40 * MIB);
        let header = Header { key: Bytes::new(), value: None };
        let headers = Draft { headers: vec![header; 400_000], ..Draft::default() };
        needs(&compressed(&encode(&[headers])), 20 * MIB, 40 * MIB);
    }

    #[test]
    fn what_fits_is_handed_out_and_the_rest_is_left() {
        let batch = compressed(&encode(&[Draft { value: Some(vec![0; MIB].into()), ..Draft::default() }]));
        let three: Bytes = [0i64, 1, 2].iter().flat_map(|at| [&at.to_be_bytes()[..], &batch[8..]].concat()).collect();
        let decoded = decode(three, &TopicPartition::new("t", 0), 0, vec![], 5 * MIB / 2).expect("two of three");
        assert_eq!((decoded.records.len(), decoded.next, decoded.consumed), (2, 2, 2 * batch.len()));
        assert!((2 * MIB..5 * MIB / 2).contains(&decoded.made));
    }
}
