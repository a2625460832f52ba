//! Proxies between the connector and the cluster: the one that the settings name, and no other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use connect_core::Sink;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{Load, dice};
use crate::security::{certified, secured};
use crate::support::{elasticsearch_9, record, unique, write};
use xtask::services::elasticsearch::{PASSWORD, WRITER};

/// A proxy that tunnels (RFC 9110, CONNECT); how many tunnels it has made.
async fn proxy() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, tunnels) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let made = Arc::clone(&tunnels);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tunnel(stream, Arc::clone(&made)));
        }
    });
    (address, tunnels)
}

async fn tunnel(stream: TcpStream, made: Arc<AtomicUsize>) {
    let mut client = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(client.read_until(b'\n', &mut head).await.unwrap() > 0);
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).expect("a tunnel is asked for");
    let mut server = TcpStream::connect(target).await.unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    made.fetch_add(1, Relaxed);
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_proxy_that_the_settings_name_is_used() {
    let server = secured().await;
    let (address, tunnels) = proxy().await;
    let (url, index) = (format!("http://{address}"), unique("connect-proxied"));
    let settings = [("INDEX", index.as_str()), ("USERNAME", WRITER), ("PASSWORD", PASSWORD), ("PROXY", &url)];
    let sink = certified(server, &settings);
    sink.check().await.unwrap();
    assert_eq!(write(&sink, &[record(0, "a", "{}")]).await.unwrap().exceptions(), []);
    assert!(tunnels.load(Relaxed) > 0, "the proxy was passed by");
    assert_eq!(server.client().unwrap().count(&index).await.unwrap(), 1);
}

#[tokio::test]
#[ignore = "needs servers: cargo xtask test"]
async fn a_proxy_of_the_environment_is_named_and_not_used() {
    let server = elasticsearch_9().await;
    let load = Load::new(100, &dice(), &server.url).await;
    // Nobody listens there: whoever used it would get nowhere.
    let load = load.set("HTTP_PROXY", "http://127.0.0.1:1").set("http_proxy", "http://127.0.0.1:1");
    assert!(load.call(&["check"]).await.success(), "{}", load.logged());
    let told = "HTTP_PROXY is set and not used; set CONNECT_ELASTICSEARCH_PROXY";
    assert!(load.logged().contains(told), "{}", load.logged());
    load.ends_right(load.start(), &server.client).await;
}
