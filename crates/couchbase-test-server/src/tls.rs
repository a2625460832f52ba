//! Certificates made on the spot, and the server's side of TLS.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

/// A private authority with a certificate for the server and one for a client, all as PEM text.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: String,
    /// The certificate of the server, for `127.0.0.1` and `localhost`.
    pub server: String,
    /// The key of the server.
    pub server_key: String,
    /// The certificate of a client.
    pub client: String,
    /// The key of the client.
    pub client_key: String,
}

impl Certificates {
    /// Makes new ones.
    ///
    /// # Errors
    /// Only when the system has no randomness.
    pub fn generate() -> Result<Self, rcgen::Error> {
        // Without names of their own the authority and whoever it signs would have the same, which BoringSSL takes for self-signed.
        let named = |name: &str| {
            let mut names = DistinguishedName::new();
            names.push(DnType::CommonName, name);
            names
        };
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.distinguished_name = named("couchbase-test-server authority");
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);
        let leaf = |names: &[&'static str], usage| {
            let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
            params.distinguished_name = named(names[0]);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &issuer)?;
            Ok::<_, rcgen::Error>((certificate.pem(), key.serialize_pem()))
        };
        let (server, server_key) = leaf(&["127.0.0.1", "localhost"], ExtendedKeyUsagePurpose::ServerAuth)?;
        let (client, client_key) = leaf(&["client"], ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Self { authority: authority_certificate.pem(), server, server_key, client, client_key })
    }

    /// Takes any client, and knows one that shows the client certificate.
    pub(crate) fn acceptor(&self) -> std::io::Result<TlsAcceptor> {
        let provider = Arc::new(ring::default_provider());
        let other = std::io::Error::other::<Box<dyn std::error::Error + Send + Sync>>;
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority.as_bytes()).map_err(|e| other(e.into()))?;
        roots.add(authority).map_err(|e| other(e.into()))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|e| other(e.into()))?;
        let chain = CertificateDer::from_pem_slice(self.server.as_bytes()).map_err(|e| other(e.into()))?;
        let key = PrivateKeyDer::from_pem_slice(self.server_key.as_bytes()).map_err(|e| other(e.into()))?;
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| other(e.into()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![chain], key)
            .map_err(|e| other(e.into()))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
