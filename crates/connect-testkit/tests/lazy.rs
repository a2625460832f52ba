//! A sink may connect only when it is checked or writes: the checks of the network are fair to it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use connect_core::{Batch, Outcome, Record, Rejection, Sink, SinkError};
use connect_testkit::conformance::{Finding, Place, Report, conformance, harness};
use connect_testkit::store::{Effect, Guard, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A store in memory that is written once a server has said yes.
struct Lazy {
    store: Store,
    server: SocketAddr,
}

impl Lazy {
    async fn ask(&self) -> Result<(), SinkError> {
        let gone = |error: io::Error| SinkError::transient("connection", error.to_string());
        let mut server = TcpStream::connect(self.server).await.map_err(gone)?;
        server.write_all(b"?").await.map_err(gone)?;
        server.read_u8().await.map(drop).map_err(gone)
    }
}

impl Sink for Lazy {
    type Op = <Store as Sink>::Op;

    fn prepare(&self, record: &Record) -> Result<Option<Self::Op>, Rejection> {
        self.store.prepare(record)
    }

    fn target<'a>(&self, op: &'a Self::Op) -> Option<&'a [u8]> {
        self.store.target(op)
    }

    async fn write(&self, batch: &Batch<Self::Op>) -> Result<Outcome, SinkError> {
        self.ask().await?;
        self.store.write(batch).await
    }

    async fn check(&self) -> Result<(), SinkError> {
        self.ask().await
    }
}

/// A server that says yes to every byte.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it has an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move { while client.read_u8().await.is_ok() && client.write_u8(b'!').await.is_ok() {} });
        }
    });
    address
}

async fn report(through: bool) -> Report {
    let address = server().await;
    let stores = Mutex::new(BTreeMap::<String, Store>::new());
    let at = |place: &Place| {
        let mut stores = stores.lock().expect("nobody panics with it");
        stores.entry(place.name.clone()).or_insert_with(|| Store::new(Guard::PerKey, Effect::Put)).clone()
    };
    let connect = async |place: &Place| {
        let server = place.through.filter(|_| through).unwrap_or(address);
        Ok(Lazy { store: at(place), server })
    };
    let dump = async |place: &Place| at(place).dump();
    conformance(&harness(connect, dump).at(address)).await
}

#[tokio::test]
async fn a_sink_that_connects_when_it_writes_conforms() {
    report(true).await.assert();
}

#[tokio::test]
async fn one_that_goes_around_the_proxy_is_told_so() {
    let report = report(false).await;
    let around =
        |(_, finding): &&(_, Finding)| matches!(finding, Finding::Failed(why) if why.contains("around the proxy"));
    assert_eq!(report.findings().iter().filter(around).count(), 6, "{report}");
}
