//! The framework that every sink connector stands on: it owns everything that is not about the store.

pub mod admin;
pub mod assignment;
pub mod budget;
mod check;
pub mod cli;
pub mod config;
pub mod connector;
mod cut;
pub mod dead_letters;
pub mod decode;
mod hand;
pub mod health;
pub mod kafka;
mod lane;
mod lanes;
pub mod ledger;
pub mod logging;
#[doc(hidden)]
pub mod mutants;
pub mod observe;
mod partition;
pub mod pipeline;
mod rate;
pub mod record;
mod retry;
pub mod run;
pub mod settings;
mod signals;
pub mod sink;
pub mod source;
pub mod supervisor;
pub mod template;

pub use assignment::{Assignment, AssignmentError, Change, CommitError};
pub use budget::{Budget, Charge};
pub use cli::{Exit, execute, main};
pub use connector::{Connector, Context};
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
