//! A small Elasticsearch client for tests, demo and benchmark: a request, its answer as JSON.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use elasticsearch::{
    auth::{ClientCertificate, Credentials},
    cert::{Certificate, CertificateValidation},
    http::{
        Method, Url,
        headers::{CONTENT_TYPE, HeaderMap, HeaderValue},
        transport::{SingleNodeConnectionPool, Transport, TransportBuilder},
    },
};
use serde_json::Value;

use crate::certificates::Certificates;

/// A server on this machine answers within this time or is broken.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// One node of a cluster.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// A client without credentials; nothing is sent yet.
    ///
    /// # Errors
    /// The URL isn't one.
    pub fn new(url: &str) -> Result<Self> {
        Self::build(url, Ok)
    }

    /// A client with credentials and a certificate of its own.
    ///
    /// # Errors
    /// The URL isn't one, or a certificate can't be read.
    pub fn secured(url: &str, credentials: Credentials, certificates: &Certificates) -> Result<Self> {
        let read = |file: PathBuf| std::fs::read(&file).with_context(|| format!("can't read {}", file.display()));
        let authority = Certificate::from_pem(&read(certificates.authority())?)?;
        let own = [read(certificates.client_key())?, read(certificates.client())?].concat();
        let client = Self::build(url, |builder| {
            Ok(builder
                .auth(Credentials::Certificate(ClientCertificate::Pem(own)))
                .cert_validation(CertificateValidation::Full(authority)))
        })?;
        // The certificate stays: it belongs to the connection, these to the request.
        client.transport.set_auth(credentials);
        Ok(client)
    }

    fn build(url: &str, add: impl FnOnce(TransportBuilder) -> Result<TransportBuilder>) -> Result<Self> {
        let url = Url::parse(url).with_context(|| format!("{url} is no URL"))?;
        let builder = TransportBuilder::new(SingleNodeConnectionPool::new(url)).disable_proxy().timeout(ANSWER_WITHIN);
        Ok(Self { transport: add(builder)?.build()? })
    }

    /// Sends a request; the status and the answer, which is `null` if it isn't JSON.
    ///
    /// # Errors
    /// No answer.
    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<(u16, Value)> {
        let body: Bytes = body.into();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if path.contains("_bulk") {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        }
        let body = (!body.is_empty()).then_some(body);
        let answer = self
            .transport
            .send(method, path, headers, None::<&()>, body, None)
            .await
            .with_context(|| format!("{method:?} {path}: no answer"))?;
        let status = answer.status_code().as_u16();
        let answer = answer.bytes().await.with_context(|| format!("{method:?} {path}: the answer was cut off"))?;
        Ok((status, serde_json::from_slice(&answer).unwrap_or_default()))
    }

    /// Sends a request that has to succeed.
    ///
    /// # Errors
    /// It doesn't; the message has the answer.
    pub async fn ask(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Value> {
        let (status, answer) = self.send(method, path, body).await?;
        if status >= 300 {
            bail!("{method:?} {path} was answered with {status}: {answer}");
        }
        Ok(answer)
    }

    /// The document with this id; `None` if there is none.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub async fn document(&self, index: &str, id: &str) -> Result<Option<Value>> {
        let (status, mut answer) = self.send(Method::Get, &format!("{index}/_doc/{id}"), "").await?;
        match status {
            200 => Ok(Some(answer["_source"].take())),
            404 => Ok(None),
            _ => bail!("the document {id} of {index} can't be had ({status}): {answer}"),
        }
    }

    /// Makes what was written visible to searches, and counts the documents.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub async fn count(&self, index: &str) -> Result<u64> {
        self.ask(Method::Post, &format!("{index}/_refresh"), "").await?;
        let answer = self.ask(Method::Get, &format!("{index}/_count"), "").await?;
        answer["count"].as_u64().with_context(|| format!("no count in {answer}"))
    }
}
