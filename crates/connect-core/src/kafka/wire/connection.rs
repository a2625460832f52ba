//! One connection to one broker: requests are sent without waiting for earlier answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::{sasl, transport};
use crate::budget::{Budget, Charge};
use crate::config::KafkaConfig;
use crate::kafka::error::KafkaError;
use crate::kafka::tls;
use crate::kafka::token::Tokens;

/// How long connecting and logging in may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a broker may pause within an answer.
const BODY_SILENCE: Duration = Duration::from_secs(15);
/// No answer is larger: what claims to be is not Kafka.
const MAX_FRAME: usize = 512 << 20;
/// Requests waiting to be written.
const QUEUE: usize = 256;
/// How much of a session is used. A broker hangs up on who asks for something after its end, so a new connection is made
/// before; the rest is for requests that are on their way.
const SESSION_USED: f64 = 0.8;

/// A connection, logged in. Dropping it closes it; every call fails once it broke.
pub struct BrokerConnection {
    address: String,
    versions: HashMap<i16, (i16, i16)>,
    requests: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    /// From then on another connection is to be made.
    used_until: Option<Instant>,
    task: tokio::task::JoinHandle<()>,
}

/// What the caller's side and the reading task both see.
struct Shared {
    pending: Mutex<Pending>,
    started: Instant,
    /// Milliseconds after `started` at which the broker last sent something.
    heard: AtomicU64,
    /// The reader waits for room in the budget: the broker's silence is not its fault.
    waiting_for_room: AtomicBool,
}

#[derive(Default)]
struct Pending {
    last_id: i32,
    waiting: HashMap<i32, Waiting>,
    broken: Option<String>,
}

struct Waiting {
    answer: oneshot::Sender<(Bytes, Charge)>,
    room: Option<Room>,
}

/// Room that an answer needs, taken before its body is read.
#[derive(Clone)]
pub struct Room {
    /// Where it is taken.
    pub budget: Arc<Budget>,
    /// What will be held for each KiB of the answer, in KiB: more than 1 for decompression and for what is made of the records.
    pub factor: f32,
}

impl BrokerConnection {
    /// Connects, asks for the versions that the broker speaks, and logs in.
    ///
    /// # Errors
    /// Transient when the broker cannot be reached, Fatal when it refuses us.
    pub(crate) async fn open(config: &KafkaConfig, tokens: &Tokens, address: &str) -> Result<Self, KafkaError> {
        let open = async {
            let stream = transport::open(config, address).await?;
            let mut connection = Self::over(stream, address);
            connection.learn_versions().await?;
            if config.security.sasl() {
                let begun = Instant::now();
                let session = sasl::log_in(&connection, config, tokens).await?;
                connection.used_until = session.map(|length| begun + length.mul_f64(SESSION_USED));
            }
            Ok(connection)
        };
        timeout(CONNECT_TIMEOUT, open).await.unwrap_or_else(|_| {
            Err(KafkaError::transient(
                "connection",
                format!("Kafka: {address} did not answer within {CONNECT_TIMEOUT:?} (CONNECT_KAFKA_BROKERS)"),
            ))
        })
    }

    fn over(stream: Box<dyn transport::Stream>, address: &str) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            started: Instant::now(),
            heard: AtomicU64::new(0),
            waiting_for_room: AtomicBool::new(false),
        });
        let (read, write) = tokio::io::split(stream);
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                let error = tokio::select! {
                    error = read_answers(read, &shared) => error,
                    error = write_requests(write, queue) => error,
                };
                shared.fail(&error.to_string());
            }
        });
        Self { address: address.to_owned(), versions: HashMap::new(), requests, shared, used_until: None, task }
    }

    async fn learn_versions(&mut self) -> Result<(), KafkaError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("connect"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let (body, _) = self.exchange(&request, 3, CONNECT_TIMEOUT, None).await?;
        // A broker that does not know this version says so in the oldest, which begins with the code, too.
        if body.first_chunk().is_some_and(|code| i16::from_be_bytes(*code) == ResponseError::UnsupportedVersion.code())
        {
            return Err(KafkaError::fatal(format!("Kafka: {} is too old: Kafka 2.8 or newer is needed", self.address)));
        }
        let answer = self.decode::<ApiVersionsRequest>(body, 3)?;
        self.versions = answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(())
    }

    /// The address that this connection was made to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether it can still be used: it did not break, and our session is not about to end.
    pub fn is_alive(&self) -> bool {
        self.used_until.is_none_or(|until| Instant::now() < until) && self.shared.pending().broken.is_none()
    }

    /// The highest version of a request that the broker and we speak, at most `newest`; `None` when there is none.
    pub fn version<R: Request>(&self, newest: i16) -> Option<i16> {
        let (oldest, broker) = *self.versions.get(&R::KEY)?;
        let version = newest.min(broker).min(R::VERSIONS.max);
        (version >= oldest && version >= R::VERSIONS.min).then_some(version)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Transient when the connection broke or the broker stayed silent for `limit`; Fatal when it does not know the request.
    pub async fn call<R: Request>(&self, request: &R, newest: i16, limit: Duration) -> Result<R::Response, KafkaError> {
        self.call_charged(request, newest, limit, None).await.map(|(answer, _)| answer)
    }

    /// Sends a request whose answer is charged to a budget before its body is read.
    ///
    /// # Errors
    /// As for [`call`](Self::call). Waiting for room is not the broker's silence and takes as long as it takes.
    pub async fn call_charged<R: Request>(
        &self,
        request: &R,
        newest: i16,
        limit: Duration,
        room: Option<Room>,
    ) -> Result<(R::Response, Charge), KafkaError> {
        let version = self.version::<R>(newest).ok_or_else(|| {
            KafkaError::fatal(format!(
                "Kafka: {} is too old or too new: it does not know request {}",
                self.address,
                R::KEY
            ))
        })?;
        let (body, charge) = self.exchange(request, version, limit, room).await?;
        Ok((self.decode::<R>(body, version)?, charge))
    }

    fn decode<R: Request>(&self, mut body: Bytes, version: i16) -> Result<R::Response, KafkaError> {
        let decode = |body: &mut Bytes| {
            // The correlation id was read with the frame; a flexible header has tagged fields behind it.
            if R::Response::header_version(version) > 0 {
                let mut header = BytesMut::new();
                header.put_i32(0);
                header.extend_from_slice(&body.split_to(tagged_fields_length(body)?));
                ResponseHeader::decode(&mut header.freeze(), 1)?;
            }
            R::Response::decode(body, version)
        };
        decode(&mut body).map_err(|error| {
            KafkaError::transient(
                "protocol",
                format!("Kafka: {} sent an answer that cannot be read: {error}", self.address),
            )
        })
    }

    async fn exchange<R: Request>(
        &self,
        request: &R,
        version: i16,
        limit: Duration,
        room: Option<Room>,
    ) -> Result<(Bytes, Charge), KafkaError> {
        let (answer, mut arrival) = oneshot::channel();
        let id = self.shared.expect(Waiting { answer, room }).map_err(|broken| self.broken(&broken))?;
        let frame = encode(request, version, id)
            .map_err(|error| KafkaError::fatal(format!("Kafka: request {} cannot be encoded: {error}", R::KEY)))?;
        if timeout(limit, self.requests.send(frame)).await.map_or(true, |sent| sent.is_err()) {
            return Err(self.broken("requests are not taken"));
        }
        let mut asked = Instant::now();
        loop {
            match timeout(limit, &mut arrival).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(_)) => {
                    let broken = self.shared.pending().broken.clone();
                    return Err(self.broken(broken.as_deref().unwrap_or("the connection was closed")));
                }
                // Answers come in order: as long as earlier ones arrive, or wait for room, ours is not late.
                Err(_) if self.shared.is_busy_since(asked) => asked = Instant::now(),
                Err(_) => {
                    let silence = format!("no answer within {limit:?}");
                    self.shared.fail(&silence);
                    self.task.abort();
                    return Err(self.broken(&silence));
                }
            }
        }
    }

    fn broken(&self, why: &str) -> KafkaError {
        // In TLS 1.3 a broker refuses our certificate only after the handshake.
        if let Some(advice) = tls::advice(why) {
            return KafkaError::fatal(format!("Kafka: {}: {advice} ({why})", self.address));
        }
        KafkaError::transient("connection", format!("Kafka: {}: {why} (CONNECT_KAFKA_BROKERS)", self.address))
    }
}

impl Drop for BrokerConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, waiting: Waiting) -> Result<i32, String> {
        let mut pending = self.pending();
        if let Some(broken) = &pending.broken {
            return Err(broken.clone());
        }
        pending.last_id = pending.last_id.wrapping_add(1);
        let id = pending.last_id;
        pending.waiting.insert(id, waiting);
        Ok(id)
    }

    /// Every waiting call fails, and every later one.
    fn fail(&self, why: &str) {
        let mut pending = self.pending();
        pending.broken.get_or_insert_with(|| why.to_owned());
        pending.waiting.clear();
    }

    fn hear(&self) {
        self.heard.store(self.started.elapsed().as_millis() as u64, Relaxed);
    }

    fn is_busy_since(&self, instant: Instant) -> bool {
        let since = instant.saturating_duration_since(self.started).as_millis() as u64;
        self.waiting_for_room.load(Relaxed) || self.heard.load(Relaxed) > since
    }
}

fn encode<R: Request>(request: &R, version: i16, id: i32) -> Result<Bytes, String> {
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(id)
        .with_client_id(Some(StrBytes::from_static_str("connect")));
    header.encode(&mut frame, R::header_version(version)).map_err(|error| error.to_string())?;
    request.encode(&mut frame, version).map_err(|error| error.to_string())?;
    let length = i32::try_from(frame.len() - 4).map_err(|error| error.to_string())?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// A response header of version 1 has nothing but tagged fields, and no broker sends any.
fn tagged_fields_length(body: &Bytes) -> Result<usize, std::io::Error> {
    match body.first() {
        Some(0) => Ok(1),
        _ => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "unexpected fields in the header")),
    }
}

async fn write_requests(mut stream: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Bytes>) -> std::io::Error {
    while let Some(frame) = queue.recv().await {
        let write = async {
            stream.write_all(&frame).await?;
            stream.flush().await
        };
        match timeout(BODY_SILENCE, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return std::io::Error::new(std::io::ErrorKind::TimedOut, "a request is not taken"),
        }
    }
    std::io::Error::new(std::io::ErrorKind::NotConnected, "closed")
}

async fn read_answers(stream: impl AsyncRead + Unpin, shared: &Shared) -> std::io::Error {
    let mut stream = BufReader::new(stream);
    loop {
        if let Err(error) = read_answer(&mut stream, shared).await {
            return error;
        }
    }
}

async fn read_answer(stream: &mut (impl AsyncRead + Unpin), shared: &Shared) -> std::io::Result<()> {
    let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let length = usize::try_from(stream.read_i32().await?).map_err(|_| invalid("an answer of negative length"))?;
    if !(4..=MAX_FRAME).contains(&length) {
        return Err(invalid("an answer of impossible length: is this a plaintext Kafka listener?"));
    }
    let id = timeout(BODY_SILENCE, stream.read_i32()).await??;
    shared.hear();
    let waiting = shared.pending().waiting.remove(&id).ok_or_else(|| invalid("an answer that nobody asked for"))?;
    let charge = match &waiting.room {
        Some(room) if !waiting.answer.is_closed() => {
            shared.waiting_for_room.store(true, Relaxed);
            let charge = room.budget.reserve((length as f32 * room.factor) as usize).await;
            shared.hear();
            shared.waiting_for_room.store(false, Relaxed);
            charge
        }
        _ => Charge::none(),
    };
    let mut body = BytesMut::with_capacity(length - 4);
    let mut missing = length - 4;
    while missing > 0 {
        let read = timeout(BODY_SILENCE, stream.read_buf(&mut (&mut body).limit(missing))).await??;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        missing -= read;
        shared.hear();
    }
    // Whoever asked may have given up meanwhile.
    let _ = waiting.answer.send((body.freeze(), charge));
    Ok(())
}
