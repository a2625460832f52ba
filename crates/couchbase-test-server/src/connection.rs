//! One key-value connection: requests in, answers out, faults in between.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::data;
use crate::fault::Action;
use crate::frame::{Request, Response};
use crate::session::{Agreed, Session};
use crate::state::Shared;
use crate::status;

/// Answers that may wait for the client to read on.
const UNSENT: usize = 1024;

/// Serves a connection until the client closes it or a fault cuts it.
pub async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(
    shared: Arc<Shared>,
    mut session: Session,
    stream: S,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (answers, mut unsent) = mpsc::channel::<Vec<u8>>(UNSENT);
    let read = async move {
        let mut buffer = Vec::with_capacity(1 << 16);
        loop {
            let mut taken = 0;
            let mut out = Vec::new();
            while let Some((request, length)) = Request::parse(&buffer[taken..]).map_err(io::Error::other)? {
                taken += length;
                match answer(&shared, &mut session, &request, &answers) {
                    Answer::Send(response) => out.extend(response.encode(&request)),
                    Answer::Nothing => {}
                    Answer::Cut => return Ok(()),
                }
            }
            buffer.drain(..taken);
            if !out.is_empty() && answers.send(out).await.is_err() {
                return Ok(());
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some(bytes) = unsent.recv().await {
            writer.write_all(&bytes).await?;
            writer.flush().await?;
        }
        Ok(())
    };
    // Whichever ends first ends the connection: an answer that comes too late goes nowhere.
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}

enum Answer {
    Send(Response),
    Nothing,
    Cut,
}

fn answer(shared: &Arc<Shared>, session: &mut Session, request: &Request, answers: &mpsc::Sender<Vec<u8>>) -> Answer {
    let agreed = session.agreed;
    let action = {
        let mut state = shared.lock();
        *state.requests.entry(request.opcode).or_default() += 1;
        let key = data::document_key(agreed, &request.key).unwrap_or_default();
        state.faults.strike(request, &key.1)
    };
    let mut apply = || match session.answer(shared, request) {
        Some(response) => response,
        None => data::answer(&mut shared.lock(), agreed, request),
    };
    match action {
        None => Answer::Send(apply()),
        Some(Action::Answer(status)) => Answer::Send(Response::status(status)),
        Some(Action::CutBefore) => Answer::Cut,
        Some(Action::CutAfter) => {
            apply();
            Answer::Cut
        }
        Some(Action::Swallow) => Answer::Nothing,
        Some(Action::Mute) => {
            apply();
            Answer::Nothing
        }
        Some(Action::Ambiguous) => {
            apply();
            Answer::Send(Response::status(status::SYNC_WRITE_AMBIGUOUS))
        }
        Some(Action::Late(delay)) => {
            late(Arc::clone(shared), agreed, request.clone(), answers.clone(), delay);
            Answer::Nothing
        }
    }
}

/// Applies the request after the delay, whether or not the connection still stands by then.
fn late(
    shared: Arc<Shared>,
    agreed: Agreed,
    request: Request,
    answers: mpsc::Sender<Vec<u8>>,
    delay: std::time::Duration,
) {
    shared.lock().late += 1;
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        let response = {
            let mut state = shared.lock();
            state.late -= 1;
            data::answer(&mut state, agreed, &request)
        };
        let _ = answers.send(response.encode(&request)).await;
    });
}
