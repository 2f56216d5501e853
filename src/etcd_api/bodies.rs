//! The bodies of simple calls, counted against the bound on bytes in flight: requests as they
//! arrive, answers until they have left.
//!
//! What is small is not counted, for counting it would cost more than it tells. Neither are
//! streams: they hold a message at a time, and have bounds of their own.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use kvorum_etcd_proto::gateway::Refusal;
use kvorum_etcd_proto::operations_in_txn;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::codegen::StdError;

use crate::inflight::{AnswerBytes, Held, InflightBytes, UNCOUNTED_ANSWER_BYTES};

/// Of the bytes of a call, so many are not counted.
const UNCOUNTED_BYTES: usize = 4 << 10;
/// What leaves at a time, so that what has not left is still counted.
const SLICE: usize = 64 << 10;
/// What an operation of a transaction takes once it is read, roughly, besides its bytes.
const OPERATION_BYTES: usize = 256;
/// From so many on, it is their number that is too large, and not what else is in flight.
const MANY_OPERATIONS: usize = 16_384;
/// How long a client may take for one slice. Otherwise a few readers could hold all that may
/// be in flight for good.
const STALL: Duration = Duration::from_secs(30);

/// The length of gRPC's prefix of a message.
const PREFIX_BYTES: usize = 5;

/// The refusal of what does not fit, as etcd words it.
pub(super) fn too_many() -> Status {
    Status::resource_exhausted("etcdserver: too many requests")
}

/// The refusal of a request with `operations` that does not fit, as etcd words it.
fn refused(operations: usize) -> Status {
    if operations < MANY_OPERATIONS {
        return too_many();
    }
    Status::invalid_argument("etcdserver: too many operations in txn request")
}

/// The calls that change nothing and may have long answers.
const READS: [&str; 3] =
    ["/etcdserverpb.KV/Range", "/etcdserverpb.Lease/LeaseTimeToLive", "/etcdserverpb.Lease/LeaseLeases"];

/// What is said to the caller of `method` when its answer does not fit. Nobody may take what
/// was carried out for refused.
pub(super) fn unanswered(method: &str) -> Status {
    if READS.contains(&method) {
        too_many()
    } else {
        Status::data_loss(
            "the call was carried out, but its answer is not available: too much is in flight to hold it",
        )
    }
}

/// The bytes of one call; clones are the same call's.
#[derive(Debug, Clone)]
pub(super) struct CallBytes(Arc<Mutex<Counted>>);

#[derive(Debug)]
struct Counted {
    all: usize,
    held: Held,
}

impl CallBytes {
    /// Those of a call that holds nothing yet, among all of `inflight`.
    pub(super) fn of(inflight: &Arc<InflightBytes>) -> Self {
        Self(Arc::new(Mutex::new(Counted { all: 0, held: inflight.hold() })))
    }

    /// Counts `bytes` more until the call has ended; false if that is too much.
    pub(super) fn grow(&self, bytes: usize) -> bool {
        let mut counted = self.0.lock();
        let before = counted.all.max(UNCOUNTED_BYTES);
        counted.all = counted.all.saturating_add(bytes);
        let more = counted.all.max(UNCOUNTED_BYTES) - before;
        more == 0 || counted.held.grow(more)
    }
}

/// By what a connection is cut off; an extension of each of its requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Cut(Arc<Notify>);

impl Cut {
    /// Waits until it is used.
    pub(super) async fn used(&self) {
        self.0.notified().await;
    }
}

/// A request on its way in.
#[derive(Debug)]
pub(super) struct Arriving<B> {
    body: Pin<Box<B>>,
    bytes: Option<CallBytes>,
    count_operations: fn(&[u8]) -> usize,
    operations: usize,
}

impl<B> Arriving<B> {
    /// One in protobuf.
    pub(super) fn protobuf(body: B, bytes: CallBytes) -> Self {
        Self { body: Box::pin(body), bytes: Some(bytes), count_operations: |_| 0, operations: 0 }
    }

    /// One in JSON, which is not counted without `bytes`. Each object and list may become an
    /// operation.
    pub(super) fn json(body: B, bytes: Option<CallBytes>) -> Self {
        let count_operations = |part: &[u8]| part.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
        Self { body: Box::pin(body), bytes, count_operations, operations: 0 }
    }
}

impl<B> HttpBody for Arriving<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        let frame = ready!(this.body.as_mut().poll_frame(context));
        if let (Some(Ok(frame)), Some(bytes)) = (&frame, &this.bytes)
            && let Some(data) = frame.data_ref()
        {
            let operations = (this.count_operations)(data);
            this.operations += operations;
            let size = data.len().saturating_add(operations.saturating_mul(OPERATION_BYTES));
            if !bytes.grow(size) {
                return Poll::Ready(Some(Err(Refusal(refused(this.operations)).into())));
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A transaction on its way in, which goes on once its operations are counted as well.
#[derive(Debug)]
pub(super) struct Weighed<B> {
    body: B,
    bytes: CallBytes,
    most: usize,
    whole: BytesMut,
    has_ended: bool,
}

impl<B> Weighed<B> {
    /// Holds back no more than `most` bytes: what is longer is refused by whoever reads it.
    pub(super) fn new(body: B, bytes: CallBytes, most: usize) -> Self {
        Self { body, bytes, most, whole: BytesMut::new(), has_ended: false }
    }

    fn release(&mut self) -> Result<Frame<Bytes>, Status> {
        let whole = self.whole.split().freeze();
        let operations = operations_in_txn(whole.get(PREFIX_BYTES..).unwrap_or_default());
        let fits = self.bytes.grow(operations.saturating_mul(OPERATION_BYTES));
        if fits { Ok(Frame::data(whole)) } else { Err(refused(operations)) }
    }
}

impl<B> HttpBody for Weighed<B>
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        while !self.has_ended {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if self.whole.is_empty() && is_whole(&data) => self.whole = data.into(),
                    Ok(data) => {
                        self.whole.extend_from_slice(&data);
                        if self.whole.len() > self.most {
                            return Poll::Ready(Some(self.release()));
                        }
                    }
                    // Trailers of a request say nothing.
                    Err(_) => {}
                },
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => self.has_ended = true,
            }
        }
        if self.whole.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(self.release()))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended && self.whole.is_empty()
    }
}

/// Whether `data` is one message of gRPC with its prefix.
fn is_whole(data: &[u8]) -> bool {
    let Some((&[_, a, b, c, d], message)) = data.split_first_chunk() else { return false };
    u32::from_be_bytes([a, b, c, d]) as usize == message.len()
}

/// An answer on its way out, in slices.
pub(super) struct Leaving<B> {
    body: B,
    method: &'static str,
    /// `None` for streams, whose messages are not counted.
    bytes: Option<CallBytes>,
    /// What it counts since it was made.
    counted: AnswerBytes,
    cut: Option<Cut>,
    rest: Bytes,
    is_counted: bool,
    guard: Option<StallGuard>,
}

impl<B> Leaving<B> {
    /// An answer to a call of `method` that has `bytes`, and whose connection is `cut` if its
    /// client takes nothing. What it was made of is `counted`.
    pub(super) fn new(
        body: B,
        method: &'static str,
        bytes: Option<CallBytes>,
        counted: AnswerBytes,
        cut: Option<Cut>,
    ) -> Self {
        // From the start: a client may leave no room for the first byte.
        let guard = cut.as_ref().filter(|_| counted.count() > 0).map(StallGuard::start);
        Self { body, method, bytes, counted, cut, rest: Bytes::new(), is_counted: false, guard }
    }

    /// The same, where `bytes` count all of it already.
    pub(super) fn counted(body: B, method: &'static str, bytes: CallBytes, cut: Option<Cut>) -> Self {
        let guard = cut.as_ref().map(StallGuard::start);
        Self { guard, is_counted: true, ..Self::new(body, method, Some(bytes), AnswerBytes::default(), cut) }
    }

    fn slice(&mut self) -> Frame<Bytes> {
        Frame::data(self.rest.split_to(self.rest.len().min(SLICE)))
    }
}

impl<B> HttpBody for Leaving<B>
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // The client has room for more.
        if let Some(guard) = &self.guard {
            guard.progress.fetch_add(1, Ordering::Relaxed);
        }
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.slice())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let is_long =
            |frame: &Frame<Bytes>| frame.data_ref().is_some_and(|data| is_counted(data.len() as u64));
        let data = match frame {
            Some(Ok(frame)) if is_long(&frame) && self.bytes.is_some() => {
                frame.into_data().unwrap_or_default()
            }
            frame => return Poll::Ready(frame),
        };
        if !self.is_counted
            && let Some(bytes) = &self.bytes
        {
            if !bytes.grow(data.len().saturating_sub(self.counted.count())) {
                return Poll::Ready(Some(trailers(&unanswered(self.method))));
            }
            self.is_counted = true;
            if self.guard.is_none() {
                self.guard = self.cut.as_ref().map(StallGuard::start);
            }
        }
        self.rest = data;
        Poll::Ready(Some(Ok(self.slice())))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut size = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = size.upper() {
            size.set_upper(upper.saturating_add(rest));
        }
        size.set_lower(size.lower().saturating_add(rest));
        size
    }
}

/// The end of an answer that failed.
pub(super) fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
}

/// Whether an answer of `size` is counted.
pub(super) fn is_counted(size: u64) -> bool {
    size > UNCOUNTED_ANSWER_BYTES as u64
}

/// Cuts a connection off whose client takes no slice for [`STALL`], until it is dropped.
struct StallGuard {
    progress: Arc<AtomicUsize>,
    watching: AbortHandle,
}

impl StallGuard {
    fn start(cut: &Cut) -> Self {
        Self::with(cut, STALL)
    }

    fn with(cut: &Cut, stall: Duration) -> Self {
        let progress = Arc::new(AtomicUsize::new(0));
        let (seen, cut) = (Arc::clone(&progress), cut.clone());
        let watching = tokio::spawn(async move {
            let mut before = 0;
            loop {
                tokio::time::sleep(stall).await;
                let now = seen.load(Ordering::Relaxed);
                if now == before {
                    return cut.0.notify_one();
                }
                before = now;
            }
        });
        Self { progress, watching: watching.abort_handle() }
    }
}

impl Drop for StallGuard {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use kvorum_etcd_proto::gateway::PromptBody;
    use tonic::Code;
    use tonic::body::Body;

    use super::*;

    fn parts(parts: Vec<Vec<u8>>) -> Body {
        let frames = parts.into_iter().map(|part| Ok::<_, Status>(Frame::data(part.into())));
        Body::new(StreamBody::new(stream::iter(frames)))
    }

    /// One message of gRPC.
    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    async fn weighed(sent: Body, inflight: &Arc<InflightBytes>, most: usize) -> Result<Bytes, Status> {
        let bytes = CallBytes::of(inflight);
        let arriving = Arriving::protobuf(sent, bytes.clone());
        let prompt = PromptBody::new(arriving, Duration::from_secs(10));
        Ok(Weighed::new(prompt, bytes, most).collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_transaction_arrives_as_it_was_sent_however_it_is_divided() {
        let inflight = InflightBytes::new(1 << 20);
        let message = framed(&[0x12, 0].repeat(300));
        for length in [1, 5, 64, message.len(), message.len() + 1] {
            let sent = parts(message.chunks(length).map(<[u8]>::to_vec).collect());
            assert_eq!(weighed(sent, &inflight, 1 << 10).await.unwrap(), message, "{length}");
        }
        // Longer than it may be: whoever reads it says so.
        let sent = parts(message.chunks(64).map(<[u8]>::to_vec).collect());
        assert_eq!(weighed(sent, &inflight, 100).await.unwrap(), message);
        assert!(weighed(parts(vec![]), &inflight, 100).await.unwrap().is_empty());
        assert_eq!(inflight.held(), 0);
    }

    #[tokio::test]
    async fn a_transaction_that_would_become_too_large_is_refused_before_it_is_read() {
        let inflight = InflightBytes::new(1 << 20);
        for (operations, message) in [
            (10_000, "etcdserver: too many requests"),
            (100_000, "etcdserver: too many operations in txn request"),
        ] {
            let sent = parts(vec![framed(&[0x12, 0].repeat(operations))]);
            assert_eq!(weighed(sent, &inflight, 1 << 20).await.unwrap_err().message(), message);
        }
        assert_eq!(inflight.held(), 0);
    }

    #[tokio::test]
    async fn what_arrives_counts_until_the_call_has_ended_and_no_more_than_fits() {
        let inflight = InflightBytes::new(100_000);
        let bytes = CallBytes::of(&inflight);
        let small = Arriving::protobuf(parts(vec![vec![0; UNCOUNTED_BYTES]]), bytes.clone());
        small.collect().await.unwrap();
        assert_eq!(inflight.held(), 0);
        let more = Arriving::protobuf(parts(vec![vec![0; 50_000]; 2]), bytes.clone());
        more.collect().await.unwrap();
        assert_eq!(inflight.held(), 100_000);
        let other = Arriving::protobuf(parts(vec![vec![0; 5_000]]), CallBytes::of(&inflight));
        let refusal = other.collect().await.unwrap_err();
        assert_eq!(refusal.downcast::<Refusal>().unwrap().0.code(), Code::ResourceExhausted);
        drop(bytes);
        assert_eq!(inflight.held(), 0);
    }

    #[tokio::test]
    async fn objects_and_lists_in_json_count_for_what_they_may_become() {
        let inflight = InflightBytes::new(1 << 20);
        let json = |count: usize| parts(vec![b"{},".repeat(count)]);
        Arriving::json(json(1_000), Some(CallBytes::of(&inflight))).collect().await.unwrap();
        Arriving::json(json(10_000), Some(CallBytes::of(&inflight))).collect().await.unwrap_err();
        Arriving::json(json(10_000), None).collect().await.unwrap();
        assert_eq!(inflight.held(), 0);
    }

    #[tokio::test]
    async fn a_long_answer_leaves_in_slices_and_counts_until_the_last_is_taken() {
        let inflight = InflightBytes::new(1 << 20);
        let answer =
            || Body::new(Full::new(Bytes::from(vec![7; 3 * SLICE + 1])).map_err(|never| match never {}));
        let mut leaving =
            Leaving::new(answer(), READS[0], Some(CallBytes::of(&inflight)), AnswerBytes::default(), None);
        let mut sizes = Vec::new();
        while let Some(frame) = leaving.frame().await {
            sizes.push(frame.unwrap().into_data().unwrap().len());
            assert!(inflight.held() > 3 * SLICE - UNCOUNTED_BYTES);
        }
        assert_eq!(sizes, [SLICE, SLICE, SLICE, 1]);
        drop(leaving);
        assert_eq!(inflight.held(), 0);

        let mut short = Leaving::new(
            parts(vec![vec![0; UNCOUNTED_ANSWER_BYTES]]),
            READS[0],
            Some(CallBytes::of(&inflight)),
            AnswerBytes::default(),
            None,
        );
        short.frame().await.unwrap().unwrap();
        assert_eq!(inflight.held(), 0);
        let mut stream = Leaving::new(answer(), "", None, AnswerBytes::default(), None);
        assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap().len(), 3 * SLICE + 1);
    }

    #[tokio::test]
    async fn what_an_answer_was_made_of_goes_on_counting_for_it_and_not_twice() {
        let inflight = InflightBytes::new(4 * SLICE);
        let counted = inflight.hold_answer(3 * SLICE).unwrap();
        let bytes = Some(CallBytes::of(&inflight));
        let body = parts(vec![vec![0; 3 * SLICE + 100]]);
        let mut leaving = Leaving::new(body, READS[0], bytes, counted, None);
        assert_eq!(inflight.held(), 3 * SLICE);
        let mut left = 0;
        while let Some(frame) = leaving.frame().await {
            left += frame.unwrap().into_data().unwrap().len();
            assert!((3 * SLICE..4 * SLICE).contains(&inflight.held()));
        }
        assert_eq!(left, 3 * SLICE + 100);
        drop(leaving);
        assert_eq!(inflight.held(), 0);
    }

    #[tokio::test]
    async fn a_client_is_watched_from_the_start_if_what_it_asked_for_counts() {
        let inflight = InflightBytes::new(4 * SLICE);
        for (size, is_watched) in [(2 * SLICE, true), (1, false)] {
            let counted = inflight.hold_answer(size).unwrap();
            // Also if it is a stream, of messages that are not counted.
            let leaving = Leaving::new(parts(vec![vec![0; 9]]), "", None, counted, Some(Cut::default()));
            assert_eq!(leaving.guard.is_some(), is_watched, "{size}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_fit_is_a_refusal_of_a_read_and_a_loss_after_a_write() {
        let inflight = InflightBytes::new(SLICE);
        for (method, code) in [(READS[0], Code::ResourceExhausted), ("/etcdserverpb.KV/Put", Code::DataLoss)]
        {
            let bytes = Some(CallBytes::of(&inflight));
            let mut leaving =
                Leaving::new(parts(vec![vec![0; 2 * SLICE]]), method, bytes, AnswerBytes::default(), None);
            let frame = leaving.frame().await.unwrap().unwrap();
            let status = Status::from_header_map(frame.trailers_ref().unwrap()).unwrap();
            assert_eq!(status.code(), code, "{method}");
            assert_eq!(inflight.held(), 0);
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_loses_its_connection_and_one_that_has_its_answer_does_not() {
        let (stalled, done) = (Cut::default(), Cut::default());
        drop(StallGuard::with(&done, Duration::from_millis(1)));
        let _stalled = StallGuard::with(&stalled, Duration::from_millis(50));
        tokio::select! {
            () = done.used() => panic!("it had its answer"),
            () = stalled.used() => {}
        }
    }
}
