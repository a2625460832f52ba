//! TLS, users, keys, certificates.

use connect_core::{Sink, SinkError};
use elasticsearch::http::Method::Put;
use xtask::services::elasticsearch::{ADMINISTRATOR, PASSWORD, READER, WRITER};
use xtask::services::{Elasticsearch, ElasticsearchOptions};

use crate::support::{record, sink, unique, write};

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn who_may_write_does_and_who_may_not_is_told_what_is_missing() {
    let options = ElasticsearchOptions { secured: true, ..ElasticsearchOptions::default() };
    let server = Elasticsearch::start(options).await.unwrap();
    let certificates = server.certificates().unwrap();
    let path = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (ca, cert, key) =
        (path(certificates.authority()), path(certificates.client()), path(certificates.client_key()));
    let index = unique("connect-secured");
    let url = server.url();
    let with = |settings: &[(&str, &str)]| {
        let common = [("INDEX", index.as_str()), ("CA_FILE", &ca)];
        sink(&url, &[&common[..], settings].concat())
    };

    let writer = with(&[("USERNAME", WRITER), ("PASSWORD", PASSWORD)]);
    writer.check().await.unwrap();
    assert_eq!(write(&writer, &[record(0, "a", "{}")]).await.unwrap().exceptions(), []);

    let reader = with(&[("USERNAME", READER), ("PASSWORD", PASSWORD)]);
    let error = reader.check().await.unwrap_err();
    assert!(
        matches!(&error, SinkError::Fatal(message) if message.contains("create_doc on connect-secured")),
        "{error}"
    );
    let error = write(&reader, &[record(1, "a", "{}")]).await.unwrap_err();
    assert!(matches!(&error, SinkError::Fatal(message) if message.contains("docs/elasticsearch.md")), "{error}");

    for settings in [
        &[][..],
        &[("USERNAME", ADMINISTRATOR), ("PASSWORD", "wrong-password")],
        &[("API_KEY", "a:b")],
        &[("TOKEN", "t")],
    ] {
        let stranger = with(settings);
        for error in [stranger.check().await.unwrap_err(), write(&stranger, &[record(1, "a", "{}")]).await.unwrap_err()]
        {
            assert!(matches!(&error, SinkError::Fatal(_)), "{settings:?}: {error}");
            assert!(!error.to_string().contains("wrong-password"), "{error}");
        }
    }

    let made = server.client().unwrap().ask(Put, "_security/api_key", r#"{"name":"connector"}"#).await.unwrap();
    let pair = format!("{}:{}", made["id"].as_str().unwrap(), made["api_key"].as_str().unwrap());
    for (offset, key) in [(1, pair.as_str()), (2, made["encoded"].as_str().unwrap())] {
        let keyed = with(&[("API_KEY", key)]);
        keyed.check().await.unwrap();
        assert_eq!(write(&keyed, &[record(offset, "a", "{}")]).await.unwrap().exceptions(), []);
    }

    // The client's certificate goes with the credentials, not in their place.
    let certified =
        with(&[("USERNAME", WRITER), ("PASSWORD", PASSWORD), ("CERT_FILE", cert.as_str()), ("KEY_FILE", key.as_str())]);
    assert_eq!(write(&certified, &[record(3, "a", "{}")]).await.unwrap().exceptions(), []);

    let trusting = sink(&url, &[("INDEX", &index), ("USERNAME", WRITER), ("PASSWORD", PASSWORD)]);
    let error = write(&trusting, &[record(4, "a", "{}")]).await.unwrap_err();
    assert!(matches!(&error, SinkError::Transient { message, .. } if message.contains("certificate")), "{error}");
}
