//! TLS for the connections to Couchbase, from files named by the configuration.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::CouchbaseConfig;

/// The client's side of TLS; `None` for connections in plain text.
///
/// # Errors
/// The setting whose file is unusable.
pub fn client_config(config: &CouchbaseConfig) -> Result<Option<Arc<ClientConfig>>, String> {
    if !config.url.tls() {
        return Ok(None);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS can't be set up: {error}"))?
        .with_root_certificates(roots(config.ca_file.as_deref())?);
    let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) else {
        return Ok(Some(Arc::new(builder.with_no_client_auth())));
    };
    let chain = certificates("CONNECT_COUCHBASE_CERT_FILE", cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .map_err(|error| unreadable("CONNECT_COUCHBASE_KEY_FILE", key_file, &error))?;
    let config = builder.with_client_auth_cert(chain, key).map_err(|error| {
        format!("CONNECT_COUCHBASE_CERT_FILE and CONNECT_COUCHBASE_KEY_FILE do not fit together: {error}")
    })?;
    Ok(Some(Arc::new(config)))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    const VARIABLE: &str = "CONNECT_COUCHBASE_CA_FILE";
    let mut roots = RootCertStore::empty();
    let Some(ca_file) = ca_file else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(format!("no trusted certificates on this system: set {VARIABLE}"));
        }
        return Ok(roots);
    };
    for certificate in certificates(VARIABLE, ca_file)? {
        roots.add(certificate).map_err(|error| unreadable(VARIABLE, ca_file, &error))?;
    }
    Ok(roots)
}

fn certificates(variable: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(variable, file, &error))?;
    if certificates.is_empty() {
        return Err(format!("{variable}: {} holds no certificate in PEM form", file.display()));
    }
    Ok(certificates)
}

fn unreadable(variable: &str, file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{variable}: {} can't be used: {error}", file.display())
}
