//! The bodies of bulk requests: two lines an action.

use std::collections::HashMap;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use connect_core::Item;

use crate::op::{Kind, Op};
use crate::update::Update;

/// A batch on its way into requests.
pub(crate) struct Bulk<'a> {
    pub(crate) items: &'a [Item<Op>],
    update: Option<&'a Update>,
    /// For guarded updates, the offset of the item before this one that has the same target.
    before: Vec<Option<i64>>,
}

impl<'a> Bulk<'a> {
    pub(crate) fn new(items: &'a [Item<Op>], update: Option<&'a Update>) -> Self {
        let guarded = update.is_some_and(Update::is_guarded);
        let mut last = HashMap::new();
        let chained = items.iter().filter(|_| guarded);
        let before = chained.map(|item| last.insert(&item.op.target, item.offset)).collect();
        Self { items, update, before }
    }

    /// The first of these items, as many as fit into a request of `most` bytes: at least one.
    pub(crate) fn fitting(&self, range: Range<usize>, most: usize) -> Range<usize> {
        let mut bytes = 0;
        for index in range.clone() {
            bytes += self.bytes(index);
            if bytes > most && index > range.start {
                return range.start..index;
            }
        }
        range
    }

    /// The request for these items.
    pub(crate) fn body(&self, range: Range<usize>) -> Bytes {
        let mut body = BytesMut::with_capacity(range.clone().map(|index| self.bytes(index)).sum());
        for index in range {
            let op = &self.items[index].op;
            body.extend_from_slice(&op.line);
            match (&op.body, self.update) {
                (None, _) => continue,
                (Some(part), Some(update)) if op.kind == Kind::Update => {
                    update.write(part, self.before.get(index).copied().flatten(), &mut body);
                }
                (Some(document), _) => body.extend_from_slice(document),
            }
            body.put_u8(b'\n');
        }
        body.freeze()
    }

    /// How many bytes an item adds to a request, at most.
    pub(crate) fn bytes(&self, index: usize) -> usize {
        let op = &self.items[index].op;
        let around = self.update.filter(|_| op.kind == Kind::Update).map_or(0, Update::bytes_around);
        op.line.len() + op.body.as_ref().map_or(0, |body| body.len() + around + 1)
    }
}

#[cfg(test)]
mod tests {
    use connect_core::config::Section;

    use super::*;
    use crate::config::ElasticsearchConfig;

    fn item(offset: i64, kind: Kind, line: &'static str, body: Option<&'static str>) -> Item<Op> {
        let op = Op { kind, line: line.into(), target: line.into(), body: body.map(Bytes::from) };
        Item { offset, op }
    }

    fn index(line: &'static str, body: Option<&'static str>) -> Item<Op> {
        item(0, Kind::Index, line, body)
    }

    fn update(guard: &str) -> Update {
        let pairs = [
            ("CONNECT_ELASTICSEARCH_URLS", "http://es"),
            ("CONNECT_ELASTICSEARCH_ACTION", "update"),
            ("CONNECT_ELASTICSEARCH_UPDATE_GUARD", guard),
        ];
        Update::new(&ElasticsearchConfig::from_pairs(&pairs).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn every_line_ends_and_a_delete_has_one() {
        let items = [index("a\n", Some("{}")), index("b\n", None), index("c\n", Some("{1}"))];
        let bulk = Bulk::new(&items, None);
        assert_eq!(bulk.body(0..3), "a\n{}\nb\nc\n{1}\n");
        assert_eq!(bulk.body(1..3), "b\nc\n{1}\n");
        assert_eq!(bulk.body(0..3).len(), (0..3).map(|index| bulk.bytes(index)).sum::<usize>());
    }

    #[test]
    fn a_request_holds_one_item_whatever_its_size() {
        let items = [index("aaaa\n", Some("bbbb")), index("a\n", Some("b")), index("c\n", None)];
        let bulk = Bulk::new(&items, None);
        assert_eq!(bulk.fitting(0..3, 1), 0..1);
        assert_eq!(bulk.fitting(1..3, 4), 1..2);
        assert_eq!(bulk.fitting(1..3, 6), 1..3);
        assert_eq!(bulk.fitting(0..3, 14), 0..2);
        assert_eq!(bulk.fitting(0..3, 100), 0..3);
        assert_eq!(bulk.fitting(0..0, 100), 0..0);
    }

    #[test]
    fn a_guarded_update_names_the_one_before_it_whichever_request_that_was_in() {
        let part = Some("\"value\":{}");
        let items = [
            item(5, Kind::Update, "k\n", part),
            item(6, Kind::Update, "l\n", part),
            item(8, Kind::Update, "k\n", part),
            item(9, Kind::Update, "k\n", part),
        ];
        let guarded = update("guard");
        let bulk = Bulk::new(&items, Some(&guarded));
        let before = |index: usize| {
            let body = bulk.body(index..index + 1);
            assert!(body.len() <= bulk.bytes(index));
            let body = body.split(|byte| *byte == b'\n').nth(1).unwrap().to_vec();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            body["script"]["params"]["before"].as_i64()
        };
        assert_eq!([before(0), before(1), before(2), before(3)], [None, None, Some(5), Some(8)]);
    }

    #[test]
    fn an_update_without_guard_is_a_partial_document() {
        let items = [item(5, Kind::Update, "k\n", Some("{\"n\":1}")), item(6, Kind::Update, "k\n", Some("{}"))];
        let unguarded = update("none");
        let bulk = Bulk::new(&items, Some(&unguarded));
        let body = |document: &str| format!("k\n{{\"doc\":{document},\"doc_as_upsert\":true}}\n");
        assert_eq!(bulk.body(0..2), body("{\"n\":1}") + &body("{}"));
    }
}
