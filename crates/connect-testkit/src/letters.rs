//! A dead-letter topic in memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use connect_core::{DeadLetter, DeadLetterError, DeadLetterTopic, TopicPartition};
use futures::future::BoxFuture;
use tokio::time::sleep;

use crate::dice::{Dice, Trouble};
use crate::met::Met;

/// What is durable in the topic: partition and offset of each dead letter, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Letters {
    kept: Arc<Mutex<Vec<(TopicPartition, i64)>>>,
}

impl Letters {
    /// Partition and offset of every letter.
    pub fn all(&self) -> Vec<(TopicPartition, i64)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this record is a dead letter.
    pub fn hold(&self, partition: &TopicPartition, offset: i64) -> bool {
        self.all().iter().any(|(source, at)| source == partition && *at == offset)
    }

    fn keep(&self, letters: &[DeadLetter]) {
        let source = |letter: &DeadLetter| {
            let partition = TopicPartition::new(Arc::clone(&letter.record.topic), letter.record.partition);
            (partition, letter.record.offset)
        };
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).extend(letters.iter().map(source));
    }
}

/// Writes to [`Letters`] as to a moody broker: errors before and after the letters are durable, refusals
/// that pass, and slow answers.
#[derive(Debug)]
pub struct LetterBox {
    letters: Letters,
    dice: Dice,
    trouble: Arc<Trouble>,
}

impl LetterBox {
    /// A way to these letters.
    pub fn new(letters: Letters, dice: Dice, trouble: Arc<Trouble>) -> Self {
        Self { letters, dice, trouble }
    }
}

impl DeadLetterTopic for LetterBox {
    fn write<'a>(&'a self, letters: &'a [DeadLetter]) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        Box::pin(async move {
            let failing = self.trouble.strikes(&self.dice);
            self.trouble.step().await;
            sleep(self.dice.time(Duration::from_millis(if failing { 5_000 } else { 10 }))).await;
            if failing && !self.trouble.is_total() && self.dice.percent(10) {
                self.trouble.met(Met::LettersRefused);
                return Err(DeadLetterError::Refused("the broker has another limit today".to_owned()));
            }
            if failing && (self.trouble.is_total() || self.dice.percent(50)) {
                self.trouble.met(Met::LettersFailed);
                return Err(DeadLetterError::Transient("the broker is gone".to_owned()));
            }
            self.letters.keep(letters);
            self.trouble.step().await;
            if failing {
                self.trouble.met(Met::LettersAnswerLost);
                return Err(DeadLetterError::Transient("the broker took it and is gone".to_owned()));
            }
            Ok(())
        })
    }
}
