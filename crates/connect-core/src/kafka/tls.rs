//! TLS for the connections to Kafka, from files named by the configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::time::sleep;

use super::error::KafkaError;
use crate::config::KafkaConfig;

/// A certificate and its key that are replaced belong together again after this long.
const REPLACED_WITHIN: Duration = Duration::from_secs(1);

/// Reads the files again on each call, so that a new connection sees what was rotated on disk.
pub(super) fn client_config(config: &KafkaConfig) -> Result<Arc<ClientConfig>, KafkaError> {
    let builder = builder(roots(config.ca_file.as_deref())?)?;
    let (certificates, key) = match (&config.cert_file, &config.key_file) {
        (None, None) => return Ok(Arc::new(builder.with_no_client_auth())),
        (Some(cert_file), Some(key_file)) => (
            certificates("CONNECT_KAFKA_CERT_FILE", cert_file)?,
            PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| unreadable("CONNECT_KAFKA_KEY_FILE", key_file, &error))?,
        ),
        _ => {
            return Err(KafkaError::fatal(
                "CONNECT_KAFKA_CERT_FILE and CONNECT_KAFKA_KEY_FILE belong together: set both or neither",
            ));
        }
    };
    let config = builder.with_client_auth_cert(certificates, key).map_err(|error| {
        KafkaError::fatal(format!("CONNECT_KAFKA_CERT_FILE and CONNECT_KAFKA_KEY_FILE do not fit together: {error}"))
    })?;
    Ok(Arc::new(config))
}

/// The same for a process that runs: what cannot be used is read once more, as it may be just being replaced, one file
/// after the other.
pub(super) async fn settled_client_config(config: &KafkaConfig) -> Result<Arc<ClientConfig>, KafkaError> {
    if let Ok(read) = client_config(config) {
        return Ok(read);
    }
    sleep(REPLACED_WITHIN).await;
    client_config(config)
}

/// For the provider of tokens, which may be a public one beside brokers with an authority of their own: both are trusted.
pub(super) fn provider_config(config: &KafkaConfig) -> Result<ClientConfig, KafkaError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(ca_file) = &config.ca_file {
        roots.add_parsable_certificates(certificates("CONNECT_KAFKA_CA_FILE", ca_file)?);
    }
    Ok(builder(roots)?.with_no_client_auth())
}

fn builder(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, KafkaError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| KafkaError::fatal(format!("TLS cannot be set up: {error}")))?;
    Ok(builder.with_root_certificates(roots))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, KafkaError> {
    let mut roots = RootCertStore::empty();
    let Some(ca_file) = ca_file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(KafkaError::fatal(
                "no trusted certificates on this system: set CONNECT_KAFKA_CA_FILE to those that sign the brokers'",
            ));
        }
        return Ok(roots);
    };
    for certificate in certificates("CONNECT_KAFKA_CA_FILE", ca_file)? {
        roots.add(certificate).map_err(|error| unreadable("CONNECT_KAFKA_CA_FILE", ca_file, &error))?;
    }
    Ok(roots)
}

fn certificates(variable: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, KafkaError> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(variable, file, &error))?;
    if certificates.is_empty() {
        return Err(KafkaError::fatal(format!("{variable}: {} holds no certificate in PEM form", file.display())));
    }
    Ok(certificates)
}

fn unreadable(variable: &str, file: &Path, error: &dyn std::fmt::Display) -> KafkaError {
    KafkaError::fatal(format!("{variable}: {} cannot be used: {error}", file.display()))
}

/// What a failure says that a person must change, as its text is all that is left of it.
pub(super) fn advice(text: &str) -> Option<&'static str> {
    if text.contains("invalid peer certificate") {
        return Some(
            "the broker's certificate is not trusted for this name: check CONNECT_KAFKA_CA_FILE and CONNECT_KAFKA_BROKERS",
        );
    }
    if text.contains("received fatal alert") {
        return Some("the broker refuses our certificate: check CONNECT_KAFKA_CERT_FILE and CONNECT_KAFKA_KEY_FILE");
    }
    if text.contains("received corrupt message") {
        return Some(
            "the broker does not speak TLS on this port: check CONNECT_KAFKA_SECURITY and CONNECT_KAFKA_BROKERS",
        );
    }
    None
}

/// A listener without TLS hangs up, and so does a broker that is just stopping: it may pass, and a hint must do.
pub(super) fn hint(text: &str) -> &'static str {
    if text.contains("tls handshake eof") { "; does it speak TLS on this port? See CONNECT_KAFKA_SECURITY" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Section;

    fn config(files: &[(&str, &Path)]) -> KafkaConfig {
        let mut pairs = vec![
            ("CONNECT_KAFKA_BROKERS", "127.0.0.1:9092"),
            ("CONNECT_KAFKA_TOPICS", "t"),
            ("CONNECT_KAFKA_SECURITY", "tls"),
        ];
        pairs.extend(files.iter().map(|(name, path)| (*name, path.to_str().expect("UTF-8"))));
        KafkaConfig::from_pairs(&pairs).expect("the files can be opened")
    }

    #[test]
    fn what_is_wrong_names_the_variable() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let config = config(&[("CONNECT_KAFKA_CA_FILE", file.path())]);
        let error = client_config(&config).expect_err("the file holds nothing").to_string();
        assert!(error.contains("CONNECT_KAFKA_CA_FILE") && error.contains("holds no certificate"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_are_being_replaced_are_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let (certificate, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
        let pair = || rcgen::generate_simple_self_signed(["connector".to_owned()]).expect("a certificate");
        let (older, newer) = (pair(), pair());
        std::fs::write(&certificate, newer.cert.pem()).expect("written");
        std::fs::write(&key, older.signing_key.serialize_pem()).expect("written");
        let files = [("CONNECT_KAFKA_CERT_FILE", &*certificate), ("CONNECT_KAFKA_KEY_FILE", &*key)];
        let config = config(&[&files[..], &[("CONNECT_KAFKA_CA_FILE", &*certificate)]].concat());
        let error = settled_client_config(&config).await.expect_err("they never fit").to_string();
        assert!(error.contains("CONNECT_KAFKA_KEY_FILE"), "{error}");

        let replace = async { std::fs::write(&key, newer.signing_key.serialize_pem()).expect("written") };
        let (read, ()) = tokio::join!(settled_client_config(&config), replace);
        read.expect("they fit together by now");
    }
}
