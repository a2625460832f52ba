//! Items of one document one after the other, documents side by side.

use std::collections::HashMap;

use ahash::RandomState;
use connect_core::Item;

use crate::op::Op;

/// For each document its first item, and for each item the next one of the same document.
pub struct Sequence {
    /// Indexes of the first items.
    pub heads: Vec<usize>,
    next: Vec<Option<usize>>,
}

impl Sequence {
    /// The order in which these items must be written.
    pub fn new(items: &[Item<Op>]) -> Self {
        let mut heads = Vec::with_capacity(items.len());
        let mut next = vec![None; items.len()];
        let mut last: HashMap<&[u8], usize, RandomState> =
            HashMap::with_capacity_and_hasher(items.len(), RandomState::new());
        for (index, item) in items.iter().enumerate() {
            match last.insert(&item.op.target, index) {
                Some(previous) => next[previous] = Some(index),
                None => heads.push(index),
            }
        }
        Self { heads, next }
    }

    /// The items of one document from this one on.
    pub fn from(&self, head: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(head), |index| self.next[*index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Mapping, tests::config};
    use bytes::Bytes;
    use connect_core::Record;

    #[test]
    fn items_of_a_document_follow_each_other() {
        let mapping = Mapping::new(config(&[])).unwrap();
        let item = |(offset, key): (i64, &'static str)| {
            let record = Record {
                topic: "t".into(),
                partition: 0,
                offset,
                timestamp: 0,
                key: Some(Bytes::from_static(key.as_bytes())),
                value: None,
                headers: Vec::new(),
            };
            Item { offset, op: mapping.prepare(&record).unwrap().unwrap() }
        };
        let items: Vec<Item<Op>> = [(0, "a"), (1, "b"), (2, "a"), (3, "c"), (4, "a")].map(item).into();
        let sequence = Sequence::new(&items);
        assert_eq!(sequence.heads, [0, 1, 3]);
        assert_eq!(sequence.from(0).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(sequence.from(3).collect::<Vec<_>>(), [3]);
    }
}
