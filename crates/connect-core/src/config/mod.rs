//! Configuration: defaults, under a TOML file, under the environment; every mistake reported at once.
//!
//! A [`section!`](crate::section) is a struct whose fields are variables and whose doc comments are the reference.
//! Values are raw text until the field's type parses them ([`Setting`]): nothing guesses that a password is a number.

mod configuration;
mod core;
mod injected;
mod kafka;
mod layers;
mod problems;
pub mod reference;
mod section;
mod setting;

pub use self::configuration::{Configuration, Effective, effective};
pub use self::core::{CoreConfig, DeadLettersChoice, Epoch, LogFilter, LogFormat, Name, Shard};
pub use self::kafka::{
    AssignmentChoice, GroupProtocol, Isolation, KafkaConfig, ReaderChoice, SaslMechanism, Security, Topics,
};
pub use self::layers::{Layers, Origin};
pub use self::problems::Problems;
pub use self::section::{Reader, Section, Variable};
pub use self::setting::{FilePath, HostPort, HttpUrl, List, Setting, from_str, hide_credentials, word};
pub use bytesize::ByteSize;
pub use secrecy::{ExposeSecret, SecretString};

/// What every variable of ours begins with.
pub(crate) const PREFIX: &str = "CONNECT_";
