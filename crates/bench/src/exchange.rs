//! One request and its answer on a TCP stream, and what can go wrong with it.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::Poll;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::client::Ended;
use crate::http1::{Malformed, RequestTemplate, Response, ResponseReader};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("transport: {0}")]
    Transport(io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("no answer in time")]
    Timeout,
    #[error("the answer is not a status")]
    NoStatus,
    #[error("HTTP/2: {0}")]
    Http2(#[from] hyper::Error),
    #[error("the answer is not one message of the kind asked for")]
    NoMessage,
}

impl Failure {
    /// A short name under which such failures are counted.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Connect(error) => format!("connect: {}", error.kind()),
            Self::Transport(error) => format!("transport: {}", error.kind()),
            Self::Malformed(_) | Self::NoStatus | Self::NoMessage => "malformed answer".to_owned(),
            Self::Http2(_) => "transport: HTTP/2".to_owned(),
            Self::Timeout => "timeout".to_owned(),
        }
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Broke { kind: failure.kind(), detail: failure.to_string() }
    }
}

/// Sends the request with `value` in it and reads the whole answer.
///
/// # Cancel safety
/// None: a stream on which this was dropped half-way must be closed.
pub(crate) async fn exchange(
    stream: &mut TcpStream,
    request: &RequestTemplate,
    value: &[u8],
    reader: &mut ResponseReader,
    buffer: &mut [u8],
) -> Result<Response, Failure> {
    let (head, tail) = request.parts();
    if request.has_value() {
        write_parts(stream, &mut [IoSlice::new(head), IoSlice::new(value), IoSlice::new(tail)]).await
    } else {
        stream.write_all(head).await
    }
    .map_err(Failure::Transport)?;
    reader.reset();
    loop {
        let len = stream.read(buffer).await.map_err(Failure::Transport)?;
        let read = buffer.get(..len).unwrap_or_default();
        if read.is_empty() {
            return Err(Failure::Transport(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(response) = reader.feed(read)? {
            return Ok(response);
        }
    }
}

async fn write_parts(stream: &mut TcpStream, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !parts.is_empty() {
        let written = stream.write_vectored(parts).await?;
        if written == 0 && parts.iter().any(|part| !part.is_empty()) {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut parts, written);
    }
    Ok(())
}

/// Waits for `work` until `deadline`; `None` when it is past.
///
/// The timer is set again only when it fires, not for every operation: setting
/// one costs about as much as all the rest that is done for an answer here.
pub(crate) async fn by_deadline<F: Future>(
    timer: &mut Pin<Box<Sleep>>,
    deadline: Instant,
    work: F,
) -> Option<F::Output> {
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(output) = work.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        while timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await
}
