//! JSON text, appended to a request without anything in between.

use bytes::{BufMut, BytesMut};

/// Appends a string in quotes.
pub(crate) fn append_string(out: &mut BytesMut, text: &str) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.put_u8(b'"');
        out.extend_from_slice(text.as_bytes());
        out.put_u8(b'"');
        return;
    }
    // Writing a string to memory can't fail.
    let _ = serde_json::to_writer(out.writer(), text);
}

/// Appends a number.
pub(crate) fn append_number(out: &mut BytesMut, number: i64) {
    let _ = serde_json::to_writer(out.writer(), &number);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_appended_reads_as_it_was(text in any::<String>(), number in any::<i64>()) {
            let mut out = BytesMut::new();
            append_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            out.clear();
            append_number(&mut out, number);
            prop_assert_eq!(serde_json::from_slice::<i64>(&out).unwrap(), number);
        }
    }
}
