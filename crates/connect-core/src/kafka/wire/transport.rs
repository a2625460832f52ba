//! The byte stream to a broker: TCP, with TLS around it where the settings say so.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::KafkaConfig;
use crate::kafka::error::KafkaError;
use crate::kafka::tls;

/// A stream of bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to `host:port`. The caller bounds it in time.
pub(super) async fn open(config: &KafkaConfig, address: &str) -> Result<Box<dyn Stream>, KafkaError> {
    let tcp = TcpStream::connect(address).await.map_err(|error| unreachable(address, &error))?;
    // Requests are small and each is awaited: waiting for more to send only delays them.
    tcp.set_nodelay(true).map_err(|error| unreachable(address, &error))?;
    if !config.security.tls() {
        return Ok(Box::new(tcp));
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| {
        KafkaError::fatal(format!("Kafka: {address}: {host} is not a name that a certificate can have: {error}"))
    })?;
    let connector = TlsConnector::from(tls::settled_client_config(config).await?);
    match connector.connect(name, tcp).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(match tls::advice(&error.to_string()) {
            Some(advice) => KafkaError::fatal(format!("Kafka: {address}: {advice} ({error})")),
            None => unreachable(address, &error),
        }),
    }
}

fn unreachable(address: &str, error: &std::io::Error) -> KafkaError {
    let hint = tls::hint(&error.to_string());
    let message = format!("Kafka: {address} cannot be reached (CONNECT_KAFKA_BROKERS): {error}{hint}");
    KafkaError::transient("connection", message)
}
