//! Large answers, at the pace of the client that reads them.
//!
//! An answer of some size leaves in slices, so that Actix copies no more than a
//! slice ahead of the socket, and keeps its request's permit until it is out:
//! slow readers use up the bound on what is in flight, never the memory. A
//! reader that takes no slice for [`STALL`] although there is one loses its
//! connection, because otherwise a few such readers would hold all permits for good.

use std::cell::Cell;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Extensions;
use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Serialize;

use super::admission::Permit;
use super::backend::Backend;
use super::call::Call;
use super::error::Failure;
use crate::inflight::UNCOUNTED_ANSWER_BYTES;

/// What is handed to Actix at a time.
const SLICE: usize = 64 << 10;

/// How long a client may take for one slice.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// A second handle of a connection's socket, with which to cut it off.
#[derive(Debug, Clone)]
struct Socket(Arc<TcpStream>);

/// Remembers a connection's socket; called once for each connection.
pub(super) fn remember_socket(socket: BorrowedFd<'_>, data: &mut Extensions) {
    // Without a handle (no descriptor was left) stalled readers are not cut off.
    if let Ok(socket) = socket.try_clone_to_owned() {
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
    if bytes.len() > UNCOUNTED_ANSWER_BYTES {
        call.hold(&mut permit, bytes.len())?;
    }
    Ok(held(&call.request, call.shared.stall, response, bytes, permit))
}

/// [`answer`] with `answer` in JSON, which is counted as it is written. What it was made of
/// counted `source_bytes` of the permit until then.
pub(super) fn json_answer<B: Backend>(
    call: &Call<B>,
    mut permit: Permit,
    response: &mut HttpResponseBuilder,
    answer: &impl Serialize,
    source_bytes: usize,
) -> Result<HttpResponse, Failure> {
    let mut json = CountedJson { bytes: Vec::new(), counted: 0, permit: &mut permit };
    // All that is answered has a JSON form, so that only counting can fail.
    serde_json::to_writer(&mut json, answer).map_err(|_| call.overloaded())?;
    let bytes: Bytes = json.bytes.into();
    permit.shrink(source_bytes);
    let response = response.content_type(ContentType::json());
    Ok(held(&call.request, call.shared.stall, response, bytes, permit))
}

/// JSON in the making. Text may take six times the bytes that it was, so that its length is
/// only known once it is written.
struct CountedJson<'a> {
    bytes: Vec<u8>,
    counted: usize,
    permit: &'a mut Permit,
}

impl io::Write for CountedJson<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len() + part.len();
        if length > UNCOUNTED_ANSWER_BYTES.max(self.counted) {
            let more = (length - self.counted).next_multiple_of(UNCOUNTED_ANSWER_BYTES);
            if !self.permit.grow(more) {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            self.counted += more;
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Finishes `response` with `bytes`, and keeps what counts them until they are out.
pub(super) fn held(
    request: &HttpRequest,
    stall: Duration,
    response: &mut HttpResponseBuilder,
    bytes: Bytes,
    held: impl Unpin + 'static,
) -> HttpResponse {
    if bytes.len() <= UNCOUNTED_ANSWER_BYTES {
        return response.body(bytes);
    }
    let guard = StallGuard::of(request, stall);
    response.body(BoxBody::new(Paced::whole(bytes, guard, held)))
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
        guard: StallGuard::of(&call.request, call.shared.stall),
        _held: permit,
    };
    response.body(BoxBody::new(body))
}

/// [`stream`] for an answer that goes on for as long as its client likes, which is therefore
/// no request in flight.
pub(super) fn endless<B: Backend>(
    call: &Call<B>,
    response: &mut HttpResponseBuilder,
    first: Bytes,
    more: impl Stream<Item = Result<Bytes, Failure>> + 'static,
) -> HttpResponse {
    let guard = StallGuard::of(&call.request, call.shared.stall);
    let (size, more) = (BodySize::Stream, Box::pin(more));
    response.body(BoxBody::new(Paced { size, rest: first, more, guard, _held: () }))
}

/// Finishes `response` with what another front answers: `more`, of `length` bytes if that is
/// known. Its limits are that front's, and it counts as nothing here.
pub(super) fn carried<S, E>(
    request: &HttpRequest,
    response: &mut HttpResponseBuilder,
    stall: Duration,
    length: Option<u64>,
    more: S,
) -> HttpResponse
where
    S: Stream<Item = Result<Bytes, E>> + Unpin + 'static,
    E: Display + Into<Box<dyn Error>> + 'static,
{
    let (size, guard) = (length.map_or(BodySize::Stream, BodySize::Sized), StallGuard::of(request, stall));
    response.body(BoxBody::new(Paced { size, rest: Bytes::new(), more, guard, _held: () }))
}

struct Paced<S, H> {
    size: BodySize,
    rest: Bytes,
    more: S,
    guard: StallGuard,
    /// What counts the answer, until it is out.
    _held: H,
}

impl<H> Paced<stream::Empty<Result<Bytes, Failure>>, H> {
    fn whole(bytes: Bytes, guard: StallGuard, held: H) -> Self {
        let size = BodySize::Sized(bytes.len() as u64);
        Self { size, rest: bytes, more: stream::empty(), guard, _held: held }
    }
}

impl<S, E, H> MessageBody for Paced<S, H>
where
    H: Unpin,
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display + Into<Box<dyn Error>>,
{
    type Error = E;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, E>>> {
        self.guard.progress();
        while self.rest.is_empty() {
            let Poll::Ready(next) = Pin::new(&mut self.more).poll_next(cx) else {
                self.guard.pause();
                return Poll::Pending;
            };
            match next {
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

/// Cuts a connection off whose client takes nothing of what there is, as long as it exists.
struct StallGuard {
    progress: Rc<Progress>,
    watch: Option<actix_web::rt::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Progress {
    /// How often the client has asked for a slice.
    asked: Cell<u64>,
    /// Whether there was none yet, so that it is not the client who is waited for.
    is_paused: Cell<bool>,
}

impl StallGuard {
    fn of(request: &HttpRequest, stall: Duration) -> Self {
        let progress = Rc::new(Progress::default());
        let watch = request.conn_data::<Socket>().map(|socket| {
            let (socket, progress) = (socket.clone(), Rc::clone(&progress));
            actix_web::rt::spawn(async move {
                let mut before = progress.asked.get();
                loop {
                    tokio::time::sleep(stall).await;
                    if progress.asked.get() == before && !progress.is_paused.get() {
                        break;
                    }
                    before = progress.asked.get();
                }
                tracing::debug!("a client stopped reading its answer; its connection is aborted");
                // An error means that the connection is gone, which is what is wanted.
                let _ = socket.0.shutdown(Shutdown::Both);
            })
        });
        Self { progress, watch }
    }

    fn progress(&self) {
        let Progress { asked, is_paused } = &*self.progress;
        asked.set(asked.get().wrapping_add(1));
        is_paused.set(false);
    }

    fn pause(&self) {
        self.progress.is_paused.set(true);
    }
}

impl Drop for StallGuard {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}
