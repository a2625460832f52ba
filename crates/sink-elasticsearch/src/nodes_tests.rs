use std::net::SocketAddr;

use connect_core::config::Section;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

fn nodes(urls: &str) -> Nodes {
    nodes_with(urls, &[])
}

fn nodes_with(urls: &str, settings: &[(&str, &str)]) -> Nodes {
    let pairs = [&[("CONNECT_ELASTICSEARCH_URLS", urls)], settings].concat();
    Nodes::new(ElasticsearchConfig::from_pairs(&pairs).unwrap(), Duration::from_secs(20)).unwrap()
}

#[test]
fn nodes_take_turns_and_one_that_failed_comes_last() {
    let nodes = nodes("http://a,http://b,http://c");
    let nodes = nodes.nodes.read().unwrap();
    assert_eq!(order(&nodes, 0), [0, 1, 2]);
    assert_eq!(order(&nodes, 4), [1, 2, 0]);
    nodes[1].failed();
    assert_eq!(order(&nodes, 4), [2, 0, 1]);
    nodes[2].failed();
    nodes[2].failed();
    assert_eq!(order(&nodes, 2), [0, 1, 2], "the one that rests longer comes last");
    nodes[1].answered();
    assert_eq!(order(&nodes, 1), [1, 0, 2]);
}

/// A server that answers one request with this status.
async fn server(status: u16) -> SocketAddr {
    asked(status).await.0
}

/// The same, and what it was asked.
async fn asked(status: u16) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request[..read].to_vec()).unwrap()
    });
    (address, asked)
}

async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_node_that_is_down_or_has_no_cluster_costs_nothing_but_a_try() {
    for first in [nobody().await, server(502).await, server(503).await] {
        let nodes = nodes(&format!("http://{first},http://{}", server(200).await));
        let reply = nodes.send(&Request::get("", &[])).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (200, &b"{}"[..]));
        let nodes = nodes.nodes.read().unwrap();
        assert!(nodes[0].health().rests_until.is_some());
        assert!(nodes[1].health().rests_until.is_none());
    }
}

#[tokio::test]
async fn an_answer_of_the_last_one_is_the_answer_and_errors_of_a_request_are_nobodys_illness() {
    let busy = nodes(&format!("http://{},http://{}", nobody().await, server(503).await));
    assert_eq!(busy.send(&Request::get("", &[])).await.unwrap().status, 503);
    for status in [400, 401, 404, 413, 429, 500] {
        let nodes = nodes(&format!("http://{},http://{}", server(status).await, nobody().await));
        assert_eq!(nodes.send(&Request::get("", &[])).await.unwrap().status, status);
        assert!(nodes.nodes.read().unwrap()[0].health().rests_until.is_none(), "{status}");
    }
}

/// RFC 9112, 3.2.2: the absolute form.
#[tokio::test]
async fn without_tls_the_proxy_gets_the_request_itself_and_who_asks() {
    let (proxy, asked) = asked(200).await;
    let settings = [
        ("CONNECT_ELASTICSEARCH_PROXY", format!("http://{proxy}")),
        ("CONNECT_ELASTICSEARCH_PROXY_USERNAME", "me".to_owned()),
        ("CONNECT_ELASTICSEARCH_PROXY_PASSWORD", "secret".to_owned()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    // A name that only the proxy could know.
    let nodes = nodes_with("http://elasticsearch.invalid:9200", &settings);
    assert_eq!(nodes.send(&Request::get("_bulk", &[])).await.unwrap().status, 200);
    let request = asked.await.unwrap();
    assert!(request.starts_with("GET http://elasticsearch.invalid:9200/_bulk HTTP/1.1\r\n"), "{request}");
    // me:secret
    assert!(request.to_lowercase().contains("proxy-authorization: basic bwu6c2vjcmv0\r\n"), "{request}");
}
