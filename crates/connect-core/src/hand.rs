//! Records in hand: read, and not yet settled.

use crate::ledger::{Fate, Ledger};

/// A number of records whose fate is open. What is still open when this is dropped was given back unwritten, whatever the way in
/// which the work ended: a drain, an error, an abort.
pub(crate) struct InHand<'a> {
    ledger: &'a Ledger,
    open: u64,
}

impl<'a> InHand<'a> {
    /// Takes records in hand and counts them as read.
    pub(crate) fn read(ledger: &'a Ledger, records: usize, bytes: usize) -> Self {
        ledger.read(records as u64, bytes as u64);
        Self { ledger, open: records as u64 }
    }

    /// Passes some of them on.
    pub(crate) fn split(&mut self, records: usize) -> Self {
        let records = (records as u64).min(self.open);
        self.open -= records;
        Self { ledger: self.ledger, open: records }
    }

    /// Some of them met their fate.
    pub(crate) fn settle(&mut self, fate: Fate, records: usize) {
        let records = (records as u64).min(self.open);
        self.open -= records;
        self.ledger.settle(fate, records);
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.ledger.settle(Fate::Returned, self.open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ledgers, TopicPartition};

    #[test]
    fn what_is_not_settled_is_returned() {
        let ledger = Ledgers::default().of(&TopicPartition::new("t", 0));
        let mut all = InHand::read(&ledger, 5, 50);
        let mut some = all.split(3);
        some.settle(Fate::Written, 2);
        assert_eq!((ledger.records_read(), ledger.in_flight()), (5, 3));
        drop(some);
        assert_eq!(ledger.count(Fate::Returned), 1);
        drop(all);
        assert_eq!((ledger.count(Fate::Returned), ledger.in_flight()), (3, 0));
    }
}
