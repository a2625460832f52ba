//! Looks at user, bucket and collections on a connection of its own, for the client itself never says what is missing: it
//! tries again for ever.

use std::sync::Arc;

use connect_core::SinkError;
use couchbase_core::address::Address;
use couchbase_core::authenticator::Authenticator;
use couchbase_core::memdx::auth_mechanism::AuthMechanism;
use couchbase_core::memdx::client::Client;
use couchbase_core::memdx::connection::{ConnectOptions, ConnectionType, TcpConnection, TlsConnection};
use couchbase_core::memdx::dispatcher::{Dispatcher, DispatcherOptions};
use couchbase_core::memdx::error::{Error, ErrorKind, ServerErrorKind};
use couchbase_core::memdx::hello_feature::HelloFeature;
use couchbase_core::memdx::op_auth_saslauto::{Credentials, SASLAuthAutoOptions};
use couchbase_core::memdx::op_bootstrap::{BootstrapOptions, OpBootstrap};
use couchbase_core::memdx::ops_core::OpsCore;
use couchbase_core::memdx::ops_util::OpsUtil;
use couchbase_core::memdx::request::{GetCollectionIdRequest, HelloRequest, SelectBucketRequest};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{Bucket, Way};
use crate::errors::{self, Failure};
use crate::keyspace::Keyspace;

/// Looks, at the first node that answers, for as long as one answer may take.
///
/// # Errors
/// What is missing, or that no node answers.
pub(crate) async fn look(way: &Way, bucket: Option<&Bucket>, keyspaces: &[Arc<Keyspace>]) -> Result<(), SinkError> {
    let deadline = Instant::now() + way.timeout;
    let mut silent = Vec::new();
    for seed in &way.seeds {
        // A node that is down must not use up the time of the others.
        let share = way.timeout / way.seeds.len().max(1) as u32;
        match timeout(share, connect(way, seed, deadline)).await {
            Ok(Ok(client)) => {
                let found = timeout_at(deadline, look_at(way, &client, bucket, keyspaces, deadline)).await;
                let _ = timeout_at(deadline, client.close()).await;
                let late = || SinkError::transient("timeout", format!("{seed} takes connections but does not answer"));
                return found.unwrap_or_else(|_| Err(late()));
            }
            Ok(Err(error)) => silent.push(format!("{seed}: {error}")),
            Err(_) => silent.push(format!("{seed}: no answer within {share:?}")),
        }
    }
    let nodes = silent.join("; ");
    Err(SinkError::transient("connection", format!("no node of CONNECT_COUCHBASE_URL can be reached: {nodes}")))
}

async fn connect(way: &Way, seed: &Address, deadline: Instant) -> Result<Client, Error> {
    let options = ConnectOptions { deadline, tcp_keep_alive_time: way.timeout };
    let connection = match &way.tls {
        Some(tls) => ConnectionType::Tls(TlsConnection::connect(seed.clone(), Arc::clone(tls), options).await?),
        None => ConnectionType::Tcp(TcpConnection::connect(seed.clone(), options).await?),
    };
    let (closed, _) = tokio::sync::oneshot::channel();
    let options = DispatcherOptions {
        unsolicited_packet_handler: Arc::new(|_| Box::pin(async {})),
        orphan_handler: None,
        on_read_close_tx: closed,
        disable_decompression: false,
        id: "check".to_owned(),
    };
    Ok(Client::new(connection, options))
}

async fn look_at(
    way: &Way,
    client: &Client,
    bucket: Option<&Bucket>,
    keyspaces: &[Arc<Keyspace>],
    deadline: Instant,
) -> Result<(), SinkError> {
    let features = vec![HelloFeature::Xerror, HelloFeature::SelectBucket, HelloFeature::Collections];
    let options = BootstrapOptions {
        hello: Some(HelloRequest::new(b"connect-check".to_vec(), features)),
        get_error_map: None,
        auth: credentials(way),
        select_bucket: None,
        deadline,
        get_cluster_config: None,
    };
    OpBootstrap::bootstrap(OpsCore {}, client, options)
        .await
        .map_err(|error| said(&error, SinkError::fatal(errors::WRONG_CREDENTIALS)))?;
    let Some(Bucket { name: bucket, needed }) = bucket else { return Ok(()) };
    let options = BootstrapOptions {
        hello: None,
        get_error_map: None,
        auth: None,
        select_bucket: Some(SelectBucketRequest::new(bucket.to_string())),
        deadline,
        get_cluster_config: None,
    };
    OpBootstrap::bootstrap(OpsCore {}, client, options).await.map_err(|error| {
        let missing = format!("there is no bucket {bucket}, or the user may not use it: see CONNECT_COUCHBASE_BUCKET");
        // A record can't stop the others by a name that it made up.
        said(&error, if *needed { SinkError::fatal(missing) } else { SinkError::transient("no_bucket", missing) })
    })?;
    for keyspace in keyspaces {
        let Keyspace { scope, collection, .. } = &**keyspace;
        let request = GetCollectionIdRequest::new(scope, collection);
        let missing = || {
            SinkError::fatal(format!("there is no collection {scope}.{collection} in the bucket {bucket}: create it"))
        };
        let answer = OpsUtil {}.get_collection_id(client, request).await;
        let mut answer = answer.map_err(|error| said(&error, missing()))?;
        answer.recv().await.map_err(|error| said(&error, missing()))?;
    }
    Ok(())
}

fn credentials(way: &Way) -> Option<SASLAuthAutoOptions> {
    let Authenticator::PasswordAuthenticator(user) = &way.authenticator else { return None };
    let enabled_mechs = if way.tls.is_some() {
        vec![AuthMechanism::Plain]
    } else {
        vec![AuthMechanism::ScramSha512, AuthMechanism::ScramSha256, AuthMechanism::ScramSha1]
    };
    let credentials = Credentials::UserPass { username: user.username.clone(), password: user.password.clone() };
    Some(SASLAuthAutoOptions { credentials, enabled_mechs })
}

/// What an answer means at this step, where "no access" and "not found" mean `missing`.
fn said(error: &Error, missing: SinkError) -> SinkError {
    let kind = match error.kind() {
        ErrorKind::Server(error) => Some(error.kind()),
        ErrorKind::Resource(error) => Some(error.cause().kind()),
        _ => None,
    };
    match kind {
        Some(
            ServerErrorKind::Auth { .. }
            | ServerErrorKind::Access
            | ServerErrorKind::KeyNotFound
            | ServerErrorKind::UnknownBucketName
            | ServerErrorKind::UnknownScopeName
            | ServerErrorKind::UnknownCollectionName
            | ServerErrorKind::UnknownCollectionID,
        ) => missing,
        _ => match errors::of_memdx(error) {
            Failure::Error(error) => error,
            _ => SinkError::transient("couchbase", format!("Couchbase said: {error}")),
        },
    }
}
