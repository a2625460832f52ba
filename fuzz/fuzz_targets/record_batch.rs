//! Whatever the bytes of a fetch are: records or an error, no panic, no more memory than is allowed.

#![no_main]

use connect_core::TopicPartition;
use connect_core::kafka::batch::{Aborted, decode};
use libfuzzer_sys::fuzz_target;

const LENGTH: usize = 8;
const CHECKSUM: usize = 17;
const ATTRIBUTES: usize = 21;
const ROOM: usize = 16 << 20;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    // A fuzzer does not guess checksums: with right ones it gets behind them.
    let mut bytes = bytes.to_vec();
    sign(&mut bytes);
    read(&bytes);
});

fn read(bytes: &[u8]) {
    let partition = TopicPartition::new("fuzz", 0);
    let producer_id = bytes.get(43..51).and_then(|id| id.try_into().ok()).map_or(0, i64::from_be_bytes);
    for (from, aborted) in [(0, vec![]), (3, vec![Aborted { producer_id, first_offset: 2 }])] {
        if let Ok(decoded) = decode(bytes.to_vec().into(), &partition, from, aborted, ROOM) {
            assert!(decoded.next >= from);
            assert!(decoded.records.iter().all(|record| record.offset >= from));
            assert!(decoded.made <= ROOM && decoded.consumed <= bytes.len());
        }
    }
}

/// Gives each batch its checksum.
fn sign(mut bytes: &mut [u8]) {
    while bytes.len() > ATTRIBUTES {
        let Ok(length) = bytes[LENGTH..LENGTH + 4].try_into().map(i32::from_be_bytes) else { return };
        let end = usize::try_from(length).unwrap_or(0).saturating_add(LENGTH + 4);
        if end <= ATTRIBUTES || end > bytes.len() {
            return;
        }
        let (batch, rest) = bytes.split_at_mut(end);
        let checksum = crc32c::crc32c(&batch[ATTRIBUTES..]);
        batch[CHECKSUM..ATTRIBUTES].copy_from_slice(&checksum.to_be_bytes());
        bytes = rest;
    }
}
