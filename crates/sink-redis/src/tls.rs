//! TLS to Redis, with an authority of one's own and a certificate of one's own where the server asks for it.

use std::path::Path;

use fred::types::config::{TlsConfig, TlsConnector};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::RedisConfig;

/// Says that rustls works with ring, before fred makes a TLS connector of its own from a URL. rustls chooses by itself only
/// where a build holds one provider, and another crate of the same build may bring a second one: then it panics.
pub fn choose_provider() {
    // Fails where one has been chosen before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The TLS settings of the client; `None` without TLS. `asked` is what the URL asks for.
///
/// # Errors
/// A file can't be used; or files are given although the URL does not ask for TLS.
pub fn config(settings: &RedisConfig, asked: Option<TlsConfig>) -> Result<Option<TlsConfig>, String> {
    let Some(asked) = asked else {
        if settings.ca_file.is_some() || settings.cert_file.is_some() {
            return Err(
                "CONNECT_REDIS_CA_FILE and CONNECT_REDIS_CERT_FILE are for TLS, which CONNECT_REDIS_URL does not \
                        ask for: begin it with rediss://"
                    .to_owned(),
            );
        }
        return Ok(None);
    };
    let Some(authority) = &settings.ca_file else {
        if settings.cert_file.is_none() {
            return Ok(Some(asked));
        }
        return Err("CONNECT_REDIS_CERT_FILE needs CONNECT_REDIS_CA_FILE beside it".to_owned());
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority, "CONNECT_REDIS_CA_FILE")? {
        roots.add(certificate).map_err(|error| format!("CONNECT_REDIS_CA_FILE: {error}"))?;
    }
    let builder = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots);
    let client = match (&settings.cert_file, &settings.key_file) {
        (Some(certificate), Some(key)) => {
            let key =
                PrivateKeyDer::from_pem_file(&**key).map_err(|error| format!("CONNECT_REDIS_KEY_FILE: {error}"))?;
            builder
                .with_client_auth_cert(certificates(certificate, "CONNECT_REDIS_CERT_FILE")?, key)
                .map_err(|error| format!("CONNECT_REDIS_CERT_FILE, CONNECT_REDIS_KEY_FILE: {error}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Some(TlsConfig { connector: TlsConnector::from(client), hostnames: asked.hostnames }))
}

fn certificates(file: &Path, variable: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| format!("{variable}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{variable}: {} holds no certificate", file.display()));
    }
    Ok(certificates)
}
