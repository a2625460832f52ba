//! A TCP proxy on loopback that disturbs what a client and its server say to each other.
//!
//! ```no_run
//! # async fn test(server: std::net::SocketAddr) -> std::io::Result<()> {
//! use connect_testkit::proxy::{Fault, Proxy};
//!
//! let proxy = Proxy::start(server).await?;
//! // The client connects to proxy.address() …
//! proxy.set(Fault::HoldRequests); // from here on the server hears nothing,
//! proxy.set(Fault::None); // and now, late, everything that was said meanwhile
//! # Ok(())
//! # }
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// What the proxy does to the bytes that pass. It applies to every connection, open ones too, from the moment it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Everything passes.
    None,
    /// Every connection is reset, and a new one as soon as it is accepted.
    Reset,
    /// The next bytes from the client are not passed on: its connection is reset.
    ResetOnRequest,
    /// The next bytes from the server are not passed on: the request has been applied, and the connection is reset.
    ResetOnAnswer,
    /// The next bytes from the server are not passed on, and the client's side is closed in an orderly way.
    CloseOnAnswer,
    /// Every piece is passed on after this delay.
    Delay(Duration),
    /// Pieces of at most this many bytes, at least one.
    Slice(usize),
    /// Bytes of both directions are kept, connections stay open, nobody is told anything. What was kept passes when the fault is lifted.
    BlackHole,
    /// Bytes from the client are kept, also when it has hung up meanwhile, and pass when the fault is lifted: a late request.
    HoldRequests,
}

/// A proxy that lives until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    counts: Arc<Counts>,
    accepting: AbortHandle,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    requested: AtomicU64,
    passed: AtomicU64,
    answered: AtomicU64,
}

impl Proxy {
    /// Listens on a free port of loopback and connects each client to `server`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        let counts = Arc::new(Counts::default());
        let accepting = tokio::spawn(accept(listener, server, faults, Arc::clone(&counts))).abort_handle();
        Ok(Self { address, fault, counts, accepting })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what the proxy does.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Relaxed)
    }

    /// Bytes that clients have sent so far, whether they were passed on or not.
    pub fn requested(&self) -> u64 {
        self.counts.requested.load(Relaxed)
    }

    /// Bytes of clients that were passed on so far.
    pub fn passed(&self) -> u64 {
        self.counts.passed.load(Relaxed)
    }

    /// Bytes that the server has sent so far.
    pub fn answered(&self) -> u64 {
        self.counts.answered.load(Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, faults: watch::Receiver<Fault>, counts: Arc<Counts>) {
    // Dropped with this task: connections don't outlive their proxy.
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        counts.connections.fetch_add(1, Relaxed);
        connections.spawn(connect(client, server, faults.clone(), Arc::clone(&counts)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(client: TcpStream, server: SocketAddr, faults: watch::Receiver<Fault>, counts: Arc<Counts>) {
    if *faults.borrow() == Fault::Reset {
        reset(&client);
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return reset(&client) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let end = {
        let requests = pass(&mut from_client, &mut to_server, faults.clone(), Way::Request, Arc::clone(&counts));
        let answers = pass(&mut from_server, &mut to_client, faults, Way::Answer, counts);
        tokio::pin!(requests, answers);
        // A reset in one direction is a reset of both; after an orderly end the other direction lives on.
        tokio::select! {
            End::Reset = &mut requests => End::Reset,
            End::Reset = &mut answers => End::Reset,
            else => End::Orderly,
        }
    };
    if end == End::Reset {
        reset(from_client.as_ref());
        reset(from_server.as_ref());
        // Dropped in the usual way, they would say an orderly goodbye first.
        to_client.forget();
        to_server.forget();
    }
}

async fn told_to_reset(mut faults: watch::Receiver<Fault>) {
    if faults.wait_for(|fault| *fault == Fault::Reset).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Answer,
}

#[derive(PartialEq, Eq)]
enum End {
    Orderly,
    Reset,
}

/// Passes bytes one way until their end.
async fn pass(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut faults: watch::Receiver<Fault>,
    way: Way,
    counts: Arc<Counts>,
) -> End {
    let mut buffer = vec![0; 64 << 10];
    // A client that has gone doesn't hear its answers, but its late request is still the server's to finish.
    let mut heard = true;
    loop {
        let read = tokio::select! {
            biased;
            () = told_to_reset(faults.clone()) => return End::Reset,
            read = from.read(&mut buffer) => read.unwrap_or(0),
        };
        match way {
            Way::Request => counts.requested.fetch_add(read as u64, Relaxed),
            Way::Answer => counts.answered.fetch_add(read as u64, Relaxed),
        };
        held(&mut faults, way).await;
        if read == 0 {
            let _ = to.shutdown().await;
            return End::Orderly;
        }
        let fault = *faults.borrow();
        let piece = match (fault, way) {
            (Fault::Reset, _) | (Fault::ResetOnRequest, Way::Request) | (Fault::ResetOnAnswer, Way::Answer) => {
                return End::Reset;
            }
            (Fault::CloseOnAnswer, Way::Answer) => {
                let _ = to.shutdown().await;
                return End::Orderly;
            }
            (Fault::Slice(bytes), _) => bytes.max(1),
            _ => read,
        };
        if let Fault::Delay(delay) = fault {
            sleep(delay).await;
        }
        for slice in buffer[..read].chunks(piece) {
            if heard && to.write_all(slice).await.is_err() {
                if way == Way::Request {
                    return End::Reset;
                }
                heard = false;
            }
            if piece < read {
                // Apart on the wire, too.
                tokio::task::yield_now().await;
            }
        }
        if way == Way::Request {
            counts.passed.fetch_add(read as u64, Relaxed);
        }
    }
}

/// Waits while bytes of this direction are kept.
async fn held(faults: &mut watch::Receiver<Fault>, way: Way) {
    let keeps = |fault: &Fault| *fault == Fault::BlackHole || (*fault == Fault::HoldRequests && way == Way::Request);
    let _ = faults.wait_for(|fault| !keeps(fault)).await;
}

/// Makes the coming close of this connection a reset.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
