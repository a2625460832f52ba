//! Record batches, the form in which Kafka stores and sends records (message format 2, since Kafka 0.11).
//!
//! Keys, values and headers are slices of the buffer that was received or decompressed; nothing is copied. Whatever
//! the bytes are, decoding ends with records or an error: it neither panics nor makes more of them than it was allowed.

pub mod compression;
pub mod decode;
pub mod encode;
mod room;
mod varint;

pub use decode::{Aborted, BatchError, Decoded, decode};
pub use encode::{Draft, encode};

/// Where the fields of a batch's header lie. The length counts what follows it.
mod layout {
    pub const BASE_OFFSET: usize = 0;
    pub const LENGTH: usize = 8;
    pub const MAGIC: usize = 16;
    pub const CRC: usize = 17;
    pub const ATTRIBUTES: usize = 21;
    pub const LAST_OFFSET_DELTA: usize = 23;
    pub const BASE_TIMESTAMP: usize = 27;
    pub const MAX_TIMESTAMP: usize = 35;
    pub const PRODUCER_ID: usize = 43;
    pub const COUNT: usize = 57;
    pub const RECORDS: usize = 61;

    pub const CODEC: i16 = 0x07;
    pub const LOG_APPEND_TIME: i16 = 0x08;
    pub const TRANSACTIONAL: i16 = 0x10;
    pub const CONTROL: i16 = 0x20;
}
