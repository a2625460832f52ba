//! The body of a bulk request: two lines an action, built once.

use bytes::{BufMut, Bytes, BytesMut};
use connect_core::Item;

use crate::op::Op;

/// How many of the items fit into a request of `most` bytes: at least one.
pub(crate) fn fitting(items: &[Item<Op>], most: usize) -> usize {
    let mut bytes = 0;
    for (index, item) in items.iter().enumerate() {
        bytes += item.op.bytes();
        if bytes > most && index > 0 {
            return index;
        }
    }
    items.len()
}

/// The request for all of the items.
pub(crate) fn body(items: &[Item<Op>]) -> Bytes {
    let mut body = BytesMut::with_capacity(items.iter().map(|item| item.op.bytes()).sum());
    for item in items {
        body.extend_from_slice(&item.op.line);
        if let Some(document) = &item.op.body {
            body.extend_from_slice(document);
            body.put_u8(b'\n');
        }
    }
    body.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Kind;

    fn item(line: &'static str, body: Option<&'static str>) -> Item<Op> {
        let op = Op { kind: Kind::Index, line: line.into(), target: line.into(), body: body.map(Bytes::from) };
        Item { offset: 0, op }
    }

    #[test]
    fn every_line_ends_and_a_delete_has_one() {
        let items = [item("a\n", Some("{}")), item("b\n", None), item("c\n", Some("{1}"))];
        assert_eq!(body(&items), "a\n{}\nb\nc\n{1}\n");
        assert_eq!(body(&items).len(), items.iter().map(|item| item.op.bytes()).sum::<usize>());
    }

    #[test]
    fn a_request_holds_one_item_whatever_its_size() {
        let items = [item("aaaa\n", Some("bbbb")), item("a\n", Some("b")), item("c\n", None)];
        assert_eq!(fitting(&items, 1), 1);
        assert_eq!(fitting(&items[1..], 4), 1);
        assert_eq!(fitting(&items[1..], 6), 2);
        assert_eq!(fitting(&items, 14), 2);
        assert_eq!(fitting(&items, 100), 3);
        assert_eq!(fitting(&[], 100), 0);
    }
}
