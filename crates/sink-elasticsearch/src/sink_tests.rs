use std::sync::Arc;

use connect_core::config::Section;
use connect_core::{Settings, TopicPartition};
use futures::FutureExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A server that answers each bulk request as the test says; what it was sent, in order.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answer), Arc::clone(&seen)));
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn sink(&self, settings: &[(&str, &str)]) -> ElasticsearchSink {
        let common = [("CONNECT_ELASTICSEARCH_URLS", self.url.as_str()), ("CONNECT_ELASTICSEARCH_INDEX", "i")];
        let config = ElasticsearchConfig::from_pairs(&[&common[..], settings].concat()).unwrap();
        ElasticsearchSink::new(config, context()).unwrap()
    }
}

fn context() -> Context {
    Context { name: "test".to_owned(), epoch: 0, topics: vec!["t".to_owned()], settings: Settings::default() }
}

async fn serve(mut stream: TcpStream, answer: Arc<impl Fn(&str) -> (u16, String)>, requests: Arc<Mutex<Vec<String>>>) {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut read).await.unwrap_or_default() == 0 {
                return;
            }
        };
        let head = String::from_utf8(read[..end].to_vec()).unwrap().to_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        while read.len() < end + length {
            stream.read_buf(&mut read).await.unwrap();
        }
        let body = String::from_utf8(read[end..end + length].to_vec()).unwrap();
        read.drain(..end + length);
        let (status, text) = answer(&body);
        requests.lock().unwrap().push(body);
        let text = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(text.as_bytes()).await.unwrap();
    }
}

/// An answer with these items for a request of as many documents.
fn items(each: impl Fn(&str) -> String, body: &str) -> (u16, String) {
    let items: Vec<_> = body.lines().skip(1).step_by(2).map(each).collect();
    (200, format!(r#"{{"items":[{}]}}"#, items.join(",")))
}

fn written(_: &str) -> String {
    r#"{"index":{"status":201}}"#.to_owned()
}

fn batch(sink: &ElasticsearchSink, values: &[&str]) -> Batch<Op> {
    let record = |offset: usize, value: &str| Record {
        topic: "t".into(),
        partition: 0,
        offset: offset as i64,
        timestamp: 0,
        key: Some(format!("k{offset}").into()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Vec::new(),
    };
    let ops = values.iter().enumerate().map(|(offset, value)| {
        let op = sink.prepare(&record(offset, value)).unwrap().unwrap();
        Item { offset: offset as i64, op }
    });
    let items = ops.collect();
    Batch { source: TopicPartition::new("t", 0), expected: None, first: 0, next: values.len() as i64, items }
}

fn rejected(outcome: &Outcome) -> Vec<usize> {
    let verdicts = outcome.clone().into_sorted().into_iter();
    verdicts.filter(|(_, verdict)| matches!(verdict, Verdict::Rejected(_))).map(|(index, _)| index).collect()
}

const BAD_ACTION: &str =
    r#"{"error":{"type":"illegal_argument_exception","reason":"Malformed action/metadata line"},"status":400}"#;

#[tokio::test]
async fn a_batch_without_items_needs_no_server() {
    let server = Server::start(|_| (400, BAD_ACTION.to_owned())).await;
    let sink = server.sink(&[]);
    assert_eq!(sink.write(&batch(&sink, &[])).await.unwrap(), Outcome::written());
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn each_item_gets_its_own_verdict() {
    let server = Server::start(|body| {
        let each = |document: &str| match document {
            "{1}" => r#"{"index":{"status":409,"error":{"type":"version_conflict_engine_exception"}}}"#.to_owned(),
            "{2}" => r#"{"index":{"status":429,"error":{"type":"es_rejected_execution_exception"}}}"#.to_owned(),
            "{3}" => {
                r#"{"index":{"status":400,"error":{"type":"document_parsing_exception","reason":"why"}}}"#.to_owned()
            }
            other => written(other),
        };
        items(each, body)
    })
    .await;
    let sink = server.sink(&[]);
    let outcome = sink.write(&batch(&sink, &["{0}", "{1}", "{2}", "{3}", "{4}"])).await.unwrap();
    let expected = vec![
        (1, Verdict::Superseded),
        (2, Verdict::Retry),
        (3, Verdict::Rejected(Rejection::new("document_parsing_exception: why"))),
    ];
    assert_eq!(outcome.into_sorted(), expected);
}

#[tokio::test]
async fn an_answer_to_another_number_of_items_acknowledges_nothing() {
    for answer in [r#"{"items":[{"index":{"status":201}}]}"#, r#"{"items":[]}"#, "{}", "", "<html>"] {
        let server = Server::start(move |_| (200, answer.to_owned())).await;
        let sink = server.sink(&[]);
        let result = sink.write(&batch(&sink, &["{0}", "{1}"])).await;
        assert!(matches!(result, Err(SinkError::Transient { reason: "answer", .. })), "{answer}: {result:?}");
    }
}

#[tokio::test]
async fn bad_actions_are_found_by_halving_and_their_neighbours_are_written() {
    let server =
        Server::start(|body| if body.contains("bad") { (400, BAD_ACTION.to_owned()) } else { items(written, body) })
            .await;
    let sink = server.sink(&[]);
    let values = ["{0}", "{bad1}", "{2}", "{3}", "{4}", "{5}", "{bad6}"];
    let outcome = sink.write(&batch(&sink, &values)).await.unwrap();
    assert_eq!(rejected(&outcome), [1, 6]);
    assert_eq!(outcome.exceptions().len(), 2);
    let good = server.requests().into_iter().filter(|body| !body.contains("bad")).collect::<String>();
    for value in ["{0}", "{2}", "{3}", "{4}", "{5}"] {
        assert_eq!(good.matches(value).count(), 1, "{value}");
    }
}

#[tokio::test]
async fn a_size_that_is_refused_is_halved_and_remembered() {
    const LIMIT: usize = 1_000;
    let server =
        Server::start(|body| if body.len() > LIMIT { (413, String::new()) } else { items(written, body) }).await;
    let sink = server.sink(&[]);
    let document = format!("{{{}}}", "x".repeat(200));
    let too_large = format!("{{{}}}", "x".repeat(LIMIT));
    let mut values = vec![document.as_str(); 20];
    values[7] = &too_large;
    let outcome = sink.write(&batch(&sink, &values)).await.unwrap();
    assert_eq!(rejected(&outcome), [7], "only what is too large for itself");
    let requests = server.requests().len();
    assert_eq!(sink.write(&batch(&sink, &vec![document.as_str(); 20])).await.unwrap(), Outcome::written());
    let later = server.requests().split_off(requests);
    assert!(later.iter().all(|body| body.len() <= LIMIT), "no request is as large again");
}

#[tokio::test]
async fn what_was_written_before_a_failure_stays_written() {
    let server =
        Server::start(|body| if body.contains("{1}") { (429, String::new()) } else { items(written, body) }).await;
    let sink = server.sink(&[("CONNECT_ELASTICSEARCH_REQUEST_BYTES", "1B")]);
    let outcome = sink.write(&batch(&sink, &["{0}", "{1}", "{2}"])).await.unwrap();
    assert_eq!(outcome.into_sorted(), [(1, Verdict::Retry), (2, Verdict::Retry)]);
    let result = sink.write(&batch(&sink, &["{1}"])).await;
    assert!(matches!(result, Err(SinkError::Transient { reason: "busy", .. })), "{result:?}");
}

#[tokio::test]
async fn a_failure_behind_rejections_keeps_them() {
    let server = Server::start(|body| {
        let each = |_: &str| r#"{"index":{"status":400,"error":{"type":"document_parsing_exception"}}}"#.to_owned();
        if body.contains("{1}") { (500, String::new()) } else { items(each, body) }
    })
    .await;
    let sink = server.sink(&[("CONNECT_ELASTICSEARCH_REQUEST_BYTES", "1B")]);
    let outcome = sink.write(&batch(&sink, &["{0}", "{1}"])).await.unwrap();
    assert_eq!(rejected(&outcome), [0]);
    assert_eq!(outcome.into_sorted()[1], (1, Verdict::Retry));
}

#[tokio::test]
async fn a_cluster_that_has_too_much_to_do_is_sent_no_more_of_the_batch() {
    let server = Server::start(|body| {
        let each = |document: &str| match document {
            "{1}" => r#"{"index":{"status":429,"error":{"type":"es_rejected_execution_exception"}}}"#.to_owned(),
            other => written(other),
        };
        items(each, body)
    })
    .await;
    let sink = server.sink(&[("CONNECT_ELASTICSEARCH_REQUEST_BYTES", "1B")]);
    let outcome = sink.write(&batch(&sink, &["{0}", "{1}", "{2}", "{3}"])).await.unwrap();
    assert_eq!(outcome.into_sorted(), [(1, Verdict::Retry), (2, Verdict::Retry), (3, Verdict::Retry)]);
    assert_eq!(server.requests().len(), 2);
}

/// Documents whose last seen offset is what the guard's script compares; see `update.rs`.
#[tokio::test]
async fn an_update_is_not_taken_before_the_one_that_it_follows() {
    let out_of_order = format!(
        r#"{{"update":{{"status":400,"error":{{"type":"illegal_argument_exception","reason":"failed to execute script",
            "caused_by":{{"type":"script_exception","reason":"runtime error",
            "caused_by":{{"type":"illegal_state_exception","reason":"{}"}}}}}}}}}}"#,
        crate::update::OUT_OF_ORDER
    );
    let busy = r#"{"update":{"status":503,"error":{"type":"process_cluster_event_timeout_exception"}}}"#;
    let server = Server::start(move |body| {
        let each = |update: &str| {
            let params = &serde_json::from_str::<serde_json::Value>(update).unwrap()["script"]["params"];
            if params["before"].is_null() { busy.to_owned() } else { out_of_order.clone() }
        };
        items(each, body)
    })
    .await;
    let sink = server.sink(&[("CONNECT_ELASTICSEARCH_ACTION", "update"), ("CONNECT_ELASTICSEARCH_ID", "one")]);
    let outcome = sink.write(&batch(&sink, &[r#"{"a":1}"#, r#"{"b":1}"#])).await.unwrap();
    assert_eq!(outcome.into_sorted(), [(0, Verdict::Retry), (1, Verdict::Retry)]);
}

#[tokio::test]
async fn no_request_begins_when_its_answer_would_come_too_late() {
    let server = Server::start(|body| items(written, body)).await;
    let config = ElasticsearchConfig::from_pairs(&[
        ("CONNECT_ELASTICSEARCH_URLS", server.url.as_str()),
        ("CONNECT_ELASTICSEARCH_MAX_IN_FLIGHT", "1"),
        ("CONNECT_ELASTICSEARCH_TIMEOUT", "20s"),
    ]);
    let mut context = context();
    context.settings.write_timeout = Duration::from_millis(20_050);
    let sink = ElasticsearchSink::new(config.unwrap(), context).unwrap();
    let place = sink.pace.place().await;
    let result = sink.write(&batch(&sink, &["{0}"])).await;
    assert!(matches!(result, Err(SinkError::Transient { reason: "busy", .. })), "{result:?}");
    assert!(server.requests().is_empty());
    drop(place);
    assert_eq!(sink.write(&batch(&sink, &["{0}"])).await.unwrap(), Outcome::written());
}

#[test]
fn a_request_may_not_take_longer_than_a_write() {
    let pairs = [("CONNECT_ELASTICSEARCH_URLS", "http://es"), ("CONNECT_ELASTICSEARCH_TIMEOUT", "31s")];
    let problem = ElasticsearchSink::new(ElasticsearchConfig::from_pairs(&pairs).unwrap(), context()).err().unwrap();
    assert!(problem.contains("CONNECT_WRITE_TIMEOUT"), "{problem}");
}

#[test]
fn a_shorter_time_for_a_write_shortens_that_of_a_request() {
    let mut context = context();
    context.settings.write_timeout = Duration::from_secs(3);
    let config = ElasticsearchConfig::from_pairs(&[("CONNECT_ELASTICSEARCH_URLS", "http://es")]).unwrap();
    assert_eq!(ElasticsearchSink::new(config, context).unwrap().time_to_send, Duration::from_secs(1));
}

#[tokio::test]
async fn missing_privileges_stop_everything_wherever_they_are_told() {
    let denied = r#"{"type":"security_exception","reason":"unauthorized"}"#;
    let server =
        Server::start(move |body| items(|_| format!(r#"{{"index":{{"status":403,"error":{denied}}}}}"#), body)).await;
    let whole = Server::start(move |_| (403, format!(r#"{{"error":{denied},"status":403}}"#))).await;
    for server in [server, whole] {
        let sink = server.sink(&[]);
        let result = sink.write(&batch(&sink, &["{0}"])).await;
        assert!(matches!(result, Err(SinkError::Fatal(_))), "{result:?}");
    }
}

#[tokio::test]
async fn a_refusal_that_is_no_actions_fault_rejects_nothing() {
    let header = r#"{"error":{"type":"media_type_header_exception","reason":"Invalid media-type value"},"status":400}"#;
    for (status, body) in [(400, header), (400, "<html>"), (404, ""), (302, ""), (502, "<html>")] {
        let server = Server::start(move |_| (status, body.to_owned())).await;
        let sink = server.sink(&[]);
        let result = sink.write(&batch(&sink, &["{0}", "{1}"])).await;
        assert!(matches!(result, Err(SinkError::Transient { .. })), "{status}: {result:?}");
    }
}

#[tokio::test]
async fn compression_leaves_the_network_its_thread() {
    use std::io::Read as _;
    let body = Bytes::from("{\"index\":{}}\n".repeat(100_000));
    let mut compressing = Box::pin(compressed(body.clone()));
    assert!(compressing.as_mut().now_or_never().is_none(), "it was done on the thread of whoever asked");
    let mut read = Vec::new();
    flate2::read::GzDecoder::new(&compressing.await.unwrap()[..]).read_to_end(&mut read).unwrap();
    assert_eq!(read, body);
}
