//! Kafka's variable-length numbers: zigzag, seven bits a byte, the lowest first.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Reads a number of up to 64 bits; `None` when the bytes end or go on for too long.
pub(super) fn read(bytes: &mut Bytes) -> Option<i64> {
    // Nearly all numbers of a record fit one byte.
    let first = *bytes.first()?;
    if first < 0x80 {
        bytes.advance(1);
        return Some(unzigzag(u64::from(first)));
    }
    let mut value = u64::from(first & 0x7f);
    for index in 1..10 {
        let byte = *bytes.get(index)?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            bytes.advance(index + 1);
            return Some(unzigzag(value));
        }
    }
    None
}

/// Writes a number.
pub(super) fn write(bytes: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        bytes.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.put_u8(rest as u8);
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for value in [0, -1, 1, 63, 64, -64, -65, 8191, 8192, i64::from(i32::MIN), i64::MAX, i64::MIN] {
            let mut bytes = BytesMut::new();
            write(&mut bytes, value);
            bytes.put_u8(7);
            let mut bytes = bytes.freeze();
            assert_eq!(read(&mut bytes), Some(value));
            assert_eq!(&bytes[..], [7], "nothing more was taken");
        }
    }

    #[test]
    fn a_number_that_does_not_end_is_none() {
        assert_eq!(read(&mut Bytes::from_static(&[0x80, 0x80])), None);
        assert_eq!(read(&mut Bytes::from_static(&[0xff; 11])), None);
        assert_eq!(read(&mut Bytes::new()), None);
    }
}
