//! Whatever the bytes of a fetch are: records or an error, no panic, no allocation out of proportion.

#![no_main]

use connect_core::TopicPartition;
use connect_core::kafka::batch::{Aborted, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], i64, i64)| {
    let (bytes, from, first_offset) = input;
    let aborted = vec![Aborted { producer_id: 0, first_offset }];
    let partition = TopicPartition::new("fuzz", 0);
    if let Ok(decoded) = decode(bytes.to_vec().into(), &partition, from, aborted, 1 << 20) {
        assert!(decoded.next >= from);
        assert!(decoded.records.iter().all(|record| record.offset >= from));
    }
});
