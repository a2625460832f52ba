//! What a sink does when the network or the store fails it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use connect_core::{Record, Sink, SinkError};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::feed::{Process, failed, pause, recurring};
use super::harness::{Harness, Place, Promise};
use super::report::{Checked, Obstacle, Run};
use crate::proxy::{Fault, Proxy};

/// A call that a fault keeps from ending is dropped after this time, as the framework does with `CONNECT_WRITE_TIMEOUT`.
const SHORT: Duration = Duration::from_secs(3);
/// What must happen at once on loopback has happened within this time.
const SOON: Duration = Duration::from_secs(10);

pub(super) async fn run<H: Harness>(run: &mut Run<'_>, harness: &H) {
    run.promised(Promise::Authenticates, "a wrong password is Fatal", wrong_password(harness)).await;
    run.must("a refused connection is Transient", refused_connection(harness)).await;
    run.must("a connection reset before applying", cut(harness, Fault::ResetOnRequest)).await;
    run.must("a connection reset after applying", cut(harness, Fault::ResetOnAnswer)).await;
    run.must("a connection closed after applying", cut(harness, Fault::CloseOnAnswer)).await;
    run.must("a store that answers nothing", cut(harness, Fault::BlackHole)).await;
    run.must("answers in slices of 7 bytes", slices(harness)).await;
    run.promised(Promise::Guarded, "a late request lands after newer ones", late_request(harness)).await;
}

/// A process that reaches its store through a proxy, and has written these: a sink may connect as late as that.
async fn through_proxy<'a, H: Harness>(
    harness: &'a H,
    records: &[Record],
) -> Result<(Proxy, Process<'a, H>), Obstacle> {
    let address = address(harness)?;
    let proxy = Proxy::start(address).await.map_err(|error| failed(error.to_string()))?;
    let mut process = Process::start(harness, &Place::new().through(proxy.address())).await?;
    process.write(records).await?;
    if proxy.connections() == 0 {
        let what = "write went around the proxy: `connect` must give the sink the address in `Place::through`, where there is one";
        return Err(failed(what.to_owned()));
    }
    Ok((proxy, process))
}

fn address<H: Harness>(harness: &H) -> Result<SocketAddr, Obstacle> {
    harness.address().ok_or(Obstacle::NotPromised("the harness gives no address for a proxy to stand before"))
}

async fn wrong_password<H: Harness>(harness: &H) -> Checked {
    let place = Place { wrong_password: true, ..Place::new() };
    let answer = match harness.connect(&place).await {
        Ok(sink) => timeout(SOON, sink.check()).await.map_err(|_| failed("check takes for ever".to_owned()))?,
        Err(error) => Err(error),
    };
    match answer {
        Err(SinkError::Fatal(_)) => Ok(()),
        other => Err(failed(format!("the answer was {other:?}"))),
    }
}

async fn refused_connection<H: Harness>(harness: &H) -> Checked {
    address(harness)?;
    // A port that was free a moment ago, and that nobody listens on.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.and_then(|listener| listener.local_addr());
    let place = Place::new().through(free.map_err(|error| failed(error.to_string()))?);
    let answer = match timeout(SOON * 3, harness.connect(&place)).await {
        Ok(Ok(sink)) => timeout(SOON, sink.check()).await.map_err(|_| failed("check takes for ever".to_owned()))?,
        Ok(Err(error)) => Err(error),
        Err(_) => return Err(failed("connect takes for ever where nobody listens".to_owned())),
    };
    match answer {
        Err(SinkError::Transient { .. }) => Ok(()),
        Ok(()) => Err(failed("nobody listens, and neither connect nor check says so".to_owned())),
        Err(error) => Err(failed(format!(
            "nobody listens, and the answer was {error:?}. What `Connector::sink` returns is always Fatal: connect in check and write"
        ))),
    }
}

/// A write under a fault fails for a moment and claims nothing; once the fault is lifted it works, and all ends right.
async fn cut<H: Harness>(harness: &H, fault: Fault) -> Checked {
    let records = recurring(30);
    let (proxy, mut process) = through_proxy(harness, &records[..10]).await?;
    proxy.set(fault);
    let batch = process.batch_of(&records[10..20]);
    match timeout(SHORT, process.sink.write(&batch)).await {
        Err(_) | Ok(Err(SinkError::Transient { .. })) => {}
        Ok(Ok(_)) => return Err(failed("write said it worked, and no answer can have arrived".to_owned())),
        Ok(Err(error)) => return Err(failed(format!("write took a failing network for {error:?}"))),
    }
    proxy.set(Fault::None);
    process.write(&records[10..20]).await?;
    process.write(&records[20..]).await?;
    process.holds(&records).await
}

async fn slices<H: Harness>(harness: &H) -> Checked {
    let records = recurring(30);
    let (proxy, mut process) = through_proxy(harness, &records[..10]).await?;
    proxy.set(Fault::Slice(7));
    for batch in records[10..].chunks(10) {
        process.write(batch).await?;
    }
    process.holds(&records).await
}

/// A request that timed out is held back by the network, newer ones are written, and then it lands.
async fn late_request<H: Harness>(harness: &H) -> Checked {
    let records = recurring(40);
    let (proxy, stale) = through_proxy(harness, &records[..10]).await?;
    let (requested, passed, answered) = (proxy.requested(), proxy.passed(), proxy.answered());
    proxy.set(Fault::HoldRequests);
    let batch = stale.batch_of(&records[10..20]);
    if timeout(SHORT, stale.sink.write(&batch)).await.is_ok_and(|answer| answer.is_ok()) {
        return Err(failed("write said it worked, and its request can't have arrived".to_owned()));
    }
    if proxy.requested() == requested {
        return Err(failed("write sent nothing: whether a late request does harm can't be told".to_owned()));
    }
    let mut owner = Process::start(harness, &Place { through: None, ..stale.place.clone() }).await?;
    owner.go_back_to(10);
    for batch in records[10..].chunks(10) {
        owner.write(batch).await?;
    }
    owner.holds(&records).await?;
    proxy.set(Fault::None);
    let deadline = Instant::now() + SOON;
    while (proxy.passed() == passed || proxy.answered() == answered) && Instant::now() < deadline {
        pause().await;
    }
    if proxy.passed() == passed {
        return Err(failed("the late request never left the proxy".to_owned()));
    }
    // Whatever else the client sends by itself now has a moment to arrive, too.
    pause().await;
    owner.holds(&records).await
}
