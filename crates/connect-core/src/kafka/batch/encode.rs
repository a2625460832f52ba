//! From records to the bytes of a produce request: one batch, not compressed.

use bytes::{BufMut, Bytes, BytesMut};

use super::{layout, varint};
use crate::record::Header;

/// A record to be written. Its offset is for the broker to choose.
#[derive(Clone, Default)]
pub struct Draft {
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// The key, `None` for null.
    pub key: Option<Bytes>,
    /// The value, `None` for null.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

/// Encodes records as one batch that belongs to no transaction.
pub fn encode(drafts: &[Draft]) -> Bytes {
    encode_as(drafts, None)
}

/// Encodes records as one batch of a transactional producer: its id, its epoch, and the number of its first record.
pub fn encode_as(drafts: &[Draft], producer: Option<(i64, i16, i32)>) -> Bytes {
    let base_timestamp = drafts.first().map_or(-1, |draft| draft.timestamp);
    let max_timestamp = drafts.iter().map(|draft| draft.timestamp).max().unwrap_or(-1);
    let (producer_id, producer_epoch, sequence) = producer.unwrap_or((-1, -1, -1));
    let attributes = if producer.is_some() { layout::TRANSACTIONAL } else { 0 };

    let mut batch = BytesMut::with_capacity(layout::RECORDS + drafts.iter().map(size_hint).sum::<usize>());
    // Base offset, length and checksum are filled in below or by the broker.
    batch.put_i64(0);
    batch.put_i32(0);
    batch.put_i32(-1);
    batch.put_u8(2);
    batch.put_u32(0);
    batch.put_i16(attributes);
    batch.put_i32(drafts.len() as i32 - 1);
    batch.put_i64(base_timestamp);
    batch.put_i64(max_timestamp);
    batch.put_i64(producer_id);
    batch.put_i16(producer_epoch);
    batch.put_i32(sequence);
    batch.put_i32(drafts.len() as i32);
    let mut record = BytesMut::new();
    for (index, draft) in drafts.iter().enumerate() {
        record.clear();
        record.put_u8(0);
        varint::write(&mut record, draft.timestamp.wrapping_sub(base_timestamp));
        varint::write(&mut record, index as i64);
        put_nullable(&mut record, draft.key.as_ref());
        put_nullable(&mut record, draft.value.as_ref());
        varint::write(&mut record, draft.headers.len() as i64);
        for header in &draft.headers {
            put_nullable(&mut record, Some(&header.key));
            put_nullable(&mut record, header.value.as_ref());
        }
        varint::write(&mut batch, record.len() as i64);
        batch.extend_from_slice(&record);
    }
    let length = (batch.len() - layout::LENGTH - 4) as i32;
    batch[layout::LENGTH..][..4].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[layout::ATTRIBUTES..]);
    batch[layout::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

fn put_nullable(bytes: &mut BytesMut, value: Option<&Bytes>) {
    match value {
        None => varint::write(bytes, -1),
        Some(value) => {
            varint::write(bytes, value.len() as i64);
            bytes.extend_from_slice(value);
        }
    }
}

fn size_hint(draft: &Draft) -> usize {
    let headers: usize = draft.headers.iter().map(|h| h.key.len() + h.value.as_ref().map_or(0, Bytes::len) + 8).sum();
    draft.key.as_ref().map_or(0, Bytes::len) + draft.value.as_ref().map_or(0, Bytes::len) + headers + 24
}

#[cfg(test)]
mod tests {
    use super::super::decode::{Aborted, BatchError, Decoded, decode};
    use super::*;
    use crate::record::TopicPartition;

    fn decode_all(
        bytes: Bytes,
        partition: &TopicPartition,
        from: i64,
        aborted: Vec<Aborted>,
    ) -> Result<Decoded, BatchError> {
        decode(bytes, partition, from, aborted, usize::MAX)
    }

    fn drafts() -> Vec<Draft> {
        let header =
            |key: &'static str, value: Option<&'static str>| Header { key: key.into(), value: value.map(Into::into) };
        vec![
            Draft { timestamp: 1000, key: Some("k".into()), value: Some("v".into()), headers: vec![] },
            Draft {
                timestamp: 900,
                key: None,
                value: None,
                headers: vec![header("a", Some("1")), header("a", None), header("", Some(""))],
            },
            Draft { timestamp: 2000, key: Some("".into()), value: Some(vec![7; 300].into()), headers: vec![] },
        ]
    }

    /// A batch as the broker stores it: with its offset, which the checksum does not cover.
    fn at(offset: i64, batch: Bytes) -> Bytes {
        let mut batch = BytesMut::from(&batch[..]);
        batch[..8].copy_from_slice(&offset.to_be_bytes());
        batch.freeze()
    }

    fn control(offset: i64, producer_id: i64, kind: u8) -> Bytes {
        let marker = Draft {
            key: Some(Bytes::from(vec![0, 0, 0, kind])),
            value: Some(Bytes::from(vec![0; 6])),
            ..Draft::default()
        };
        let mut batch = BytesMut::from(&encode_as(&[marker], Some((producer_id, 0, -1)))[..]);
        batch[layout::ATTRIBUTES + 1] |= layout::CONTROL as u8;
        let crc = crc32c::crc32c(&batch[layout::ATTRIBUTES..]);
        batch[layout::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
        at(offset, batch.freeze())
    }

    fn partition() -> TopicPartition {
        TopicPartition::new("t", 3)
    }

    fn offsets(bytes: &[Bytes], from: i64, aborted: &[Aborted]) -> (Vec<i64>, i64) {
        let decoded = decode_all(bytes.concat().into(), &partition(), from, aborted.to_vec()).expect("decoded");
        (decoded.records.iter().map(|record| record.offset).collect(), decoded.next)
    }

    #[test]
    fn records_are_decoded_as_they_were_encoded() {
        let bytes = at(40, encode(&drafts()));
        let length = bytes.len();
        let decoded = decode_all(bytes, &partition(), 0, vec![]).expect("decoded");
        assert_eq!((decoded.next, decoded.records.len(), decoded.consumed), (43, 3, length));
        for (index, (record, draft)) in decoded.records.iter().zip(drafts()).enumerate() {
            assert_eq!((&*record.topic, record.partition, record.offset), ("t", 3, 40 + index as i64));
            assert_eq!((&record.key, &record.value, record.timestamp), (&draft.key, &draft.value, draft.timestamp));
            assert!(record.headers == draft.headers, "headers in order, repeated and null ones too");
        }
    }

    #[test]
    fn keys_and_values_are_slices_of_what_was_received() {
        let bytes = at(0, encode(&drafts()));
        let (begin, end) = (bytes.as_ptr() as usize, bytes.as_ptr() as usize + bytes.len());
        let decoded = decode_all(bytes, &partition(), 0, vec![]).expect("decoded");
        let value = decoded.records[2].value.as_ref().expect("a value").as_ptr() as usize;
        assert!((begin..end).contains(&value));
    }

    #[test]
    fn records_below_the_offset_asked_for_are_left_out() {
        assert_eq!(offsets(&[at(10, encode(&drafts()))], 11, &[]), (vec![11, 12], 13));
        assert_eq!(offsets(&[at(10, encode(&drafts()))], 13, &[]), (vec![], 13));
    }

    #[test]
    fn a_batch_that_is_cut_off_is_left_for_the_next_fetch() {
        let (first, second) = (at(0, encode(&drafts())), at(3, encode(&drafts())));
        for length in 0..second.len() {
            assert_eq!(offsets(&[first.clone(), second.slice(..length)], 0, &[]), (vec![0, 1, 2], 3), "{length}");
        }
    }

    #[test]
    fn aborted_transactions_and_markers_yield_nothing_and_move_on() {
        let transaction = |offset, producer| at(offset, encode_as(&drafts(), Some((producer, 0, 0))));
        let log = [
            transaction(0, 7),
            transaction(3, 8),
            control(6, 7, 0),
            transaction(7, 7),
            control(10, 7, 1),
            control(11, 8, 1),
        ];
        let aborted = [Aborted { producer_id: 7, first_offset: 0 }];
        assert_eq!(offsets(&log, 0, &aborted), (vec![3, 4, 5, 7, 8, 9], 12), "7 is aborted only up to its marker");
        assert_eq!(offsets(&log[2..3], 6, &[]), (vec![], 7));
        assert_eq!(offsets(&log, 0, &[]).0.len(), 9, "read_uncommitted sees all but the markers");
    }

    #[test]
    fn log_append_time_is_the_batch_s() {
        let mut batch = BytesMut::from(&encode(&drafts())[..]);
        batch[layout::ATTRIBUTES + 1] |= layout::LOG_APPEND_TIME as u8;
        let crc = crc32c::crc32c(&batch[layout::ATTRIBUTES..]);
        batch[layout::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
        let decoded = decode_all(batch.freeze(), &partition(), 0, vec![]).expect("decoded");
        assert!(decoded.records.iter().all(|record| record.timestamp == 2000));
    }

    #[test]
    fn damage_is_noticed_and_what_precedes_it_is_handed_out() {
        let good = at(0, encode(&drafts()));
        let mut bad = BytesMut::from(&at(3, encode(&drafts()))[..]);
        let end = bad.len() - 1;
        bad[end] ^= 1;
        let bad = bad.freeze();
        assert_eq!(offsets(&[good, bad.clone()], 0, &[]), (vec![0, 1, 2], 3));
        assert_eq!(decode_all(bad, &partition(), 3, vec![]).err(), Some(BatchError::Checksum { offset: 3 }));
    }

    #[test]
    fn a_damaged_bit_does_not_make_records_a_marker() {
        let mut bad = BytesMut::from(&at(3, encode(&drafts()))[..]);
        bad[layout::ATTRIBUTES + 1] |= layout::CONTROL as u8;
        assert_eq!(decode_all(bad.freeze(), &partition(), 3, vec![]).err(), Some(BatchError::Checksum { offset: 3 }));
    }

    #[test]
    fn an_old_message_format_is_named() {
        let mut old = BytesMut::from(&encode(&drafts())[..]);
        old[layout::MAGIC] = 1;
        let error = decode_all(old.freeze(), &partition(), 0, vec![]).err().expect("refused").to_string();
        assert!(error.contains("message format 1"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, flips: Vec<(u16, u8)>, from in -1i64..50) {
            let _ = decode_all(bytes.clone().into(), &partition(), from, vec![]);
            bytes = at(0, encode(&drafts())).to_vec();
            for (position, value) in flips {
                let position = position as usize % bytes.len();
                bytes[position] = value;
            }
            let crc = crc32c::crc32c(&bytes[layout::ATTRIBUTES..]);
            bytes[layout::CRC..][..4].copy_from_slice(&crc.to_be_bytes());
            let _ = decode_all(bytes.into(), &partition(), from, vec![Aborted { producer_id: -1, first_offset: 0 }]);
        }
    }
}
