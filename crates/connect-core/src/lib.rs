//! The framework that every sink connector stands on: it owns everything that is not about the store.

pub mod assignment;
pub mod budget;
pub mod config;
mod cut;
pub mod dead_letters;
pub mod decode;
mod hand;
pub mod health;
pub mod kafka;
mod lane;
mod lanes;
pub mod ledger;
mod partition;
pub mod pipeline;
mod rate;
pub mod record;
mod retry;
pub mod settings;
pub mod sink;
pub mod source;
pub mod supervisor;
pub mod template;

pub use assignment::{Assignment, AssignmentError, Change, CommitError};
pub use budget::{Budget, Charge};
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetterTopic, DeadLetters};
pub use health::Health;
pub use ledger::{Fate, Ledger, Ledgers};
pub use pipeline::Pipeline;
pub use record::{Header, Record, TopicPartition};
pub use settings::{OutOfRange, Settings, Start, Stop, Tombstones};
pub use sink::{Assigned, Batch, Item, Outcome, Rejection, Resume, Sink, SinkError, Verdict};
pub use source::{Fetched, Position, Source, SourceError};
pub use supervisor::{RunEnd, supervise};
pub use template::{Template, TemplateError};
