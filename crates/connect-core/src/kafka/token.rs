//! Tokens for OAUTHBEARER: from a file, or from an identity provider in exchange for our credentials (the client
//! credentials grant, RFC 6749, section 4.4).

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::KafkaError;
use super::tls;
use crate::config::KafkaConfig;

/// How long the provider may take. Shorter than what connecting to a broker may take as a whole.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// An answer is not longer: what is no token should not fill the memory.
const LONGEST_ANSWER: usize = 1 << 20;
/// How much of a token's life it is used for: who gets it last must still have time to present it.
const USED_FOR: f64 = 0.8;

/// Where tokens come from. One that the provider gave is kept and shared by all connections until it is nearly over.
#[derive(Default)]
pub(crate) struct Tokens {
    kept: Mutex<Option<(SecretString, Instant)>>,
}

/// RFC 6749, section 5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// Seconds.
    expires_in: Option<u64>,
}

/// RFC 6749, section 5.2.
#[derive(Default, Deserialize)]
struct Refused {
    #[serde(default)]
    error: String,
}

impl Tokens {
    /// A token that is valid now.
    ///
    /// # Errors
    /// Transient when the provider can't be reached or the file can't be read, Fatal when the provider refuses us.
    pub(crate) async fn get(&self, config: &KafkaConfig) -> Result<SecretString, KafkaError> {
        if let Some(file) = &config.sasl_token_file {
            return from_file(file).await;
        }
        // Whoever comes meanwhile waits for the token that is being asked for.
        let mut kept = self.kept.lock().await;
        if let Some((token, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let granted = ask(config).await?;
        let token = SecretString::from(granted.access_token);
        *kept = granted.expires_in.map(|seconds| {
            let used_for = Duration::from_secs(seconds).mul_f64(USED_FOR);
            (token.clone(), Instant::now() + used_for)
        });
        Ok(token)
    }
}

/// Read for each login: a token that was rotated on disk counts from the next connection on.
async fn from_file(file: &Path) -> Result<SecretString, KafkaError> {
    let unreadable = |why: &str| {
        // It was there when the configuration was read: someone is just writing it anew.
        KafkaError::transient("token", format!("CONNECT_KAFKA_SASL_TOKEN_FILE: {}: {why}", file.display()))
    };
    let token = tokio::fs::read_to_string(file).await.map_err(|error| unreadable(&error.to_string()))?;
    match token.trim() {
        "" => Err(unreadable("it is empty")),
        token => Ok(token.into()),
    }
}

async fn ask(config: &KafkaConfig) -> Result<Granted, KafkaError> {
    let (Some(url), Some(id), Some(secret)) = (&config.sasl_token_url, &config.sasl_username, &config.sasl_password)
    else {
        return Err(KafkaError::fatal(
            "CONNECT_KAFKA_SASL_MECHANISM=oauthbearer needs CONNECT_KAFKA_SASL_TOKEN_FILE, or CONNECT_KAFKA_SASL_TOKEN_URL \
             with CONNECT_KAFKA_SASL_USERNAME and CONNECT_KAFKA_SASL_PASSWORD",
        ));
    };
    let unreachable = |error: reqwest::Error| {
        // The innermost cause says what happened; the address is in front of it already.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        KafkaError::transient("token", format!("CONNECT_KAFKA_SASL_TOKEN_URL: {} gives no token: {cause}", url.0))
    };
    // A client for each token: certificates that were rotated on disk are read again, and an hour is a long time to keep
    // a connection.
    let client = Client::builder()
        .use_preconfigured_tls(tls::provider_config(config)?)
        .timeout(REQUEST_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(unreachable)?;
    let mut form = vec![("grant_type", "client_credentials")];
    form.extend(config.sasl_scope.as_deref().map(|scope| ("scope", scope)));
    let request = client.post(url.0.clone()).basic_auth(id, Some(secret.expose_secret())).form(&form);
    let mut answer = request.send().await.map_err(unreachable)?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(unreachable)? {
        if body.len() + part.len() > LONGEST_ANSWER {
            break;
        }
        body.extend_from_slice(&part);
    }
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|_| {
            KafkaError::transient(
                "token",
                format!(
                    "CONNECT_KAFKA_SASL_TOKEN_URL: {} answers without an access_token: is it a token endpoint?",
                    url.0
                ),
            )
        });
    }
    Err(refusal(url.0.as_str(), status, serde_json::from_slice(&body).unwrap_or_default()))
}

/// Only what the provider says of us for good is fatal: an overloaded one answers again later.
fn refusal(url: &str, status: StatusCode, refused: Refused) -> KafkaError {
    let code: String = refused.error.chars().filter(char::is_ascii_graphic).take(80).collect();
    let text = format!("CONNECT_KAFKA_SASL_TOKEN_URL: {url} answers {status} {code}");
    match status {
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
            KafkaError::fatal(format!(
                "{}: check CONNECT_KAFKA_SASL_USERNAME (client id), CONNECT_KAFKA_SASL_PASSWORD (client secret) and \
                 CONNECT_KAFKA_SASL_SCOPE",
                text.trim_end()
            ))
        }
        _ => KafkaError::transient("token", text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Section;
    use axum::http::{HeaderMap, StatusCode as Status};
    use axum::routing::post;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    /// A provider that knows one client, and counts how often it is asked.
    async fn provider(seconds: u64) -> (String, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let answer = move |headers: HeaderMap, form: String| async move {
            let number = count.fetch_add(1, SeqCst) + 1;
            // "me:s3cret" in base64.
            if headers.get("authorization").is_none_or(|value| value != "Basic bWU6czNjcmV0") {
                return (Status::UNAUTHORIZED, r#"{"error":"invalid_client"}"#.to_owned());
            }
            if form != "grant_type=client_credentials&scope=kafka" {
                return (Status::SERVICE_UNAVAILABLE, String::new());
            }
            (Status::OK, format!(r#"{{"access_token":"token-{number}","expires_in":{seconds}}}"#))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/token", listener.local_addr().expect("an address"));
        let router = axum::Router::new().route("/token", post(answer)).route("/page", post(async || "hello"));
        tokio::spawn(async { axum::serve(listener, router).await });
        (url, asked)
    }

    fn config(url: &str, secret: &str, scope: &str) -> KafkaConfig {
        KafkaConfig::from_pairs(&[
            ("CONNECT_KAFKA_BROKERS", "127.0.0.1:9092"),
            ("CONNECT_KAFKA_TOPICS", "t"),
            ("CONNECT_KAFKA_SECURITY", "sasl_tls"),
            ("CONNECT_KAFKA_SASL_MECHANISM", "oauthbearer"),
            ("CONNECT_KAFKA_SASL_TOKEN_URL", url),
            ("CONNECT_KAFKA_SASL_USERNAME", "me"),
            ("CONNECT_KAFKA_SASL_PASSWORD", secret),
            ("CONNECT_KAFKA_SASL_SCOPE", scope),
        ])
        .unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[tokio::test]
    async fn a_token_is_kept_while_it_is_valid() {
        let (url, asked) = provider(3600).await;
        let (tokens, config) = (Tokens::default(), config(&url, "s3cret", "kafka"));
        for _ in 0..3 {
            assert_eq!(tokens.get(&config).await.expect("a token").expose_secret(), "token-1");
        }
        assert_eq!(asked.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn a_token_that_is_over_is_asked_for_anew() {
        let (url, _) = provider(0).await;
        let (tokens, config) = (Tokens::default(), config(&url, "s3cret", "kafka"));
        assert_eq!(tokens.get(&config).await.expect("a token").expose_secret(), "token-1");
        assert_eq!(tokens.get(&config).await.expect("a token").expose_secret(), "token-2");
    }

    #[tokio::test]
    async fn a_refusal_is_fatal_where_rskafka_logs_in_too() {
        let (url, _) = provider(3600).await;
        let connection = crate::kafka::Connection::new(config(&url, "wr0ng", "kafka"));
        let error = connection.client().await.map(drop).expect_err("refused");
        assert!(matches!(error, KafkaError::Fatal(_)), "{error}");
    }

    #[tokio::test]
    async fn a_wrong_secret_is_fatal_and_not_shown_and_trouble_passes() {
        let (url, _) = provider(3600).await;
        let tokens = Tokens::default();
        let error = tokens.get(&config(&url, "wr0ng", "kafka")).await.expect_err("refused");
        let text = error.to_string();
        assert!(matches!(error, KafkaError::Fatal(_)), "{text}");
        assert!(text.contains("invalid_client") && text.contains("CONNECT_KAFKA_SASL_PASSWORD"), "{text}");
        assert!(!text.contains("wr0ng"), "{text}");

        let busy = tokens.get(&config(&url, "s3cret", "other")).await.expect_err("503");
        assert!(matches!(busy, KafkaError::Transient { .. }), "{busy}");
        let page = tokens.get(&config(&url.replace("token", "page"), "s3cret", "kafka")).await.expect_err("a page");
        assert!(page.to_string().contains("access_token"), "{page}");
        let nobody = tokens.get(&config("http://127.0.0.1:1/token", "s3cret", "kafka")).await.expect_err("nobody");
        assert!(matches!(nobody, KafkaError::Transient { .. }), "{nobody}");
        assert!(nobody.to_string().contains("127.0.0.1:1"), "{nobody}");
    }

    #[tokio::test]
    async fn a_file_is_read_again_each_time() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "first\n").expect("written");
        let config = KafkaConfig::from_pairs(&[
            ("CONNECT_KAFKA_BROKERS", "127.0.0.1:9092"),
            ("CONNECT_KAFKA_TOPICS", "t"),
            ("CONNECT_KAFKA_SECURITY", "sasl_plaintext"),
            ("CONNECT_KAFKA_SASL_MECHANISM", "oauthbearer"),
            ("CONNECT_KAFKA_SASL_TOKEN_FILE", file.path().to_str().expect("UTF-8")),
        ])
        .expect("valid");
        let tokens = Tokens::default();
        assert_eq!(tokens.get(&config).await.expect("a token").expose_secret(), "first");
        std::fs::write(file.path(), "second").expect("written");
        assert_eq!(tokens.get(&config).await.expect("a token").expose_secret(), "second");
        std::fs::write(file.path(), "").expect("written");
        assert!(matches!(tokens.get(&config).await, Err(KafkaError::Transient { .. })), "it is being written");
    }
}
