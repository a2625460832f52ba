//! How a server is set up.

use crate::tls::Certificates;

/// What a [`Server`](crate::Server) is like. Everything has a default.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the one user, who may do everything.
    pub username: String,
    /// Password of the user.
    pub password: String,
    /// Name of the bucket that is there from the beginning.
    pub bucket: String,
    /// Number of nodes, each with its own port; the vbuckets are shared out among them.
    pub nodes: usize,
    /// Number of copies beside the active one that the bucket claims to have.
    pub replicas: usize,
    /// Takes TLS on all ports, and nothing else.
    pub tls: Option<Certificates>,
    /// Ports of the key-value service, one a node; 0 or none for any free one.
    pub ports: Vec<u16>,
    /// Ports of the management interface, as for the key-value service.
    pub management_ports: Vec<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            username: "Administrator".into(),
            password: "password".into(),
            bucket: "default".into(),
            nodes: 1,
            replicas: 0,
            tls: None,
            ports: Vec::new(),
            management_ports: Vec::new(),
        }
    }
}
