//! Sub-document operations, on the body and on extended attributes.

mod change;
mod path;

use std::mem;

use serde_json::{Map, Value, json};

use crate::data::Operation;
use crate::documents::{Document, absolute_expiry};
use crate::frame::{Response, be16, be32, opcode};
use crate::state::State;
use crate::status;
use path::Path;

/// The most operations in one request.
const MOST: usize = 16;
/// The most bytes that extended attributes of the system may have.
const LARGEST_SYSTEM_XATTRS: usize = 1 << 20;

/// The attribute that is made when it is asked for.
const DOCUMENT: &str = "$document";

mod document_flag {
    pub const CREATE: u8 = 0x01;
    pub const ADD: u8 = 0x02;
    pub const ACCESS_DELETED: u8 = 0x04;
    pub const CREATE_AS_DELETED: u8 = 0x08;
    pub const REVIVE: u8 = 0x10;
}

mod spec_flag {
    pub const CREATE_PATH: u8 = 0x01;
    pub const XATTR: u8 = 0x04;
    pub const EXPAND_MACROS: u8 = 0x10;
}

/// One of the operations in a request.
struct Spec {
    opcode: u8,
    flags: u8,
    path: String,
    value: Vec<u8>,
}

impl Spec {
    fn xattr(&self) -> bool {
        self.flags & spec_flag::XATTR != 0
    }

    /// Whether the attribute belongs to the system, by its name.
    fn system(&self) -> bool {
        self.xattr() && self.path.starts_with('_')
    }

    fn parse_all(mut bytes: &[u8], with_values: bool) -> Result<Vec<Self>, u16> {
        let mut specs = Vec::new();
        let head = if with_values { 8 } else { 4 };
        while bytes.len() >= head {
            let path = be16(&bytes[2..]) as usize;
            let value = if with_values { be32(&bytes[4..]) as usize } else { 0 };
            let rest = &bytes[head..];
            if path + value > rest.len() {
                return Err(status::INVALID);
            }
            if path > path::LONGEST {
                return Err(status::PATH_TOO_BIG);
            }
            let text = String::from_utf8(rest[..path].to_vec()).map_err(|_| status::INVALID)?;
            specs.push(Self {
                opcode: bytes[0],
                flags: bytes[1],
                path: text,
                value: rest[path..path + value].to_vec(),
            });
            bytes = &rest[path + value..];
        }
        if specs.is_empty() || specs.len() > MOST {
            return Err(status::INVALID_COMBINATION);
        }
        // Attributes come first, then the body.
        if specs.windows(2).any(|pair| !pair[0].xattr() && pair[1].xattr()) {
            return Err(status::XATTR_ORDER);
        }
        Ok(specs)
    }
}

/// Reads paths of a document.
pub fn lookup_in(state: &mut State, operation: &Operation<'_>) -> Response {
    let specs = match Spec::parse_all(&operation.body, false) {
        Ok(specs) => specs,
        Err(status) => return Response::status(status),
    };
    let flags = operation.request.extras.first().copied().unwrap_or_default();
    let found = state.documents(operation.agreed).get(&operation.key);
    let Some(mut document) = found.filter(|found| !found.deleted || flags & document_flag::ACCESS_DELETED != 0) else {
        return Response::status(status::NOT_FOUND);
    };
    if specs.iter().any(|spec| spec.path.starts_with(DOCUMENT)) {
        document.xattrs.insert(DOCUMENT.to_owned(), virtual_attributes(&document));
    }
    let xattrs = Value::Object(mem::take(&mut document.xattrs));

    let mut out = Vec::new();
    let mut failed = false;
    for spec in &specs {
        let result = if spec.system() && !state.system_xattrs_allowed {
            Err(status::NO_ACCESS)
        } else if spec.opcode == opcode::GET {
            if document.value.is_empty() { Err(status::PATH_NOT_FOUND) } else { Ok(document.value.clone()) }
        } else if spec.xattr() {
            change::lookup(&xattrs, spec.opcode, &spec.path)
        } else {
            json(&document.value).and_then(|body| change::lookup(&body, spec.opcode, &spec.path))
        };
        failed |= result.is_err();
        let (status, value) = match result {
            Ok(value) => (status::SUCCESS, value),
            Err(status) => (status, Vec::new()),
        };
        out.extend(status.to_be_bytes());
        out.extend((value.len() as u32).to_be_bytes());
        out.extend(value);
    }
    let status = match (failed, document.deleted) {
        (false, false) => status::SUCCESS,
        (true, false) => status::MULTI_PATH_FAILURE,
        (false, true) => status::SUCCESS_DELETED,
        (true, true) => status::MULTI_PATH_FAILURE_DELETED,
    };
    Response { status, cas: document.cas, value: out, ..Response::default() }
}

fn json(body: &[u8]) -> Result<Value, u16> {
    serde_json::from_slice(body).map_err(|_| status::NOT_JSON)
}

fn virtual_attributes(document: &Document) -> Value {
    json!({
        "CAS": format!("0x{:016x}", document.cas),
        "exptime": document.expiry,
        "value_bytes": document.value.len(),
        "flags": document.flags,
        "deleted": document.deleted,
        "datatype": if document.is_json() { vec!["json", "xattr"] } else { vec!["raw", "xattr"] },
    })
}

/// Changes paths of a document: all of them or none.
pub fn mutate_in(state: &mut State, operation: Operation<'_>) -> Response {
    let specs = match Spec::parse_all(&operation.body, true) {
        Ok(specs) => specs,
        Err(status) => return Response::status(status),
    };
    let extras = &operation.request.extras[..];
    let (expiry, flags) = match extras.len() {
        0 => (0, 0),
        1 => (0, extras[0]),
        4 => (be32(extras), 0),
        5 => (be32(extras), extras[4]),
        _ => return Response::status(status::INVALID),
    };
    if !allowed(flags, &specs, operation.request.cas) {
        return Response::status(status::INVALID);
    }
    let mut target = match Target::find(state, &operation, flags) {
        Ok(target) => target,
        Err(status) => return Response::status(status),
    };
    if specs.iter().any(Spec::system) && !state.system_xattrs_allowed {
        let first = specs.iter().position(Spec::system).unwrap_or_default();
        return failure(first, status::NO_ACCESS);
    }

    let stamp = state.documents(operation.agreed).stamp();
    let mut results = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        match target.apply(spec, stamp) {
            Ok(None) => {}
            Ok(Some(value)) => {
                results.push(index as u8);
                results.extend(status::SUCCESS.to_be_bytes());
                results.extend((value.len() as u32).to_be_bytes());
                results.extend(value);
            }
            Err(status) => return failure(index, status),
        }
    }
    let was_deleted = target.document.deleted;
    let mut document = target.finish();
    let system = document.xattrs.iter().filter(|(name, _)| name.starts_with('_'));
    if system.map(|(name, value)| name.len() + value.to_string().len()).sum::<usize>() > LARGEST_SYSTEM_XATTRS {
        return Response::status(status::TOO_BIG);
    }
    if document.deleted {
        document.bury();
    } else if !operation.frames.preserve_expiry || document.cas == 0 {
        document.expiry = absolute_expiry(expiry);
    }
    state.documents(operation.agreed).store_as(operation.key.clone(), document, stamp);
    let status = if was_deleted { status::SUCCESS_DELETED } else { status::SUCCESS };
    Response { status, ..operation.changed(stamp, results) }
}

/// Whether flags, operations and CAS value go together (`subdocument_validators.cc` of kv_engine).
fn allowed(flags: u8, specs: &[Spec], cas: u64) -> bool {
    use document_flag::{ACCESS_DELETED, ADD, CREATE, CREATE_AS_DELETED, REVIVE};
    let has = |flag: u8| flags & flag != 0;
    let replaces_body = specs.iter().any(|spec| spec.opcode == opcode::SET);
    let body = specs.iter().any(|spec| !spec.xattr());
    !(has(ADD) && (cas != 0 || has(CREATE)))
        && !(has(REVIVE) && (!has(ACCESS_DELETED) || has(CREATE_AS_DELETED)))
        && !(has(CREATE_AS_DELETED) && (!has(ADD | CREATE) || body))
        && !(replaces_body && flags & !(CREATE | ADD) != 0)
}

fn failure(index: usize, status: u16) -> Response {
    let mut value = vec![index as u8];
    value.extend(status.to_be_bytes());
    Response { status: status::MULTI_PATH_FAILURE, value, ..Response::default() }
}

/// The document that a request changes, taken apart.
struct Target {
    document: Document,
    xattrs: Value,
    /// Everything is made on the way: the document did not exist.
    fresh: bool,
    delete: bool,
}

impl Target {
    fn find(state: &mut State, operation: &Operation<'_>, flags: u8) -> Result<Self, u16> {
        let has = |flag: u8| flags & flag != 0;
        let found = state.documents(operation.agreed).get(&operation.key);
        let found = found.filter(|found| !found.deleted || has(document_flag::ACCESS_DELETED));
        if let Some(status) = operation.conflict(found.as_ref()) {
            return Err(status);
        }
        if let Some(mut document) = found {
            // Also when all that is there is a tombstone, if the request can see it.
            if has(document_flag::ADD) {
                return Err(status::EXISTS);
            }
            if has(document_flag::REVIVE) {
                if !document.deleted {
                    return Err(status::ONLY_DELETED_CAN_BE_REVIVED);
                }
                document.deleted = false;
            }
            return Ok(Self::of(document, false));
        }
        if !has(document_flag::CREATE | document_flag::ADD) || operation.request.cas != 0 {
            return Err(status::NOT_FOUND);
        }
        let deleted = has(document_flag::CREATE_AS_DELETED);
        let value = if deleted { Vec::new() } else { b"{}".to_vec() };
        Ok(Self::of(Document { value, deleted, ..Document::default() }, true))
    }

    fn of(mut document: Document, fresh: bool) -> Self {
        let xattrs = Value::Object(mem::take(&mut document.xattrs));
        Self { document, xattrs, fresh, delete: false }
    }

    fn apply(&mut self, spec: &Spec, stamp: (u64, u64)) -> Result<Option<Vec<u8>>, u16> {
        let create = self.fresh || spec.flags & spec_flag::CREATE_PATH != 0;
        if spec.xattr() {
            let value = if spec.flags & spec_flag::EXPAND_MACROS != 0 {
                expand(&spec.value, stamp)
            } else {
                spec.value.clone()
            };
            return change::mutate(&mut self.xattrs, spec.opcode, &spec.path.parse()?, &value, create);
        }
        match spec.opcode {
            _ if self.document.deleted => return Err(status::DELETED_CANNOT_HAVE_VALUE),
            opcode::SET => {
                self.document.value = spec.value.clone();
                return Ok(None);
            }
            opcode::DELETE => {
                self.delete = true;
                return Ok(None);
            }
            _ => {}
        }
        let path: Path = spec.path.parse()?;
        let mut body = json(&self.document.value)?;
        if self.fresh && path.starts_in_array() && body == json!({}) {
            body = json!([]);
        }
        let result = change::mutate(&mut body, spec.opcode, &path, &spec.value, create)?;
        self.document.value = body.to_string().into_bytes();
        Ok(result)
    }

    fn finish(self) -> Document {
        let mut document = self.document;
        document.xattrs = match self.xattrs {
            Value::Object(xattrs) => xattrs,
            _ => Map::new(),
        };
        document.deleted |= self.delete;
        document
    }
}

/// Puts in what only the server knows.
fn expand(value: &[u8], (cas, sequence): (u64, u64)) -> Vec<u8> {
    match value {
        br#""${Mutation.CAS}""# => format!("\"0x{:016x}\"", cas.swap_bytes()).into_bytes(),
        br#""${Mutation.seqno}""# => format!("\"0x{sequence:016x}\"").into_bytes(),
        other => other.to_vec(),
    }
}
