//! Faults on demand.

use std::time::Duration;

use crate::frame::{Request, opcode};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing is applied, and this status is the answer.
    Answer(u16),
    /// Nothing is applied, and the connection is cut.
    CutBefore,
    /// It is applied, and the connection is cut instead of an answer.
    CutAfter,
    /// Nothing is applied, and no answer ever comes.
    Swallow,
    /// It is applied, and no answer ever comes.
    Mute,
    /// It is applied that much later, behind whatever the client does meanwhile, and answered then.
    Late(Duration),
    /// It is applied, and the answer says that nobody knows (0xa3, as a durable write that took too long).
    Ambiguous,
}

/// When something goes wrong, and what.
#[derive(Clone, Debug)]
pub struct Fault {
    action: Action,
    opcode: Option<u8>,
    key: Option<Vec<u8>>,
    skip: u64,
    times: u64,
    every: u64,
    seen: u64,
}

impl Fault {
    /// The next request that changes a document goes wrong, once.
    pub fn new(action: Action) -> Self {
        Self { action, opcode: None, key: None, skip: 0, times: 1, every: 1, seen: 0 }
    }

    /// Only requests with this operation code.
    pub fn on(mut self, opcode: u8) -> Self {
        self.opcode = Some(opcode);
        self
    }

    /// Only requests for this document.
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.as_bytes().to_vec());
        self
    }

    /// Lets this many pass first.
    pub fn after(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// As often as this.
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Only each n-th matching request.
    pub fn every(mut self, n: u64) -> Self {
        self.every = n.max(1);
        self
    }

    fn matches(&self, request: &Request, key: &[u8]) -> bool {
        let opcode = self.opcode.map_or_else(|| opcode::is_mutation(request.opcode), |code| code == request.opcode);
        opcode && self.key.as_deref().is_none_or(|wanted| wanted == key)
    }
}

/// The faults that are set.
#[derive(Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What goes wrong with this request. `key` is the document's id without the number of its collection.
    pub fn strike(&mut self, request: &Request, key: &[u8]) -> Option<Action> {
        for index in 0..self.0.len() {
            let fault = &mut self.0[index];
            if !fault.matches(request, key) {
                continue;
            }
            fault.seen += 1;
            if fault.seen <= fault.skip || !(fault.seen - fault.skip).is_multiple_of(fault.every) {
                continue;
            }
            fault.times -= 1;
            let action = fault.action;
            if fault.times == 0 {
                self.0.remove(index);
            }
            return Some(action);
        }
        None
    }
}
