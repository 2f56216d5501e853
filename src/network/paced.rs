//! Large answers, at the pace of the client that reads them.
//!
//! An answer of some size leaves in slices, so that Actix copies no more than a
//! slice ahead of the socket, and keeps its request's permit until it is out:
//! slow readers use up the bound on what is in flight, never the memory. A
//! reader that takes no slice for [`STALL`] loses its connection, because
//! otherwise a few such readers would hold all permits for good.

use std::cell::Cell;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Extensions;
use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures_util::{Stream, stream};

use super::admission::Permit;
use super::backend::Backend;
use super::call::Call;
use super::error::Failure;

/// What is handed to Actix at a time. Answers up to this size are not paced.
const SLICE: usize = 64 << 10;

/// How long a client may take for one slice.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// A second handle of a connection's socket, with which to cut it off.
#[derive(Debug, Clone)]
struct Socket(Arc<TcpStream>);

/// Remembers a connection's socket; called once for each connection.
pub(super) fn remember_socket(connection: &dyn std::any::Any, data: &mut Extensions) {
    let socket = connection
        .downcast_ref::<actix_web::rt::net::TcpStream>()
        .and_then(|stream| stream.as_fd().try_clone_to_owned().ok());
    // Without a handle (no descriptor was left) stalled readers are not cut off.
    if let Some(socket) = socket {
        data.insert(Socket(Arc::new(socket.into())));
    }
}

/// Finishes `response` with `bytes` as its body.
///
/// # Errors
/// `Overloaded` if so many bytes are in flight that these don't fit.
pub(super) fn answer<B: Backend>(
    call: &Call<B>,
    mut permit: Permit,
    response: &mut HttpResponseBuilder,
    bytes: Bytes,
) -> Result<HttpResponse, Failure> {
    if bytes.len() <= SLICE {
        return Ok(response.body(bytes));
    }
    call.hold(&mut permit, bytes.len())?;
    let size = BodySize::Sized(bytes.len() as u64);
    let body = Paced {
        size,
        rest: bytes,
        more: stream::empty(),
        guard: StallGuard::of(call),
        _permit: Some(permit),
    };
    Ok(response.body(BoxBody::new(body)))
}

/// [`answer`] with JSON that has been written out already.
pub(super) fn json_answer<B: Backend>(
    call: &Call<B>,
    permit: Permit,
    response: &mut HttpResponseBuilder,
    json: Vec<u8>,
) -> Result<HttpResponse, Failure> {
    answer(call, permit, response.content_type(ContentType::json()), json.into())
}

/// Finishes `response` with a body that is `first` and then all of `more`.
///
/// An error of `more` aborts the connection: the client must not take what it
/// has for the whole.
pub(super) fn stream<B: Backend>(
    call: &Call<B>,
    permit: Permit,
    response: &mut HttpResponseBuilder,
    first: Bytes,
    more: impl Stream<Item = Result<Bytes, Failure>> + 'static,
) -> HttpResponse {
    let body = Paced {
        size: BodySize::Stream,
        rest: first,
        more: Box::pin(more),
        guard: StallGuard::of(call),
        _permit: Some(permit),
    };
    response.body(BoxBody::new(body))
}

/// [`stream`] for an answer that goes on for as long as its client likes, which is therefore
/// no request in flight. It must have something to send more often than the client may stall.
pub(super) fn endless<B: Backend>(
    call: &Call<B>,
    response: &mut HttpResponseBuilder,
    first: Bytes,
    more: impl Stream<Item = Result<Bytes, Failure>> + 'static,
) -> HttpResponse {
    let (size, more, guard) = (BodySize::Stream, Box::pin(more), StallGuard::of(call));
    response.body(BoxBody::new(Paced { size, rest: first, more, guard, _permit: None }))
}

struct Paced<S> {
    size: BodySize,
    rest: Bytes,
    more: S,
    guard: StallGuard,
    _permit: Option<Permit>,
}

impl<S: Stream<Item = Result<Bytes, Failure>> + Unpin> MessageBody for Paced<S> {
    type Error = Failure;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        self.guard.progress();
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.more).poll_next(cx)) {
                Some(Ok(chunk)) => self.rest = chunk,
                Some(Err(failure)) => {
                    tracing::warn!(%failure, "an answer broke off; its connection is aborted");
                    return Poll::Ready(Some(Err(failure)));
                }
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(SLICE);
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
    }
}

/// Cuts a connection off that makes no progress, as long as it exists.
struct StallGuard {
    slices: Rc<Cell<u64>>,
    watch: Option<actix_web::rt::task::JoinHandle<()>>,
}

impl StallGuard {
    fn of<B>(call: &Call<B>) -> Self {
        let slices = Rc::new(Cell::new(0));
        let watch = call.request.conn_data::<Socket>().map(|socket| {
            let (socket, slices, stall) = (socket.clone(), Rc::clone(&slices), call.shared.stall);
            actix_web::rt::spawn(async move {
                let mut before = slices.get();
                loop {
                    tokio::time::sleep(stall).await;
                    if slices.get() == before {
                        break;
                    }
                    before = slices.get();
                }
                tracing::debug!("a client stopped reading its answer; its connection is aborted");
                // An error means that the connection is gone, which is what is wanted.
                let _ = socket.0.shutdown(Shutdown::Both);
            })
        });
        Self { slices, watch }
    }

    fn progress(&self) {
        self.slices.set(self.slices.get().wrapping_add(1));
    }
}

impl Drop for StallGuard {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}
