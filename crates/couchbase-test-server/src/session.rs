//! What a connection agrees on before it may touch documents: features, user, bucket.

use crate::error_map::error_map;
use crate::frame::{Request, Response, be16, opcode};
use crate::scram::Scram;
use crate::state::Shared;
use crate::status;

mod feature {
    pub const MUTATION_TOKENS: u16 = 0x04;
    pub const COLLECTIONS: u16 = 0x12;

    /// Datatype, no-delay, tokens, attributes, extended errors, bucket selection, Snappy, JSON, unordered execution,
    /// durations, frames, durable writes, collections, preserved expiry, creation of tombstones.
    pub const KNOWN: [u16; 15] =
        [0x01, 0x03, 0x04, 0x06, 0x07, 0x08, 0x0a, 0x0b, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x14, 0x17];
}

/// What the data operations need to know of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Agreed {
    pub node: usize,
    /// Its place among the buckets, once one is selected.
    pub bucket: usize,
    pub collections: bool,
    pub mutation_tokens: bool,
}

/// The state of one connection.
#[derive(Default)]
pub struct Session {
    pub agreed: Agreed,
    authenticated: bool,
    bucket: bool,
    scram: Scram,
}

impl Session {
    /// A connection to a node; one with a client certificate needs no password.
    pub fn new(node: usize, authenticated: bool) -> Self {
        Self { agreed: Agreed { node, ..Agreed::default() }, authenticated, ..Self::default() }
    }

    /// Answers what is about the connection; `None` for operations on documents.
    pub fn answer(&mut self, shared: &Shared, request: &Request) -> Option<Response> {
        Some(match request.opcode {
            opcode::HELLO => self.hello(request),
            opcode::GET_ERROR_MAP => Response::value(error_map()),
            opcode::SASL_LIST => Response::value("SCRAM-SHA512 PLAIN"),
            opcode::SASL_AUTH => self.authenticate(shared, request),
            opcode::SASL_STEP => match self.scram.last(&request.value, &shared.password) {
                Some(proof) => {
                    self.authenticated = true;
                    Response::value(proof)
                }
                None => Response::status(status::AUTH_ERROR),
            },
            opcode::NOOP => Response::status(status::SUCCESS),
            _ if !self.authenticated => Response::status(status::NO_ACCESS),
            opcode::SELECT_BUCKET => {
                let found = shared.lock().find(&request.key);
                self.bucket = found.is_some();
                self.agreed.bucket = found.unwrap_or_default();
                // As the real server: whoever may not see a bucket is not told whether it exists.
                Response::status(if self.bucket { status::SUCCESS } else { status::NO_ACCESS })
            }
            opcode::GET_CLUSTER_CONFIG => {
                let mut state = shared.lock();
                let bucket = self.bucket.then(|| state.bucket(self.agreed).name.clone());
                let configuration = state.cluster.configuration(self.agreed.node, bucket.as_deref());
                Response::json(status::SUCCESS, configuration.to_string())
            }
            _ if !self.bucket => Response::status(status::NO_BUCKET),
            opcode::GET_MANIFEST => {
                Response::json(status::SUCCESS, shared.lock().bucket(self.agreed).manifest.json().to_string())
            }
            opcode::GET_COLLECTION_ID => collection_id(shared, self.agreed, request),
            _ => return None,
        })
    }

    fn hello(&mut self, request: &Request) -> Response {
        let wanted = request.value.chunks(2).map(be16);
        let agreed: Vec<u16> = wanted.filter(|feature| feature::KNOWN.contains(feature)).collect();
        self.agreed.collections = agreed.contains(&feature::COLLECTIONS);
        self.agreed.mutation_tokens = agreed.contains(&feature::MUTATION_TOKENS);
        Response::value(agreed.into_iter().flat_map(u16::to_be_bytes).collect::<Vec<u8>>())
    }

    fn authenticate(&mut self, shared: &Shared, request: &Request) -> Response {
        match &request.key[..] {
            b"SCRAM-SHA512" => match self.scram.first(&request.value, &shared.username) {
                Some(challenge) => Response { status: status::AUTH_CONTINUE, ..Response::value(challenge) },
                None => Response::status(status::AUTH_ERROR),
            },
            b"PLAIN" => {
                let expected = format!("\0{}\0{}", shared.username, shared.password);
                self.authenticated = request.value == expected.as_bytes();
                Response::status(if self.authenticated { status::SUCCESS } else { status::AUTH_ERROR })
            }
            _ => Response::status(status::AUTH_ERROR),
        }
    }
}

fn collection_id(shared: &Shared, agreed: Agreed, request: &Request) -> Response {
    let mut state = shared.lock();
    let manifest = &state.bucket(agreed).manifest;
    let name = String::from_utf8_lossy(&request.value);
    let (scope, collection) = name.split_once('.').unwrap_or_default();
    let uid = manifest.uid();
    match manifest.id(scope, collection) {
        Some(id) => Response { extras: [&uid.to_be_bytes()[..], &id.to_be_bytes()].concat(), ..Response::default() },
        None => {
            let has_scope = manifest.has_scope(scope);
            let status = if has_scope { status::UNKNOWN_COLLECTION } else { status::UNKNOWN_SCOPE };
            Response::json(status, format!("{{\"manifest_uid\":\"{uid:x}\"}}"))
        }
    }
}
