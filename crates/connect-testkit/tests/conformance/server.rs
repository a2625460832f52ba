//! A store behind a server: what a request asks for happens there, whether or not the client still waits.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use connect_core::{Batch, Outcome, Sink, SinkError};
use connect_testkit::store::Store;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Write = <Store as Sink>::Op;
/// So many bytes are an answer: more than a piece of 7.
const ANSWER: usize = 64;

/// What is asked of a store, and what it answers: on the wire there is only the number of it.
#[derive(Default)]
struct Request {
    batch: Option<(Store, Batch<Write>)>,
    answer: Option<Result<Outcome, SinkError>>,
}

#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self { address: listener.local_addr().expect("it has an address"), requests: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(client).await });
            }
        });
        server
    }

    async fn serve(self, mut client: TcpStream) -> io::Result<()> {
        loop {
            let number = client.read_u64().await? as usize;
            let asked = self.requests.lock().expect("nobody panics with it")[number].batch.take();
            if let Some((store, batch)) = asked {
                let answer = store.write(&batch).await;
                self.requests.lock().expect("nobody panics with it")[number].answer = Some(answer);
            }
            client.write_all(&[0; ANSWER]).await?;
        }
    }

    /// Asks by this way for a batch to be written, or for nothing. With `read_once` what arrives first is taken for the whole answer.
    pub async fn ask(
        &self,
        way: SocketAddr,
        batch: Option<(Store, Batch<Write>)>,
        read_once: bool,
    ) -> Result<Outcome, SinkError> {
        let gone = |error: io::Error| SinkError::transient("connection", error.to_string());
        let number = {
            let mut requests = self.requests.lock().expect("nobody panics with it");
            requests.push(Request { batch, answer: None });
            requests.len() - 1
        };
        let mut connection = TcpStream::connect(way).await.map_err(gone)?;
        connection.write_u64(number as u64).await.map_err(gone)?;
        let mut answer = [0; ANSWER];
        if read_once && connection.read(&mut answer).await.map_err(gone)? < ANSWER {
            return Err(SinkError::fatal("the server talks nonsense"));
        }
        if !read_once {
            connection.read_exact(&mut answer).await.map_err(gone)?;
        }
        self.requests.lock().expect("nobody panics with it")[number].answer.take().unwrap_or(Ok(Outcome::written()))
    }
}
