//! Carries out calls of one request and one answer.
//!
//! The library's way is made for streams in both directions, and makes buffers and futures that a
//! short call has no use for. This one must not show: a service is given the same, and its caller
//! is told the same, but for the words in which a request that is none is refused.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// gRPC's prefix of a message: a byte that says whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");

/// Whether [`answer`] can answer the call with these `headers`: it knows no compression.
pub fn is_plain(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_none_or(|encoding| encoding == "identity")
}

/// Answers `call`, whose request has at most `limit` bytes, with what `carry_out` makes of it.
pub async fn answer<Q, A, F>(
    call: http::Request<Body>,
    limit: usize,
    carry_out: impl FnOnce(Request<Q>) -> F,
) -> http::Response<Body>
where
    Q: Message + Default,
    A: Message,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let (head, body) = call.into_parts();
    let answered = match request(body, limit).await {
        Ok(message) => {
            let metadata = MetadataMap::from_headers(head.headers);
            carry_out(Request::from_parts(metadata, head.extensions, message)).await
        }
        Err(status) => Err(status),
    };
    answered.and_then(whole).unwrap_or_else(Status::into_http)
}

/// Reads the only request of a call.
async fn request<Q: Message + Default>(mut body: Body, limit: usize) -> Result<Q, Status> {
    let mut arrived = Arrived::default();
    while let Some(frame) = body.frame().await {
        // Trailers of a request say nothing.
        if let Ok(part) = frame?.into_data() {
            arrived.push(part);
            arrived.check(limit)?;
        }
    }
    Q::decode(arrived.message()?).map_err(|error| Status::internal(error.to_string()))
}

/// What has arrived of a request, which mostly is all of it at once.
#[derive(Default)]
struct Arrived {
    first: Bytes,
    more: BytesMut,
}

impl Arrived {
    fn push(&mut self, part: Bytes) {
        if self.is_empty() {
            self.first = part;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.more.extend_from_slice(&part);
    }

    fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    fn bytes(&self) -> &[u8] {
        if self.more.is_empty() { &self.first } else { &self.more }
    }

    /// The length that the prefix tells, once that is there.
    fn length(&self) -> Option<usize> {
        let mut prefix = self.bytes().get(1..PREFIX_BYTES)?;
        Some(prefix.get_u32() as usize)
    }

    /// Refuses what can't become a request, however much is still to come.
    fn check(&self, limit: usize) -> Result<(), Status> {
        if self.bytes().first().is_some_and(|flag| *flag != 0) {
            return Err(Status::internal("the request is compressed, and its headers do not say how"));
        }
        match self.length() {
            // As etcd's own library words it.
            Some(length) if length > limit => Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {limit})"
            ))),
            Some(length) if self.bytes().len() - PREFIX_BYTES > length => {
                Err(Status::internal("the call has more than one request"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn message(self) -> Result<Bytes, Status> {
        let Some(length) = self.length() else { return Err(Status::internal("the call has no request")) };
        let mut message = if self.more.is_empty() { self.first } else { self.more.freeze() };
        message.advance(PREFIX_BYTES);
        if message.len() == length { Ok(message) } else { Err(Status::internal("the request broke off")) }
    }
}

fn whole<A: Message>(answer: Response<A>) -> Result<http::Response<Body>, Status> {
    let (metadata, message, extensions) = answer.into_parts();
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).map_err(|_| Status::internal("the answer is too long"))?);
    message.encode(&mut framed).map_err(|error| Status::internal(error.to_string()))?;
    let mut response = http::Response::new(Body::new(Whole { message: framed.freeze(), has_ended: false }));
    *response.headers_mut() = metadata.into_headers();
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    *response.extensions_mut() = extensions;
    Ok(response)
}

/// The only message of an answer, and that the call succeeded.
struct Whole {
    message: Bytes,
    has_ended: bool,
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.message.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.message)))));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.has_ended = true;
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(Status::GRPC_STATUS, OK);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::stream;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;
    use crate::etcdserverpb::{PutRequest, PutResponse, ResponseHeader};

    const LIMIT: usize = 100;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[0][..], &length.to_be_bytes(), message].concat()
    }

    fn call(parts: Vec<Result<Vec<u8>, Status>>) -> http::Request<Body> {
        let frames = parts.into_iter().map(|part| part.map(|part| Frame::data(part.into())));
        http::Request::new(Body::new(StreamBody::new(stream::iter(frames))))
    }

    /// Answers the lease that was asked for as a revision; a lease below zero is refused.
    async fn echo(call: http::Request<Body>) -> http::Response<Body> {
        answer(call, LIMIT, |request: Request<PutRequest>| {
            let lease = request.get_ref().lease;
            if lease < 0 {
                return ready(Err(Status::not_found("no lease 100%")));
            }
            let header = Some(ResponseHeader { revision: lease, ..ResponseHeader::default() });
            let mut answer = Response::new(PutResponse { header, ..PutResponse::default() });
            if let Some(meant) = request.metadata().get("meant") {
                answer.metadata_mut().insert("told", meant.clone());
            }
            *answer.extensions_mut() = request.extensions().clone();
            ready(Ok(answer))
        })
        .await
    }

    fn put(lease: i64) -> Vec<u8> {
        framed(&PutRequest { key: "k".into(), lease, ..PutRequest::default() }.encode_to_vec())
    }

    /// The message and the status of an answer; the status comes last.
    async fn told(response: http::Response<Body>) -> (Option<Bytes>, Status) {
        if let Some(status) = Status::from_header_map(response.headers()) {
            return (None, status);
        }
        let whole = response.into_body().collect().await.unwrap();
        let status = Status::from_header_map(whole.trailers().unwrap()).unwrap();
        (Some(whole.to_bytes()), status)
    }

    #[tokio::test]
    async fn a_request_is_answered_however_it_is_divided() {
        let header = Some(ResponseHeader { revision: 7, ..ResponseHeader::default() });
        let expected = framed(&PutResponse { header, ..PutResponse::default() }.encode_to_vec());
        let request = put(7);
        for at in 0..=request.len() {
            let (one, other) = request.split_at(at);
            let call = call(vec![Ok(one.to_vec()), Ok(other.to_vec())]);
            let (message, status) = told(echo(call).await).await;
            assert_eq!((message.unwrap(), status.code()), (expected.clone().into(), Code::Ok), "cut at {at}");
        }
        let bytes = call(request.into_iter().map(|byte| Ok(vec![byte])).collect());
        assert_eq!(told(echo(bytes).await).await.0.unwrap(), expected);
    }

    #[tokio::test]
    async fn an_empty_request_is_one() {
        let (message, _) = told(echo(call(vec![Ok(framed(b""))])).await).await;
        assert!(message.is_some());
    }

    #[tokio::test]
    async fn headers_and_extensions_pass_both_ways() {
        let mut call = call(vec![Ok(put(7))]);
        call.headers_mut().insert("meant", HeaderValue::from_static("well"));
        call.extensions_mut().insert(5_u16);
        let answer = echo(call).await;
        assert_eq!(answer.headers()["told"], "well");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/grpc");
        assert_eq!(answer.extensions().get::<u16>(), Some(&5));
    }

    #[tokio::test]
    async fn a_failure_is_told_in_the_headers() {
        let (message, status) = told(echo(call(vec![Ok(put(-1))])).await).await;
        assert_eq!(message, None);
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no lease 100%"));
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let mut compressed = put(7);
        compressed[0] = 1;
        let mut broken = put(7);
        broken.pop();
        let too_long = [&[0][..], &200_u32.to_be_bytes()].concat();
        for (parts, code, message) in [
            (vec![], Code::Internal, "the call has no request"),
            (vec![Ok(vec![0, 0])], Code::Internal, "the call has no request"),
            (vec![Ok(broken)], Code::Internal, "the request broke off"),
            (vec![Ok(put(7)), Ok(put(7))], Code::Internal, "the call has more than one request"),
            (
                vec![Ok(compressed)],
                Code::Internal,
                "the request is compressed, and its headers do not say how",
            ),
            // Before it has arrived.
            (
                vec![Ok(too_long), Err(Status::unknown("it was waited for"))],
                Code::ResourceExhausted,
                "grpc: received message larger than max (200 vs. 100)",
            ),
            (vec![Ok(put(7)), Err(Status::aborted("gone"))], Code::Aborted, "gone"),
        ] {
            let (_, status) = told(echo(call(parts)).await).await;
            assert_eq!((status.code(), status.message()), (code, message));
        }
        let garbage = call(vec![Ok(framed(&[0xff; 9]))]);
        assert_eq!(told(echo(garbage).await).await.1.code(), Code::Internal);
    }

    #[test]
    fn only_what_is_not_compressed_is_plain() {
        let headers = |encoding| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-encoding"),
                HeaderValue::from_static(encoding),
            )])
        };
        assert!(is_plain(&HeaderMap::new()));
        assert!(is_plain(&headers("identity")));
        assert!(!is_plain(&headers("gzip")));
    }
}
