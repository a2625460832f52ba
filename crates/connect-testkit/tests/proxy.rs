//! The proxy does what it says.

use std::net::SocketAddr;
use std::time::Duration;

use connect_testkit::proxy::{Fault, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

/// A server that says back what it hears, and tells the test what that was.
async fn echo() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (heard, hearing) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let _ = heard.send(buffer[..read].to_vec());
                    if stream.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, hearing)
}

async fn connected() -> (Proxy, TcpStream, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (server, hearing) = echo().await;
    let proxy = Proxy::start(server).await.expect("a port");
    let mut client = TcpStream::connect(proxy.address()).await.expect("it listens");
    assert_eq!(say(&mut client, "hello").await, Ok("hello".to_owned()));
    (proxy, client, hearing)
}

/// Says something and hears the answer to its end; what went wrong else.
async fn say(client: &mut TcpStream, words: &str) -> Result<String, &'static str> {
    client.write_all(words.as_bytes()).await.map_err(|_| "reset")?;
    let mut answer = vec![0; words.len()];
    match timeout(SHORT * 5, client.read_exact(&mut answer)).await {
        Err(_) => Err("silence"),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err("closed"),
        Ok(Err(_)) => Err("reset"),
        Ok(Ok(_)) => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

async fn hears(hearing: &mut mpsc::UnboundedReceiver<Vec<u8>>, words: &str) {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(words) {
        heard.extend(timeout(LONG, hearing.recv()).await.expect("in time").expect("the server lives"));
    }
}

#[tokio::test]
async fn a_request_is_cut_off_before_or_after_it_is_heard() {
    let (proxy, mut client, mut hearing) = connected().await;
    proxy.set(Fault::ResetOnRequest);
    assert_eq!(say(&mut client, "one").await, Err("reset"));

    proxy.set(Fault::None);
    let mut client = TcpStream::connect(proxy.address()).await.expect("it listens");
    proxy.set(Fault::ResetOnAnswer);
    assert_eq!(say(&mut client, "two").await, Err("reset"));
    hears(&mut hearing, "two").await;

    proxy.set(Fault::None);
    let mut client = TcpStream::connect(proxy.address()).await.expect("it listens");
    proxy.set(Fault::CloseOnAnswer);
    assert_eq!(say(&mut client, "three").await, Err("closed"));
    hears(&mut hearing, "three").await;
    assert_eq!(proxy.connections(), 3);
}

#[tokio::test]
async fn a_reset_meets_open_connections_and_new_ones() {
    let (proxy, mut client, _hearing) = connected().await;
    proxy.set(Fault::Reset);
    assert!(matches!(say(&mut client, "x").await, Err("reset")));
    let mut client = TcpStream::connect(proxy.address()).await.expect("it listens");
    assert!(matches!(say(&mut client, "x").await, Err("reset" | "closed")));
}

#[tokio::test]
async fn a_late_request_is_heard_although_its_client_has_gone() {
    let (proxy, mut client, mut hearing) = connected().await;
    proxy.set(Fault::HoldRequests);
    assert_eq!(say(&mut client, "late").await, Err("silence"));
    drop(client);
    let mut other = TcpStream::connect(proxy.address()).await.expect("it listens");
    assert_eq!(say(&mut other, "kept, too").await, Err("silence"));
    proxy.set(Fault::None);
    hears(&mut hearing, "late").await;
}

#[tokio::test]
async fn a_black_hole_swallows_and_gives_back() {
    let (proxy, mut client, _hearing) = connected().await;
    proxy.set(Fault::BlackHole);
    assert_eq!(say(&mut client, "one").await, Err("silence"));
    proxy.set(Fault::None);
    let mut answer = [0; 3];
    timeout(LONG, client.read_exact(&mut answer)).await.expect("in time").expect("it is given back");
    assert_eq!(&answer, b"one");
}

#[tokio::test]
async fn slices_and_delays_change_no_byte() {
    let (proxy, mut client, _hearing) = connected().await;
    proxy.set(Fault::Slice(2));
    assert_eq!(say(&mut client, "in slices").await, Ok("in slices".to_owned()));
    proxy.set(Fault::Delay(Duration::from_millis(20)));
    assert_eq!(say(&mut client, "delayed").await, Ok("delayed".to_owned()));
}
