//! One sub-document operation on one JSON value.

use serde_json::{Map, Value, json};

use super::path::{Path, Segment};
use crate::status;

mod code {
    pub const GET: u8 = 0xc5;
    pub const EXISTS: u8 = 0xc6;
    pub const ADD: u8 = 0xc7;
    pub const UPSERT: u8 = 0xc8;
    pub const REMOVE: u8 = 0xc9;
    pub const REPLACE: u8 = 0xca;
    pub const PUSH_LAST: u8 = 0xcb;
    pub const PUSH_FIRST: u8 = 0xcc;
    pub const INSERT: u8 = 0xcd;
    pub const ADD_UNIQUE: u8 = 0xce;
    pub const COUNT: u8 = 0xcf;
    pub const LENGTH: u8 = 0xd2;
}

type Changed = Result<Option<Vec<u8>>, u16>;

/// Reads.
pub fn lookup(root: &Value, opcode: u8, path: &str) -> Result<Vec<u8>, u16> {
    let path: Path = path.parse()?;
    let mut value = root;
    for segment in &path.0 {
        value = match (segment, value) {
            (Segment::Name(name), Value::Object(members)) => members.get(name).ok_or(status::PATH_NOT_FOUND)?,
            (Segment::Index(index), Value::Array(items)) => &items[position(*index, items.len())?],
            _ => return Err(status::PATH_MISMATCH),
        };
    }
    match (opcode, value) {
        (code::GET, value) => Ok(value.to_string().into_bytes()),
        (code::EXISTS, _) => Ok(Vec::new()),
        (code::LENGTH, Value::Array(items)) => Ok(items.len().to_string().into_bytes()),
        (code::LENGTH, Value::Object(members)) => Ok(members.len().to_string().into_bytes()),
        _ => Err(status::PATH_MISMATCH),
    }
}

/// Changes; only a counter has a result.
pub fn mutate(root: &mut Value, opcode: u8, path: &Path, value: &[u8], create: bool) -> Changed {
    match opcode {
        code::ADD | code::UPSERT | code::REMOVE | code::REPLACE => set(root, opcode, path, value, create),
        code::PUSH_LAST | code::PUSH_FIRST | code::ADD_UNIQUE => push(root, opcode, path, value, create),
        code::INSERT => insert(root, path, value),
        code::COUNT => count(root, path, value, create),
        _ => Err(status::PATH_INVALID),
    }
}

fn set(root: &mut Value, opcode: u8, path: &Path, value: &[u8], create: bool) -> Changed {
    let (last, parents) = path.0.split_last().ok_or(status::PATH_INVALID)?;
    let new = || serde_json::from_slice::<Value>(value).map_err(|_| status::VALUE_CANNOT_INSERT);
    let may_create = create && matches!(opcode, code::ADD | code::UPSERT);
    match (last, walk(root, parents, may_create)?) {
        (Segment::Name(name), Value::Object(members)) => match opcode {
            code::ADD if members.contains_key(name) => return Err(status::PATH_EXISTS),
            code::ADD | code::UPSERT => {
                members.insert(name.clone(), new()?);
            }
            code::REMOVE => {
                members.remove(name).ok_or(status::PATH_NOT_FOUND)?;
            }
            _ => *members.get_mut(name).ok_or(status::PATH_NOT_FOUND)? = new()?,
        },
        (Segment::Index(index), Value::Array(items)) => {
            let at = position(*index, items.len())?;
            match opcode {
                code::REMOVE => {
                    items.remove(at);
                }
                code::REPLACE => items[at] = new()?,
                _ => return Err(status::PATH_INVALID),
            }
        }
        _ => return Err(status::PATH_MISMATCH),
    }
    Ok(None)
}

fn push(root: &mut Value, opcode: u8, path: &Path, value: &[u8], create: bool) -> Changed {
    let values = list(value)?;
    let target = match (walk(root, &path.0, false), path.0.split_last()) {
        (Err(status::PATH_NOT_FOUND), Some((Segment::Name(name), parents))) if create => {
            let parent = walk(root, parents, true)?.as_object_mut().ok_or(status::PATH_MISMATCH)?;
            parent.entry(name.clone()).or_insert_with(|| json!([]))
        }
        (Err(status), _) => return Err(status),
        (Ok(_), _) => walk(root, &path.0, false)?,
    };
    let items = target.as_array_mut().ok_or(status::PATH_MISMATCH)?;
    match opcode {
        code::PUSH_LAST => items.extend(values),
        code::PUSH_FIRST => {
            items.splice(0..0, values);
        }
        _ => {
            let [value] = values.try_into().map_err(|_| status::VALUE_CANNOT_INSERT)?;
            if items.iter().any(|item| item.is_object() || item.is_array()) {
                return Err(status::PATH_MISMATCH);
            }
            if items.contains(&value) {
                return Err(status::PATH_EXISTS);
            }
            items.push(value);
        }
    }
    Ok(None)
}

fn insert(root: &mut Value, path: &Path, value: &[u8]) -> Changed {
    let Some((Segment::Index(index), parents)) = path.0.split_last() else { return Err(status::PATH_INVALID) };
    let items = walk(root, parents, false)?.as_array_mut().ok_or(status::PATH_MISMATCH)?;
    let at = usize::try_from(*index).ok().filter(|at| *at <= items.len()).ok_or(status::PATH_NOT_FOUND)?;
    items.splice(at..at, list(value)?);
    Ok(None)
}

fn count(root: &mut Value, path: &Path, value: &[u8], create: bool) -> Changed {
    let delta: Option<i64> = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    let delta = delta.filter(|delta| *delta != 0).ok_or(status::DELTA_INVALID)?;
    let (last, parents) = path.0.split_last().ok_or(status::PATH_INVALID)?;
    let slot = match (last, walk(root, parents, create)?) {
        // The last name is made even where the rest of the path must exist.
        (Segment::Name(name), Value::Object(members)) => members.entry(name.clone()).or_insert_with(|| json!(0)),
        (Segment::Index(index), Value::Array(items)) => {
            let at = position(*index, items.len())?;
            &mut items[at]
        }
        _ => return Err(status::PATH_MISMATCH),
    };
    let number = slot.as_i64().ok_or(status::PATH_MISMATCH)?;
    let number = number.checked_add(delta).ok_or(status::VALUE_CANNOT_INSERT)?;
    *slot = json!(number);
    Ok(Some(number.to_string().into_bytes()))
}

fn walk<'a>(mut value: &'a mut Value, path: &[Segment], create: bool) -> Result<&'a mut Value, u16> {
    for segment in path {
        value = match (segment, value) {
            (Segment::Name(name), Value::Object(members)) => member(members, name, create)?,
            (Segment::Index(index), Value::Array(items)) => {
                let at = position(*index, items.len())?;
                &mut items[at]
            }
            _ => return Err(status::PATH_MISMATCH),
        };
    }
    Ok(value)
}

fn member<'a>(members: &'a mut Map<String, Value>, name: &str, create: bool) -> Result<&'a mut Value, u16> {
    if create {
        return Ok(members.entry(name).or_insert_with(|| json!({})));
    }
    members.get_mut(name).ok_or(status::PATH_NOT_FOUND)
}

fn position(index: i64, length: usize) -> Result<usize, u16> {
    let index = if index == -1 { length as i64 - 1 } else { index };
    usize::try_from(index).ok().filter(|at| *at < length).ok_or(status::PATH_NOT_FOUND)
}

/// Values with commas between them, as array operations take them.
fn list(value: &[u8]) -> Result<Vec<Value>, u16> {
    let text = std::str::from_utf8(value).map_err(|_| status::VALUE_CANNOT_INSERT)?;
    serde_json::from_str(&format!("[{text}]")).map_err(|_| status::VALUE_CANNOT_INSERT)
}
