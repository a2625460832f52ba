//! Kafka brokers on loopback that answer as a test tells them to.
//!
//! Without a script they do what a cluster does for one client: an in-memory log, leaders with epochs, one consumer group
//! (whatever its name, and with one member) by both protocols, committed offsets, fetch sessions. A script makes the next
//! answers to a kind of request wrong, and the journal tells what was asked, of which broker, and when.
//!
//! ```no_run
//! # async fn test() -> std::io::Result<()> {
//! use connect_core::TopicPartition;
//! use connect_testkit::broker::{ApiKey, Brokers, Fault, ResponseError};
//!
//! let brokers = Brokers::start(2).await?;
//! brokers.create_topic("orders", 1);
//! // The first two fetches are refused, whoever is asked; the third is answered.
//! brokers.script(ApiKey::Fetch, 2, Fault::EachPartition(ResponseError::KafkaStorageError));
//! // … the client reads from brokers.bootstrap() …
//! brokers.asked(ApiKey::Fetch, 3).await;
//! // And now another broker leads.
//! brokers.move_leader(&TopicPartition::new("orders", 0), 1);
//! # Ok(())
//! # }
//! ```

mod answers;
mod fetch;
mod state;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use connect_core::TopicPartition;
use connect_core::kafka::batch::Draft;
pub use kafka_protocol::error::ResponseError;
pub use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::{Request, decode_request_header_from_buffer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use answers::Say;
use state::State;

/// As often as needed, for [`Brokers::script`].
pub const FOREVER: usize = usize::MAX;
/// How long a test waits for a request before it fails.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_FRAME: usize = 64 << 20;

/// What a broker does in place of an answer, or to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The answer is this error: of the whole request where the answer has a place for that, else of each of its topics or
    /// partitions.
    Whole(ResponseError),
    /// The answer says this of each partition; of the whole request where it has no partitions.
    EachPartition(ResponseError),
    /// The right answer, which says that the client is throttled; the broker takes nothing more from this connection for
    /// so long, as brokers do (KIP-219).
    Throttle(Duration),
    /// The right answer, this much later.
    Delay(Duration),
    /// No answer ever, on a connection that stays open.
    Silence,
    /// The connection is closed instead of an answer.
    Close,
    /// Half of the right answer, and the connection is closed.
    CutOff,
    /// The right answer to a question that nobody asked.
    WrongId,
    /// An answer of the right length and id, whose content is nonsense.
    Garbage,
    /// What a web server would say.
    NotKafka,
}

/// A request as a broker got it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who was asked.
    pub node: i32,
    /// What kind of request.
    pub api: ApiKey,
    /// Its version.
    pub version: i16,
    /// When it arrived.
    pub at: Instant,
    /// What the script had for it.
    pub fault: Option<Fault>,
    body: Bytes,
}

impl Asked {
    /// The request itself.
    ///
    /// # Panics
    /// It is of another kind.
    pub fn request<R: Request>(&self) -> R {
        assert_eq!(R::KEY, self.api as i16, "a request of another kind");
        R::decode(&mut self.body.clone(), self.version).expect("a request that can be read")
    }
}

struct Shared {
    state: Mutex<State>,
    scripts: Mutex<HashMap<ApiKey, VecDeque<(usize, Fault)>>>,
    journal: watch::Sender<Vec<Asked>>,
    /// Counts what was appended and moved, for those who wait for news.
    news: watch::Sender<u64>,
}

/// Brokers that live until this is dropped. Their node ids count from 0.
pub struct Brokers {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    tasks: Vec<AbortHandle>,
}

impl Brokers {
    /// Starts so many brokers on free ports of loopback. Broker 0 leads what is created, and coordinates the group.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(count: usize) -> io::Result<Self> {
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        }
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(addresses.clone())),
            scripts: Mutex::default(),
            journal: watch::Sender::default(),
            news: watch::Sender::default(),
        });
        let serve = |(node, listener)| tokio::spawn(accept(listener, node, Arc::clone(&shared))).abort_handle();
        let tasks = (0..).zip(listeners).map(serve).collect();
        Ok(Self { shared, addresses, tasks })
    }

    /// The address of broker 0, for `CONNECT_KAFKA_BROKERS`.
    pub fn bootstrap(&self) -> String {
        self.addresses[0].to_string()
    }

    /// Creates a topic, or makes it anew.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.change(|state| state.create_topic(topic, partitions));
    }

    /// Appends one batch; says where it begins.
    ///
    /// # Panics
    /// There is no such partition.
    pub fn append(&self, partition: &TopicPartition, drafts: &[Draft]) -> i64 {
        let batch = connect_core::kafka::batch::encode(drafts);
        self.change(|state| state.log(partition).expect("a partition").append(&batch))
    }

    /// From now on this broker leads the partition, in the next epoch.
    ///
    /// # Panics
    /// There is no such partition.
    pub fn move_leader(&self, partition: &TopicPartition, node: i32) {
        self.change(|state| state.log(partition).expect("a partition").lead_by(node));
    }

    /// From now on the leaders send readers to this broker, which holds everything too.
    pub fn prefer(&self, replica: Option<i32>) {
        self.change(|state| state.preferred = replica);
    }

    /// From now on this broker coordinates the group.
    pub fn move_coordinator(&self, node: i32) {
        self.change(|state| state.coordinator = node);
    }

    /// From now on a fetch that asks for a session gets one; those that are open end.
    pub fn keep_sessions(&self, keep: bool) {
        self.change(|state| state.sessions.keep(keep));
    }

    /// From now on new connections are told that this kind of request is not known, as by an older broker.
    pub fn hide(&self, api: ApiKey) {
        self.change(|state| state.hidden.push(api));
    }

    /// What is committed for a partition: the offset, and the text beside it.
    pub fn committed(&self, partition: &TopicPartition) -> Option<(i64, String)> {
        self.state().committed.get(partition).cloned()
    }

    /// Commits as another program would.
    pub fn commit(&self, partition: &TopicPartition, offset: i64) {
        self.change(|state| state.committed.insert(partition.clone(), (offset, String::new())));
    }

    /// The next so many requests of this kind end so, behind those that are scripted already.
    pub fn script(&self, api: ApiKey, times: usize, fault: Fault) {
        lock(&self.shared.scripts).entry(api).or_default().push_back((times, fault));
    }

    /// Every request so far, in order.
    pub fn journal(&self) -> Vec<Asked> {
        self.shared.journal.borrow().clone()
    }

    /// The requests of this kind, once there are at least so many.
    ///
    /// # Panics
    /// There are not so many within a minute.
    pub async fn asked(&self, api: ApiKey, at_least: usize) -> Vec<Asked> {
        let count = |all: &[Asked]| all.iter().filter(|asked| asked.api == api).count();
        let mut all = self.until(&format!("{at_least} of {api:?}"), |all| count(all) >= at_least).await;
        all.retain(|asked| asked.api == api);
        all
    }

    /// The journal, once it is as it is waited for.
    ///
    /// # Panics
    /// It is not within a minute.
    pub async fn until(&self, what: &str, is_so: impl Fn(&[Asked]) -> bool) -> Vec<Asked> {
        let mut journal = self.shared.journal.subscribe();
        let seen = timeout(PATIENCE, journal.wait_for(|all| is_so(all))).await;
        let seen = seen.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
        seen.expect("the sender is ours").clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.shared.news.send_modify(|count| *count += 1);
        changed
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn accept(listener: TcpListener, node: i32, shared: Arc<Shared>) {
    // Dropped with this task: connections don't outlive their broker.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        // Whatever ends a connection, its client sees the end.
        connections.spawn(async move { serve(stream, node, shared).await.ok() });
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one request after the other, as brokers do.
async fn serve(mut stream: TcpStream, node: i32, shared: Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let length = stream.read_i32().await?;
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME).ok_or_else(unreadable)?;
        let mut frame = vec![0; length];
        stream.read_exact(&mut frame).await?;
        let mut body = Bytes::from(frame);
        let header = decode_request_header_from_buffer(&mut body).map_err(|_| unreadable())?;
        let api = ApiKey::try_from(header.request_api_key).map_err(|()| unreadable())?;
        let fault = scripted(&shared, api);
        let asked = Asked { node, api, version: header.request_api_version, at: Instant::now(), fault, body };
        shared.journal.send_modify(|journal| journal.push(asked.clone()));

        match fault {
            Some(Fault::Silence) => return std::future::pending().await,
            Some(Fault::Close) => return Ok(()),
            Some(Fault::NotKafka) => return stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
            Some(Fault::Delay(delay)) => sleep(delay).await,
            _ => {}
        }
        let mut answer = answer(&shared, &asked, Say::from(fault)).await.ok_or_else(unreadable)?;
        let mut id = header.correlation_id;
        match fault {
            Some(Fault::WrongId) => id ^= 0x5555,
            // Numbers that are too large for the rest, but not so large that kafka-protocol asks for memory for them.
            Some(Fault::Garbage) => answer.fill(0x7f),
            _ => {}
        }
        let mut frame = BytesMut::new();
        frame.put_i32(answer.len() as i32 + 4);
        frame.put_i32(id);
        frame.put(answer);
        if fault == Some(Fault::CutOff) {
            return stream.write_all(&frame[..frame.len() / 2]).await;
        }
        stream.write_all(&frame).await?;
        if let Some(Fault::Throttle(time)) = fault {
            sleep(time).await;
        }
    }
}

/// What the script has for this request, if anything.
fn scripted(shared: &Shared, api: ApiKey) -> Option<Fault> {
    let mut scripts = lock(&shared.scripts);
    let script = scripts.get_mut(&api)?;
    let (times, fault) = script.front_mut()?;
    let fault = *fault;
    *times = if *times == FOREVER { FOREVER } else { *times - 1 };
    if *times == 0 {
        script.pop_front();
    }
    Some(fault)
}

/// The answer's bytes behind the correlation id.
async fn answer(shared: &Shared, asked: &Asked, say: Say) -> Option<BytesMut> {
    if asked.api != ApiKey::Fetch {
        return lock(&shared.state).answer(asked, say);
    }
    let request: FetchRequest = asked.request();
    let until = asked.at + Duration::from_millis(request.max_wait_ms.unsigned_abs().into());
    let fetch = lock(&shared.state).open_fetch(asked.node, &request, say);
    loop {
        let mut news = shared.news.subscribe();
        let response = lock(&shared.state).fetch(&fetch, say);
        if request.min_bytes <= 0 || fetch::has_news(&response) || Instant::now() >= until {
            return answers::encode::<FetchRequest>(&response, asked.version);
        }
        // Woken by news, or the time is up: either way there is an answer to be made.
        let _ = timeout_at(until, news.changed()).await;
    }
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no request that is known here")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
