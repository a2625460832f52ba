//! The error map (version 2) that tells clients what to do about statuses they don't know.

use serde_json::{Map, Value, json};

use crate::status;

/// Statuses with names and attributes, as the real server gives them.
const ERRORS: &[(u16, &str, &[&str])] = &[
    (status::SUCCESS, "SUCCESS", &["success"]),
    (status::NOT_FOUND, "KEY_ENOENT", &["item-only"]),
    (status::EXISTS, "KEY_EEXISTS", &["item-only"]),
    (status::TOO_BIG, "E2BIG", &["item-only", "invalid-input"]),
    (status::INVALID, "EINVAL", &["internal", "invalid-input"]),
    (status::NOT_STORED, "NOT_STORED", &["internal", "item-only"]),
    (status::BAD_DELTA, "DELTA_BADVAL", &["item-only", "invalid-input"]),
    (status::NOT_MY_VBUCKET, "NOT_MY_VBUCKET", &["fetch-config", "invalid-input"]),
    (status::NO_BUCKET, "NO_BUCKET", &["conn-state-invalidated"]),
    (status::LOCKED, "LOCKED", &["item-locked", "item-only", "retry-now"]),
    (status::NOT_LOCKED, "NOT_LOCKED", &["item-only"]),
    (status::AUTH_STALE, "AUTH_STALE", &["conn-state-invalidated", "auth"]),
    (status::AUTH_ERROR, "AUTH_ERROR", &["conn-state-invalidated", "auth"]),
    (status::AUTH_CONTINUE, "AUTH_CONTINUE", &["special-handling"]),
    (status::NO_ACCESS, "EACCESS", &["support"]),
    (status::RATE_LIMITED, "RATE_LIMITED_MAX_COMMANDS", &["temp", "retry-later", "rate-limit"]),
    (status::UNKNOWN_COMMAND, "UNKNOWN_COMMAND", &["support"]),
    (status::OUT_OF_MEMORY, "ENOMEM", &["temp", "retry-later"]),
    (status::NOT_SUPPORTED, "NOT_SUPPORTED", &["support"]),
    (status::INTERNAL, "EINTERNAL", &["internal", "conn-state-invalidated"]),
    (status::BUSY, "EBUSY", &["temp", "retry-now"]),
    (status::TEMPORARY, "ETMPFAIL", &["temp", "retry-now"]),
    (status::UNKNOWN_COLLECTION, "UNKNOWN_COLLECTION", &["invalid-input"]),
    (status::UNKNOWN_SCOPE, "UNKNOWN_SCOPE", &["invalid-input"]),
    (status::DURABILITY_INVALID, "DurabilityInvalidLevel", &["invalid-input"]),
    (status::DURABILITY_IMPOSSIBLE, "DurabilityImpossible", &["item-only", "invalid-input"]),
    (status::SYNC_WRITE_IN_PROGRESS, "SyncWriteInProgress", &["item-only", "retry-later"]),
    (status::SYNC_WRITE_AMBIGUOUS, "SyncWriteAmbiguous", &["item-only"]),
    (status::SYNC_WRITE_RECOMMIT, "SyncWriteReCommitInProgress", &["item-only", "retry-later"]),
    (status::PATH_NOT_FOUND, "SUBDOC_PATH_ENOENT", &["subdoc", "item-only"]),
    (status::PATH_MISMATCH, "SUBDOC_PATH_MISMATCH", &["subdoc", "item-only"]),
    (status::PATH_INVALID, "SUBDOC_PATH_EINVAL", &["subdoc", "invalid-input"]),
    (status::PATH_TOO_BIG, "SUBDOC_PATH_E2BIG", &["subdoc", "invalid-input"]),
    (status::VALUE_CANNOT_INSERT, "SUBDOC_VALUE_CANTINSERT", &["subdoc", "invalid-input"]),
    (status::NOT_JSON, "SUBDOC_DOC_NOTJSON", &["subdoc", "item-only"]),
    (status::NUMBER_RANGE, "SUBDOC_NUM_ERANGE", &["subdoc", "item-only"]),
    (status::DELTA_INVALID, "SUBDOC_DELTA_EINVAL", &["subdoc", "item-only"]),
    (status::PATH_EXISTS, "SUBDOC_PATH_EEXISTS", &["subdoc", "item-only"]),
    (status::MULTI_PATH_FAILURE, "SUBDOC_MULTI_PATH_FAILURE", &["subdoc", "special-handling"]),
    (status::SUCCESS_DELETED, "SUBDOC_SUCCESS_DELETED", &["subdoc", "success"]),
];

/// The map as JSON text.
pub fn error_map() -> Vec<u8> {
    let entry = |(status, name, attributes): &(u16, &str, &[&str])| {
        (format!("{status:x}"), json!({"name": name, "desc": name, "attrs": attributes}))
    };
    let errors: Map<String, Value> = ERRORS.iter().map(entry).collect();
    json!({"version": 2, "revision": 4, "errors": errors}).to_string().into_bytes()
}
