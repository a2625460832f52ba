//! The part of the management interface that makes and lists collections; beyond Couchbase's own,
//! `GET /documents/SCOPE/COLLECTION` gives every JSON document of a collection.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::collections::Refused;
use crate::documents::Document;
use crate::state::Shared;

/// Serves one connection until the client closes it.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(shared: Arc<Shared>, mut stream: S) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let end = head + 4 + length.unwrap_or(0_usize);
        while buffer.len() < end {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let body = String::from_utf8_lossy(&buffer[head + 4..end]).into_owned();
        buffer.drain(..end);
        let mut line = text.lines().next().unwrap_or_default().split(' ');
        let (method, target) = (line.next().unwrap_or_default(), line.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        let (code, answer) = answer(&shared, method, path, &body);
        let length = answer.len();
        let head = format!("HTTP/1.1 {code} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all((head + &answer).as_bytes()).await?;
        stream.flush().await?;
        if text.lines().next().is_some_and(|line| line.ends_with("HTTP/1.0")) {
            return Ok(());
        }
    }
}

fn answer(shared: &Shared, method: &str, path: &str, body: &str) -> (u16, String) {
    let form: HashMap<&str, &str> = body.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let name = form.get("name").copied().unwrap_or_default();
    let mut state = shared.lock();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    if let ("GET", ["documents", scope, collection]) = (method, &segments[..]) {
        let bucket = &mut state.buckets[0];
        let Some(id) = bucket.manifest.id(scope, collection) else { return (404, "{}".into()) };
        let documents = bucket.documents.all(id);
        let json = |(id, document): (String, Document)| Some((id, serde_json::from_slice(&document.value).ok()?));
        return (200, Value::Object(documents.into_iter().filter_map(json).collect()).to_string());
    }
    let Some(["pools", "default", "buckets", bucket, "scopes", rest @ ..]) = segments.get(..) else {
        return (404, "{}".into());
    };
    let Some(found) = state.find(bucket.as_bytes()) else {
        return (404, "\"Requested resource not found.\"".into());
    };
    let manifest = &mut state.buckets[found].manifest;
    let changed = match (method, rest) {
        ("GET", []) => return (200, manifest.json().to_string()),
        ("POST", []) => manifest.create_scope(name),
        ("POST", [scope, "collections"]) => manifest.create_collection(scope, name),
        ("DELETE", [scope]) => manifest.drop_scope(scope),
        ("DELETE", [scope, "collections", collection]) => manifest.drop_collection(scope, collection),
        _ => return (404, "{}".into()),
    };
    let error = |code: u16, text: String| (code, serde_json::json!({"errors": {"_": text}}).to_string());
    let scope = rest.first().copied().unwrap_or(name);
    match changed {
        Ok(()) => (200, format!("{{\"uid\":\"{:x}\"}}", manifest.uid())),
        Err(Refused::ScopeExists) => error(400, format!("Scope with name \"{name}\" already exists")),
        Err(Refused::NoScope) => error(404, format!("Scope with name \"{scope}\" is not found")),
        Err(Refused::CollectionExists) => {
            error(400, format!("Collection with name \"{name}\" in scope \"{scope}\" already exists"))
        }
        Err(Refused::NoCollection) => error(404, format!("Collection in scope \"{scope}\" is not found")),
    }
}
