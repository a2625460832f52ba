//! What Couchbase and its client say when something goes wrong, and what that means for the record.

use std::time::Duration;

use connect_core::{Rejection, SinkError};
use couchbase_core::error::{Error, ErrorKind};
use couchbase_core::memdx;
use couchbase_core::memdx::error::{CancellationErrorKind, ServerErrorKind, SubdocErrorKind};
use couchbase_core::memdx::status::Status;

/// Why an operation did not happen, or may not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no such document.
    Absent,
    /// The document is there already, or is not the one that was expected.
    Conflict,
    /// The record can never be written.
    Rejected(Rejection),
    /// It may pass, or a person must change something.
    Error(SinkError),
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

fn transient(reason: &'static str, message: impl Into<String>) -> Failure {
    Failure::Error(SinkError::transient(reason, message))
}

fn fatal(message: impl Into<String>) -> Failure {
    Failure::Error(SinkError::fatal(message))
}

fn rejected(reason: impl Into<String>) -> Failure {
    Failure::Rejected(Rejection::new(reason))
}

/// No answer within the time that one has.
pub fn timed_out(timeout: Duration) -> Failure {
    transient(
        "timeout",
        format!(
            "Couchbase did not answer within CONNECT_COUCHBASE_TIMEOUT={timeout:?}: a node is down or slow, or the collection \
             does not exist (`check` tells)"
        ),
    )
}

/// What an error of the client means. Its text is not passed on: it holds the document's id.
pub fn of(error: &Error) -> Failure {
    match error.kind() {
        ErrorKind::Memdx(error) => of_memdx(error),
        ErrorKind::NoVbucketMap
        | ErrorKind::VbucketMapOutdated
        | ErrorKind::NoServerAssigned { .. }
        | ErrorKind::NoEndpointsAvailable
        | ErrorKind::EndpointNotKnown { .. }
        | ErrorKind::Shutdown => transient("no_node", format!("no node serves the document now: {error}")),
        ErrorKind::FeatureNotAvailable { feature, .. } => fatal(format!("this Couchbase lacks {feature}")),
        _ => transient("couchbase", format!("the Couchbase client said: {}", shortened(&error.to_string()))),
    }
}

/// What an error of one connection means.
pub fn of_memdx(error: &memdx::error::Error) -> Failure {
    use memdx::error::ErrorKind::{Cancelled, ConnectionFailed, Dispatch, InvalidArgument, Io, Resource, Server};
    match error.kind() {
        Server(error) => of_server(error.kind()),
        Resource(error) => of_server(error.cause().kind()),
        Cancelled(CancellationErrorKind::ClosedInFlight) => {
            transient("connection", "the connection was lost while Couchbase was at it")
        }
        Dispatch { .. } | ConnectionFailed { .. } | Io | Cancelled(_) => {
            transient("connection", "no connection to a node")
        }
        InvalidArgument { msg, .. } => {
            transient("couchbase", format!("the Couchbase client refuses the request: {msg}"))
        }
        _ => transient("couchbase", "the Couchbase client failed in a way that is not known"),
    }
}

/// Whether all that is wrong is that the document has nothing at the path.
pub fn nothing_at_path(error: &memdx::error::Error) -> bool {
    let memdx::error::ErrorKind::Server(error) = error.kind() else { return false };
    matches!(error.kind(), ServerErrorKind::Subdoc { error } if error.is_error_kind(SubdocErrorKind::PathNotFound))
}

fn of_server(kind: &ServerErrorKind) -> Failure {
    use ServerErrorKind as Kind;
    match kind {
        Kind::KeyNotFound | Kind::NotStored => Failure::Absent,
        Kind::KeyExists | Kind::CasMismatch => Failure::Conflict,
        Kind::TooBig => rejected("the document would be larger than Couchbase takes (20 MiB)"),
        Kind::BadDelta => rejected("the document is no number"),
        Kind::Locked => transient("locked", "another client holds a lock on the document"),
        Kind::TmpFail => {
            transient("busy", "Couchbase asks to come again: it is warming up, or short of memory or disk")
        }
        Kind::Busy => transient("busy", "Couchbase is busy"),
        Kind::InternalError => transient("internal", "Couchbase had an internal error: see its own log"),
        Kind::NotMyVbucket | Kind::ConfigNotSet => transient("no_node", "the document is moving to another node"),
        Kind::SyncWriteInProgress | Kind::SyncWriteRecommitInProgress => {
            transient("durability", "an earlier durable write of the document has not ended yet")
        }
        Kind::SyncWriteAmbiguous => transient("durability", "Couchbase could not make a write durable in time"),
        Kind::DurabilityImpossible => transient(
            "durability",
            "too few nodes are up for CONNECT_COUCHBASE_DURABILITY: a node is down, or the bucket has more copies than the \
             cluster has nodes",
        ),
        Kind::DurabilityInvalid => fatal("this bucket can't do CONNECT_COUCHBASE_DURABILITY: choose another level"),
        Kind::Access => fatal(NO_ACCESS),
        Kind::Auth { .. } => fatal(WRONG_CREDENTIALS),
        Kind::AuthStale | Kind::NoBucket => transient("connection", "the connection has lost its user or bucket"),
        Kind::UnknownBucketName => fatal("there is no such bucket: see CONNECT_COUCHBASE_BUCKET"),
        Kind::UnknownScopeName | Kind::UnknownCollectionName | Kind::UnknownCollectionID => {
            transient("no_collection", "there is no such scope or collection: create it")
        }
        Kind::RateLimitedNetworkIngress
        | Kind::RateLimitedNetworkEgress
        | Kind::RateLimitedMaxConnections
        | Kind::RateLimitedMaxCommands => transient("rate_limited", "Couchbase limits the rate of this user"),
        Kind::RateLimitedScopeSizeLimitExceeded => transient("full", "the scope has reached its size limit"),
        Kind::NotSupported | Kind::UnknownCommand => fatal(NOT_SUPPORTED),
        Kind::Subdoc { error } => of_part(error.kind()),
        Kind::UnknownStatus { status } => of_status(*status),
        _ => transient("couchbase", format!("Couchbase said: {kind}")),
    }
}

fn of_status(status: Status) -> Failure {
    match status {
        Status::OutOfMemory => transient("out_of_memory", "Couchbase is out of memory: raise the bucket's quota"),
        Status::Busy => transient("busy", "Couchbase is busy"),
        Status::TmpFail => transient("busy", "Couchbase asks to come again"),
        Status::InternalError => transient("internal", "Couchbase had an internal error: see its own log"),
        Status::NotInitialized => transient("busy", "the node is not ready yet"),
        Status::TooBig => rejected("the document would be larger than Couchbase takes (20 MiB)"),
        Status::AccessError => fatal(NO_ACCESS),
        Status::AuthError => fatal(WRONG_CREDENTIALS),
        Status::NotSupported | Status::CommandUnknown => fatal(NOT_SUPPORTED),
        status => transient("couchbase", format!("Couchbase said: {status}")),
    }
}

/// What went wrong with a part of a document.
fn of_part(kind: &SubdocErrorKind) -> Failure {
    use SubdocErrorKind as Kind;
    let reason = match kind {
        Kind::PathNotFound => "the document has nothing at CONNECT_COUCHBASE_PATH",
        Kind::PathMismatch => "what the document has at CONNECT_COUCHBASE_PATH is of another type",
        Kind::NotJSON => "the document is no JSON",
        Kind::CantInsert => "the value can't stand at CONNECT_COUCHBASE_PATH, or the sum does not fit 64 bits",
        Kind::BadRange => "the number at CONNECT_COUCHBASE_PATH does not fit 64 bits",
        Kind::BadDelta => "the amount does not fit 64 bits",
        Kind::DocTooDeep | Kind::ValueTooDeep => "the document would be nested deeper than Couchbase takes",
        Kind::PathExists => "the document has something at CONNECT_COUCHBASE_PATH already",
        Kind::PathInvalid | Kind::PathTooBig => return fatal("CONNECT_COUCHBASE_PATH is no path for this action"),
        Kind::UnknownStatus { status } => return of_status(*status),
        kind => return transient("couchbase", format!("Couchbase said: {kind:?}")),
    };
    rejected(reason)
}

const NOT_SUPPORTED: &str =
    "this bucket can't do what is asked: it needs a bucket of type Couchbase, version 7 or newer";

/// For whoever may not write.
pub const NO_ACCESS: &str = "the user may not write here: it needs the role Application Access (bucket_full_access) on \
    CONNECT_COUCHBASE_BUCKET; Data Writer is enough only with CONNECT_COUCHBASE_GUARD=off";

/// For whoever is not known.
pub const WRONG_CREDENTIALS: &str =
    "Couchbase refuses the credentials: check CONNECT_COUCHBASE_USERNAME and CONNECT_COUCHBASE_PASSWORD";

/// Enough to search for.
fn shortened(text: &str) -> &str {
    let end = text.char_indices().nth(120).map_or(text.len(), |(at, _)| at);
    &text[..end]
}
