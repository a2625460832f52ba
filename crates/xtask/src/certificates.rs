//! Certificates for servers that speak TLS: an authority, a server on loopback, a client.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// PEM files, all in one directory.
#[derive(Debug, Clone)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Those in a directory, made if they aren't there.
    ///
    /// # Errors
    /// They can't be made or written.
    pub fn in_directory(directory: &Path) -> Result<Self> {
        let certificates = Self { directory: directory.to_owned() };
        if !certificates.client_key().exists() {
            fs::create_dir_all(directory).with_context(|| format!("can't make {}", directory.display()))?;
            certificates.make()?;
        }
        Ok(certificates)
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// The certificate of a server at `localhost` or 127.0.0.1.
    pub fn server(&self) -> PathBuf {
        self.directory.join("server.crt")
    }

    /// Its private key.
    pub fn server_key(&self) -> PathBuf {
        self.directory.join("server.key")
    }

    /// The certificate of a client called `connector`.
    pub fn client(&self) -> PathBuf {
        self.directory.join("client.crt")
    }

    /// Its private key.
    pub fn client_key(&self) -> PathBuf {
        self.directory.join("client.key")
    }

    fn make(&self) -> Result<()> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        fs::write(self.authority(), authority.pem())?;

        let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        server.distinguished_name.push(DnType::CommonName, "localhost");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        fs::write(self.server(), server.signed_by(&key, &authority)?.pem())?;
        fs::write(self.server_key(), key.serialize_pem())?;

        let mut client = CertificateParams::default();
        client.distinguished_name.push(DnType::CommonName, "connector");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        fs::write(self.client(), client.signed_by(&key, &authority)?.pem())?;
        // Written last: where it is, the others are.
        fs::write(self.client_key(), key.serialize_pem())?;
        Ok(())
    }
}
