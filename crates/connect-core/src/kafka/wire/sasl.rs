//! Presenting our credentials to a broker.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::prelude::{Mechname, SASLClient, SASLConfig, SessionError};
use rsasl::property::{OAuthBearerKV, OAuthBearerToken};
use secrecy::{ExposeSecret, SecretString};

use super::connection::BrokerConnection;
use crate::config::{KafkaConfig, SaslMechanism};
use crate::kafka::error::KafkaError;
use crate::kafka::token::Tokens;

const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Logs in on a fresh connection. Says how long the broker lets us use it: with `connections.max.reauth.ms`, or as long as
/// our token is valid (KIP-368). `None` when there is no end.
pub(super) async fn log_in(
    connection: &BrokerConnection,
    config: &KafkaConfig,
    tokens: &Tokens,
) -> Result<Option<Duration>, KafkaError> {
    let Some(mechanism) = config.sasl_mechanism.map(SaslMechanism::name) else {
        return Err(KafkaError::no_credentials());
    };
    let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
    let answer = connection.call(&handshake, 1, STEP_TIMEOUT).await?;
    if answer.error_code != 0 {
        let offered: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
        return Err(KafkaError::fatal(format!(
            "Kafka: the broker does not take CONNECT_KAFKA_SASL_MECHANISM={mechanism}; it offers {}",
            offered.join(", ")
        )));
    }
    let unusable = |error: &dyn std::fmt::Display| {
        KafkaError::fatal(format!(
            "Kafka: CONNECT_KAFKA_SASL_USERNAME and CONNECT_KAFKA_SASL_PASSWORD cannot be used with {mechanism}: {error}"
        ))
    };
    let name = Mechname::parse(mechanism.as_bytes()).map_err(|error| unusable(&error))?;
    let client = SASLClient::new(credentials(config, tokens).await?);
    let mut session = client.start_suggested(&[name]).map_err(|error| unusable(&error))?;
    let mut received: Option<Bytes> = None;
    let mut length = None;
    loop {
        let mut message = Cursor::new(Vec::new());
        let state = session.step(received.as_deref(), &mut message).map_err(|error| refused(&error.to_string()))?;
        if state.has_sent_message() {
            let step = SaslAuthenticateRequest::default().with_auth_bytes(message.into_inner().into());
            let answer = connection.call(&step, 2, STEP_TIMEOUT).await?;
            match ResponseError::try_from_code(answer.error_code) {
                None => {
                    received = Some(answer.auth_bytes);
                    let millis = u64::try_from(answer.session_lifetime_ms).unwrap_or(0);
                    length = Some(Duration::from_millis(millis)).filter(|length| !length.is_zero());
                }
                Some(ResponseError::SaslAuthenticationFailed) => {
                    return Err(refused(answer.error_message.as_deref().unwrap_or("authentication failed")));
                }
                Some(error) => return Err(KafkaError::transient("login", format!("Kafka: login: {error:?}"))),
            }
        }
        if state.is_finished() {
            return Ok(length);
        }
    }
}

fn refused(why: &str) -> KafkaError {
    KafkaError::fatal(format!(
        "Kafka refuses the credentials: check CONNECT_KAFKA_SASL_USERNAME, CONNECT_KAFKA_SASL_PASSWORD and \
         CONNECT_KAFKA_SASL_MECHANISM, or the token ({why})"
    ))
}

async fn credentials(config: &KafkaConfig, tokens: &Tokens) -> Result<Arc<SASLConfig>, KafkaError> {
    let built = if config.sasl_mechanism == Some(SaslMechanism::OauthBearer) {
        SASLConfig::builder().with_default_mechanisms().with_callback(Token(tokens.get(config).await?))
    } else {
        let (Some(username), Some(password)) = (&config.sasl_username, &config.sasl_password) else {
            return Err(KafkaError::no_credentials());
        };
        SASLConfig::with_credentials(None, username.clone(), password.expose_secret().to_owned())
    };
    built.map_err(|error| KafkaError::fatal(format!("Kafka: login cannot be set up: {error}")))
}

struct Token(SecretString);

impl SessionCallback for Token {
    fn callback(&self, _: &SessionData, _: &Context<'_>, request: &mut Request<'_>) -> Result<(), SessionError> {
        request.satisfy::<OAuthBearerKV>(&[])?.satisfy::<OAuthBearerToken>(self.0.expose_secret())?;
        Ok(())
    }
}
