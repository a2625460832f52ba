//! How to reach Kafka, and what to read there.

use std::path::PathBuf;

use secrecy::SecretString;

/// Settings of the section `CONNECT_KAFKA_*`.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `CONNECT_KAFKA_BROKERS`: host:port of one or more brokers; the others are found through them.
    pub brokers: Vec<String>,
    /// `CONNECT_KAFKA_TOPICS`: the topics to read.
    pub topics: Vec<String>,
    /// `CONNECT_KAFKA_SECURITY`.
    pub security: Security,
    /// `CONNECT_KAFKA_SASL_MECHANISM`.
    pub sasl_mechanism: SaslMechanism,
    /// `CONNECT_KAFKA_SASL_USERNAME`.
    pub sasl_username: Option<String>,
    /// `CONNECT_KAFKA_SASL_PASSWORD`.
    pub sasl_password: Option<SecretString>,
    /// `CONNECT_KAFKA_CA_FILE`: certificates (PEM) that sign the brokers'; without it those of the system.
    pub ca_file: Option<PathBuf>,
    /// `CONNECT_KAFKA_CERT_FILE`: our own certificate chain (PEM), for brokers that ask for one.
    pub cert_file: Option<PathBuf>,
    /// `CONNECT_KAFKA_KEY_FILE`: the private key (PEM) of our own certificate.
    pub key_file: Option<PathBuf>,
    /// `CONNECT_KAFKA_FETCH_BYTES`: bytes that one fetch of a partition asks for.
    pub fetch_bytes: usize,
}

impl KafkaConfig {
    /// Plaintext to these brokers, everything else as by default.
    pub fn plaintext(brokers: Vec<String>, topics: Vec<String>) -> Self {
        Self {
            brokers,
            topics,
            security: Security::Plaintext,
            sasl_mechanism: SaslMechanism::Plain,
            sasl_username: None,
            sasl_password: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            fetch_bytes: 1 << 20,
        }
    }
}

/// How the connection is protected, in the words of Kafka's `security.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Neither encryption nor credentials.
    Plaintext,
    /// TLS.
    Tls,
    /// SASL credentials without encryption.
    SaslPlaintext,
    /// SASL credentials inside TLS.
    SaslTls,
}

impl Security {
    /// Whether the connection is encrypted.
    pub fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::SaslTls)
    }

    /// Whether credentials are presented.
    pub fn sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslTls)
    }
}

/// How SASL credentials are presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// User name and password as they are.
    Plain,
    /// Salted challenge and response with SHA-256.
    ScramSha256,
    /// Salted challenge and response with SHA-512.
    ScramSha512,
}
