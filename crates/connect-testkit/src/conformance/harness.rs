//! What a sink's author gives.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use connect_core::{Connector, Context, Record, Settings, Sink, SinkError};

/// What a store holds: value by key. Values are compared as JSON where both sides are JSON, else byte by byte.
pub type Dump = BTreeMap<Vec<u8>, Vec<u8>>;

/// Connects the checks to a sink and to its store. [`harness`] makes one of two functions.
pub trait Harness {
    /// The sink to be checked.
    type Sink: Sink;

    /// Makes the sink as a process does at its start. Called several times for one place: each time is a new process. Where it connects
    /// at once it gives up, with `Transient`, where the store does not answer within a few seconds; it may as well connect in `check` and `write`.
    ///
    /// # Errors
    /// What the sink's own constructor says.
    fn connect(&self, place: &Place) -> impl Future<Output = Result<Self::Sink, SinkError>>;

    /// Everything that is stored at the place now: value by key, as the sink's reader would find it. Goes to the store directly,
    /// not through a proxy.
    fn dump(&self, place: &Place) -> impl Future<Output = Dump>;

    /// What the sink promises beyond what every sink must: replays and late requests do no harm, and tombstones delete, unless
    /// it says otherwise.
    fn promises(&self) -> &[Promise] {
        &[Promise::Guarded, Promise::Deletes]
    }

    /// The store's own address, for a proxy to stand before it. Without one, the checks of the network are not made.
    fn address(&self) -> Option<SocketAddr> {
        None
    }

    /// Makes of a good record one that `prepare` takes and that the store itself refuses, and arranges at the place whatever
    /// that needs: a key of another type, a mapping that the value breaks. `None` when there is no such thing.
    fn poison(&self, place: &Place, record: Record) -> impl Future<Output = Option<Record>> {
        let _ = (place, record);
        async { None }
    }

    /// Makes of a good record one that the store puts off for a moment: its document is locked, a queue is full. `None` when there is no
    /// such thing, or the sink is atomic, and so never answers `Retry`.
    fn push_back(&self, place: &Place, record: Record) -> impl Future<Output = Option<Record>> {
        let _ = (place, record);
        async { None }
    }

    /// What the store must hold once these records are written. The last value of each key, unless a sink accumulates.
    fn expect(&self, records: &[Record]) -> Dump {
        let mut dump = Dump::new();
        for record in records {
            let Some(key) = &record.key else { continue };
            match &record.value {
                Some(value) => dump.insert(key.to_vec(), value.to_vec()),
                None => dump.remove(&key[..]),
            };
        }
        dump
    }
}

/// A [`Harness`] of two functions; see [`harness`].
#[derive(Debug)]
pub struct Functions<K, C, D> {
    connect: C,
    dump: D,
    promises: &'static [Promise],
    address: Option<SocketAddr>,
    sink: PhantomData<fn() -> K>,
}

/// Makes a harness of [`Harness::connect`] and [`Harness::dump`].
pub fn harness<K, C, D>(connect: C, dump: D) -> Functions<K, C, D>
where
    K: Sink,
    C: AsyncFn(&Place) -> Result<K, SinkError>,
    D: AsyncFn(&Place) -> Dump,
{
    Functions { connect, dump, promises: &[Promise::Guarded, Promise::Deletes], address: None, sink: PhantomData }
}

impl<K, C, D> Functions<K, C, D> {
    /// The sink promises this, neither more nor less.
    #[must_use]
    pub fn promising(self, promises: &'static [Promise]) -> Self {
        Self { promises, ..self }
    }

    /// The store has this address: the checks of the network are made, too. `connect` goes to `Place::through` then, where
    /// that is given; `dump` never does.
    #[must_use]
    pub fn at(self, address: SocketAddr) -> Self {
        Self { address: Some(address), ..self }
    }
}

impl<K, C, D> Harness for Functions<K, C, D>
where
    K: Sink,
    C: AsyncFn(&Place) -> Result<K, SinkError>,
    D: AsyncFn(&Place) -> Dump,
{
    type Sink = K;

    async fn connect(&self, place: &Place) -> Result<K, SinkError> {
        (self.connect)(place).await
    }

    async fn dump(&self, place: &Place) -> Dump {
        (self.dump)(place).await
    }

    fn promises(&self) -> &[Promise] {
        self.promises
    }

    fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

/// Makes the sink of a connector as its binary does, with the place's name as `CONNECT_NAME`.
///
/// # Errors
/// [`SinkError::Fatal`] with what the connector says, as in its binary: a [`Connector::sink`] that connects fails the checks of the network.
pub async fn start<C: Connector>(config: C::Config, place: &Place) -> Result<C::Sink, SinkError> {
    let context = Context { name: place.name.clone(), epoch: 0, topics: Vec::new(), settings: Settings::default() };
    C::sink(config, context).await.map_err(SinkError::fatal)
}

/// A part of the store that belongs to one check.
#[derive(Clone, Debug)]
pub struct Place {
    /// Unique to the check: letters, digits and `-`, starting with a letter; SQL wants it in quotes. Use it as the prefix of keys, the index, the collection, and as
    /// `CONNECT_NAME`.
    pub name: String,
    /// Connect to this address in place of the store's own.
    pub through: Option<SocketAddr>,
    /// Connect with a password that is not the right one.
    pub wrong_password: bool,
}

impl Place {
    /// A place that nobody used before.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let name = format!("check-{:x}-{}", run & 0xff_ffff_ffff, COUNT.fetch_add(1, Relaxed));
        Self { name, through: None, wrong_password: false }
    }

    /// The same place by another way.
    pub(crate) fn through(&self, address: SocketAddr) -> Self {
        Self { through: Some(address), ..self.clone() }
    }
}

/// What not every store can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// An older write, replayed or late, never changes what a newer one left.
    Guarded,
    /// Data and offset change in one step: `resume` is exact.
    KeepsOffsets,
    /// A process that lost its partition can't write any more: it gets `OutOfStep`.
    Fenced,
    /// A tombstone deletes.
    Deletes,
    /// A wrong password is refused: `connect` gives one where [`Place::wrong_password`] says so.
    Authenticates,
}
