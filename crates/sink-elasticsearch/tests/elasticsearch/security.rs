//! TLS on both sides, users, keys, tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use connect_core::{Sink, SinkError};
use elasticsearch::http::Method::{Post, Put};
use sink_elasticsearch::ElasticsearchSink;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};
use xtask::certificates::Certificates;
use xtask::effort;
use xtask::services::elasticsearch::{PASSWORD, READER, VERSION_8, VERSION_9, WRITER};
use xtask::services::{Elasticsearch, ElasticsearchOptions};

use crate::support::{record, sink, unique, write};

/// A server that lets nobody in without a certificate.
pub async fn secured() -> &'static Elasticsearch {
    static SERVER: OnceCell<Elasticsearch> = OnceCell::const_new();
    SERVER.get_or_init(|| start(VERSION_9)).await
}

async fn secured_8() -> &'static Elasticsearch {
    static SERVER: OnceCell<Elasticsearch> = OnceCell::const_new();
    SERVER.get_or_init(|| start(VERSION_8)).await
}

async fn start(version: &str) -> Elasticsearch {
    let version = Some(version.to_owned());
    let options = ElasticsearchOptions { version, secured: true, ..ElasticsearchOptions::default() };
    Elasticsearch::start(options).await.unwrap()
}

/// Runs a test on each version that has its turn.
async fn every_secured(test: impl AsyncFn(&'static Elasticsearch)) {
    test(secured().await).await;
    if effort::full() {
        println!("Elasticsearch {VERSION_8}");
        test(secured_8().await).await;
    }
}

/// A sink that the server talks to, with these credentials.
pub fn certified(server: &Elasticsearch, settings: &[(&str, &str)]) -> ElasticsearchSink {
    let files = server.certificates().unwrap();
    let (ca, cert, key) = (text(&files.authority()), text(&files.client()), text(&files.client_key()));
    let common = [("CA_FILE", ca.as_str()), ("CERT_FILE", &cert), ("KEY_FILE", &key)];
    sink(&server.url(), &[&common[..], settings].concat())
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

async fn works(sink: &ElasticsearchSink, offset: i64) {
    sink.check().await.unwrap();
    let document = format!(r#"{{"new-{offset}":1}}"#);
    assert_eq!(write(sink, &[record(offset, "a", &document)]).await.unwrap().exceptions(), []);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn the_privileges_of_the_documentation_are_enough_and_those_that_are_missing_are_told() {
    every_secured(async |server| {
        let index = unique("connect-secured");
        let user = |name: &str, more: &[(&str, &str)]| {
            let common = [("INDEX", index.as_str()), ("USERNAME", name), ("PASSWORD", PASSWORD)];
            certified(server, &[&common[..], more].concat())
        };
        // It makes the index and maps new fields.
        let writer = user(WRITER, &[]);
        works(&writer, 0).await;
        assert_eq!(write(&writer, &[crate::support::tombstone(1, "a")]).await.unwrap().exceptions(), []);

        let elsewhere = user(WRITER, &[("INDEX", "elsewhere"), ("TEMPLATE_FILE", "/dev/null")]);
        for reader in [user(READER, &[]), elsewhere] {
            let error = reader.check().await.unwrap_err();
            let SinkError::Fatal(message) = &error else { panic!("{error}") };
            for part in ["create_doc on ", "index on ", "delete on ", "auto_configure on "] {
                assert!(message.contains(part), "{message}");
            }
        }
        let error = write(&user(READER, &[]), &[record(1, "a", "{}")]).await.unwrap_err();
        assert!(matches!(&error, SinkError::Fatal(message) if message.contains("docs/elasticsearch.md")), "{error}");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn who_is_not_known_is_fatal_and_no_secret_is_told() {
    every_secured(async |server| {
        for settings in [
            &[][..],
            &[("USERNAME", WRITER), ("PASSWORD", "wrong-secret")],
            &[("API_KEY", "id:wrong-secret")],
            &[("TOKEN", "wrong-secret")],
        ] {
            let stranger = certified(server, settings);
            for error in
                [stranger.check().await.unwrap_err(), write(&stranger, &[record(1, "a", "{}")]).await.unwrap_err()]
            {
                assert!(matches!(&error, SinkError::Fatal(_)), "{settings:?}: {error}");
                assert!(error.to_string().contains("CONNECT_ELASTICSEARCH_USERNAME"), "{error}");
                assert!(!error.to_string().contains("wrong-secret"), "{error}");
            }
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn keys_and_tokens_open() {
    every_secured(async |server| {
        let client = server.client().unwrap();
        let index = unique("connect-keyed");
        let made = client.ask(Put, "_security/api_key", r#"{"name":"connector"}"#).await.unwrap();
        let pair = format!("{}:{}", made["id"].as_str().unwrap(), made["api_key"].as_str().unwrap());
        for (offset, key) in [(1, pair.as_str()), (2, made["encoded"].as_str().unwrap())] {
            works(&certified(server, &[("INDEX", &index), ("API_KEY", key)]), offset).await;
        }
        // A service account, which may write to indices that begin with `logs-`, and read none.
        let path = format!("_security/service/elastic/fleet-server/credential/token/{}", unique("token"));
        let made = client.ask(Post, &path, "").await.unwrap();
        let (index, token) = (unique("logs-keyed"), made["token"]["value"].as_str().unwrap());
        works(&certified(server, &[("INDEX", &index), ("VERSION", "timestamp"), ("TOKEN", token)]), 3).await;
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn neither_side_takes_a_certificate_that_it_does_not_know() {
    every_secured(async |server| {
        let files = server.certificates().unwrap();
        let user = [("USERNAME", WRITER), ("PASSWORD", PASSWORD)];
        let trusting = sink(&server.url(), &user);
        let error = write(&trusting, &[record(1, "a", "{}")]).await.unwrap_err();
        assert!(matches!(&error, SinkError::Transient { message, .. } if message.contains("certificate")), "{error}");
        let ca = text(&files.authority());
        let anonymous = sink(&server.url(), &[&user[..], &[("CA_FILE", &ca)]].concat());
        let error = write(&anonymous, &[record(1, "a", "{}")]).await.unwrap_err();
        assert!(matches!(&error, SinkError::Transient { reason: "connection", .. }), "{error}");
    })
    .await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn renewed_certificates_are_taken_up_without_a_restart() {
    every_secured(async |server| {
        let ours = server.certificates().unwrap();
        let directory = TempDir::new().unwrap();
        let strangers = Certificates::in_directory(&directory.path().join("strangers")).unwrap();
        // Each side has to know the other.
        renewed(server, [ours.authority(), strangers.client(), strangers.client_key()]).await;
        renewed(server, [strangers.authority(), ours.client(), ours.client_key()]).await;
    })
    .await;
}

/// Begins with these files, and goes on with the right ones.
async fn renewed(server: &Elasticsearch, first: [PathBuf; 3]) {
    let files = server.certificates().unwrap();
    let directory = TempDir::new().unwrap();
    let paths = ["ca.crt", "tls.crt", "tls.key"].map(|name| directory.path().join(name));
    let replace = |by: &[PathBuf; 3]| {
        // One that stays is not touched.
        for (by, path) in by.iter().zip(&paths) {
            if fs::read(path).ok() != fs::read(by).ok() {
                fs::copy(by, path).unwrap();
            }
        }
    };
    replace(&first);
    let index = unique("connect-renewed");
    let [ca, cert, key] = paths.each_ref().map(|path| text(path));
    let settings = [
        ("INDEX", index.as_str()),
        ("USERNAME", WRITER),
        ("PASSWORD", PASSWORD),
        ("CA_FILE", &ca),
        ("CERT_FILE", &cert),
        ("KEY_FILE", &key),
    ];
    let sink = sink(&server.url(), &settings);
    let records = [record(0, "a", "{}")];
    let error = write(&sink, &records).await.unwrap_err();
    assert!(matches!(&error, SinkError::Transient { reason: "connection", .. }), "{error}");
    replace(&[files.authority(), files.client(), files.client_key()]);
    let written = async {
        while write(&sink, &records).await.is_err() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(60), written).await.expect("the new certificates are used");
    assert_eq!(server.client().unwrap().count(&index).await.unwrap(), 1);
}
