//! Operations on whole documents.

use std::time::Duration;

use crate::documents::{Document, Key, absolute_expiry};
use crate::frame::{DATATYPE_SNAPPY, FrameInfo, Request, Response, be32, be64, opcode};
use crate::session::Agreed;
use crate::state::State;
use crate::{status, subdoc};

/// The largest document, as the real server has it.
const LARGEST: usize = 20 << 20;
/// The longest document id of the default collection.
const LONGEST_ID: usize = 250;
/// The longest one of any other, so that the collection's number fits beside it.
const LONGEST_ID_ELSEWHERE: usize = 246;
/// As an expiry of a counter: don't create the document.
const DO_NOT_CREATE: u32 = u32::MAX;

/// One operation with what was found out about it before it is carried out.
pub struct Operation<'a> {
    pub request: &'a Request,
    pub agreed: Agreed,
    pub key: Key,
    pub body: Vec<u8>,
    pub frames: FrameInfo,
}

impl Operation<'_> {
    /// The answer to a change: CAS value, and the mutation token where the client wants it.
    pub fn changed(&self, (cas, sequence): (u64, u64), value: Vec<u8>) -> Response {
        let mut extras = Vec::new();
        if self.agreed.mutation_tokens {
            extras.extend((0xb0_0000 + u64::from(self.request.vbucket)).to_be_bytes());
            extras.extend(sequence.to_be_bytes());
        }
        Response { cas, extras, value, ..Response::default() }
    }

    /// The status that keeps this change from happening to the document that is there.
    pub fn conflict(&self, current: Option<&Document>) -> Option<u16> {
        let current = current?;
        match current.lock {
            Some((_, cas)) => (self.request.cas != cas).then_some(status::LOCKED),
            None => (self.request.cas != 0 && self.request.cas != current.cas).then_some(status::EXISTS),
        }
    }
}

/// Splits the number of the collection off the key. `None` when the number is malformed.
pub fn document_key(agreed: Agreed, key: &[u8]) -> Option<Key> {
    if !agreed.collections {
        return Some((0, key.to_vec()));
    }
    let mut id = 0_u32;
    for (index, byte) in key.iter().enumerate().take(5) {
        id |= u32::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some((id, key[index + 1..].to_vec()));
        }
    }
    None
}

/// Carries out an operation on a document.
pub fn answer(state: &mut State, agreed: Agreed, request: &Request) -> Response {
    let Some(key) = document_key(agreed, &request.key) else { return Response::status(status::INVALID) };
    let longest = if key.0 == 0 { LONGEST_ID } else { LONGEST_ID_ELSEWHERE };
    if key.1.is_empty() || key.1.len() > longest {
        return Response::status(status::INVALID);
    }
    if !state.cluster.owns(agreed.node, request.vbucket) {
        state.misdirected += 1;
        let bucket = state.bucket(agreed).name.clone();
        let configuration = state.cluster.configuration(agreed.node, Some(&bucket));
        return Response::json(status::NOT_MY_VBUCKET, configuration.to_string());
    }
    let manifest = &state.bucket(agreed).manifest;
    if !manifest.contains(key.0) {
        let uid = format!("{{\"manifest_uid\":\"{:x}\"}}", manifest.uid());
        return Response::json(status::UNKNOWN_COLLECTION, uid);
    }
    let frames = request.frame_info();
    if let Some(level) = frames.durability {
        if !(1..=3).contains(&level) {
            return Response::status(status::DURABILITY_INVALID);
        }
        if state.durability_impossible {
            return Response::status(status::DURABILITY_IMPOSSIBLE);
        }
        *state.durable.entry(level).or_default() += 1;
    }
    let Some(body) = body(request) else { return Response::status(status::INVALID) };
    if body.len() > LARGEST {
        return Response::status(status::TOO_BIG);
    }
    let operation = Operation { request, agreed, key, body, frames };
    match request.opcode {
        opcode::LOOKUP_IN => subdoc::lookup_in(state, &operation),
        opcode::MUTATE_IN => subdoc::mutate_in(state, operation),
        _ => whole_document(state, operation),
    }
}

fn body(request: &Request) -> Option<Vec<u8>> {
    if request.datatype & DATATYPE_SNAPPY == 0 {
        return Some(request.value.clone());
    }
    snap::raw::Decoder::new().decompress_vec(&request.value).ok()
}

fn whole_document(state: &mut State, operation: Operation<'_>) -> Response {
    let request = operation.request;
    let current = state.documents(operation.agreed).live(&operation.key);
    if opcode::is_mutation(request.opcode)
        && let Some(status) = operation.conflict(current.as_ref())
    {
        return Response::status(status);
    }
    match (request.opcode, current) {
        (opcode::SET | opcode::ADD | opcode::REPLACE, current) => set(state, operation, current),
        (opcode::INCREMENT | opcode::DECREMENT, current) => count(state, operation, current),
        (opcode::GET_META, _) => meta(state, &operation),
        (opcode::APPEND | opcode::PREPEND, None) => Response::status(status::NOT_STORED),
        (_, None) => Response::status(status::NOT_FOUND),
        (opcode::GET, Some(document)) => {
            // Who does not hold the lock is not told the CAS value.
            let cas = if document.lock.is_some() { u64::MAX } else { document.cas };
            content(&document, cas)
        }
        (opcode::DELETE, Some(document)) => {
            let stamp = state.documents(operation.agreed).delete(operation.key.clone(), document);
            operation.changed(stamp, Vec::new())
        }
        (opcode::APPEND | opcode::PREPEND, Some(mut document)) => {
            let (first, second) = if request.opcode == opcode::APPEND {
                (&document.value, &operation.body)
            } else {
                (&operation.body, &document.value)
            };
            document.value = [&first[..], &second[..]].concat();
            let stamp = state.documents(operation.agreed).store(operation.key.clone(), document);
            operation.changed(stamp, Vec::new())
        }
        (opcode::TOUCH | opcode::GET_AND_TOUCH, Some(mut document)) => {
            document.expiry = absolute_expiry(be32(&request.extras));
            let (cas, _) = state.documents(operation.agreed).store(operation.key, document.clone());
            if request.opcode == opcode::TOUCH {
                Response { cas, ..Response::default() }
            } else {
                content(&document, cas)
            }
        }
        (opcode::GET_LOCKED, Some(document)) if document.lock.is_some() => Response::status(status::LOCKED),
        (opcode::GET_LOCKED, Some(document)) => {
            let seconds = match be32(&request.extras) {
                0 => 15,
                seconds => seconds.min(30),
            };
            let time = Duration::from_secs(seconds.into());
            let cas = state.documents(operation.agreed).lock(operation.key, document.clone(), time);
            content(&document, cas)
        }
        (opcode::UNLOCK, Some(document)) => match document.lock {
            None => Response::status(status::NOT_LOCKED),
            Some((_, cas)) if cas != request.cas => Response::status(status::LOCKED),
            Some(_) => {
                state.documents(operation.agreed).unlock(operation.key, document);
                Response::default()
            }
        },
        _ => Response::status(status::UNKNOWN_COMMAND),
    }
}

fn content(document: &Document, cas: u64) -> Response {
    Response {
        cas,
        extras: document.flags.to_be_bytes().to_vec(),
        value: document.value.clone(),
        datatype: document.datatype(),
        ..Response::default()
    }
}

fn set(state: &mut State, operation: Operation<'_>, current: Option<Document>) -> Response {
    let request = operation.request;
    match &current {
        Some(_) if request.opcode == opcode::ADD => return Response::status(status::EXISTS),
        None if request.opcode == opcode::REPLACE || request.cas != 0 => return Response::status(status::NOT_FOUND),
        _ => {}
    }
    let expiry = match &current {
        Some(current) if operation.frames.preserve_expiry => current.expiry,
        _ => absolute_expiry(be32(request.extras.get(4..).unwrap_or_default())),
    };
    let document = Document {
        value: operation.body.clone(),
        flags: be32(&request.extras),
        expiry,
        // A plain write keeps the extended attributes of the document that it replaces.
        xattrs: current.map(|current| current.xattrs).unwrap_or_default(),
        ..Document::default()
    };
    let stamp = state.documents(operation.agreed).store(operation.key.clone(), document);
    operation.changed(stamp, Vec::new())
}

fn count(state: &mut State, operation: Operation<'_>, current: Option<Document>) -> Response {
    let extras = &operation.request.extras;
    if extras.len() != 20 {
        return Response::status(status::INVALID);
    }
    let (delta, initial, expiry) = (be64(extras), be64(&extras[8..]), be32(&extras[16..]));
    let mut document = match current {
        Some(document) => document,
        None if expiry == DO_NOT_CREATE => return Response::status(status::NOT_FOUND),
        None => Document { expiry: absolute_expiry(expiry), ..Document::default() },
    };
    let number = if document.value.is_empty() {
        initial
    } else {
        let text = std::str::from_utf8(&document.value).unwrap_or_default();
        let Ok(number) = text.parse::<u64>() else { return Response::status(status::BAD_DELTA) };
        if operation.request.opcode == opcode::INCREMENT {
            number.wrapping_add(delta)
        } else {
            number.saturating_sub(delta)
        }
    };
    document.value = number.to_string().into_bytes();
    let stamp = state.documents(operation.agreed).store(operation.key.clone(), document);
    operation.changed(stamp, number.to_be_bytes().to_vec())
}

fn meta(state: &mut State, operation: &Operation<'_>) -> Response {
    let Some(document) = state.documents(operation.agreed).get(&operation.key) else {
        return Response::status(status::NOT_FOUND);
    };
    let mut extras = u32::from(document.deleted).to_be_bytes().to_vec();
    extras.extend(document.flags.to_be_bytes());
    extras.extend(document.expiry.to_be_bytes());
    extras.extend(state.documents(operation.agreed).sequence().to_be_bytes());
    extras.push(document.datatype());
    Response { cas: document.cas, extras, ..Response::default() }
}
