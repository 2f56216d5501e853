//! What a caller over HTTP is told: bodies, errors, and the status for each gRPC code.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::{Code, Status};

/// The error of a call, with the names that clients of etcd's gateway look for: older ones
/// read `error`, newer ones `message`.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    code: i32,
    message: &'a str,
    details: [(); 0],
}

/// The error that ends a stream, again with the names of all versions.
#[derive(Serialize)]
struct StreamErrorBody<'a> {
    error: StreamError<'a>,
}

#[derive(Serialize)]
struct StreamError<'a> {
    grpc_code: i32,
    http_code: u16,
    message: &'a str,
    http_status: &'a str,
    code: i32,
    details: [(); 0],
}

/// A whole body of JSON.
pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    with_body(status, Body::new(Full::new(body.into())))
}

/// A body of JSON that goes on.
pub(super) fn with_body(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a call that failed.
pub fn failed(status: &Status) -> Response<Body> {
    let message = status.message();
    let body = ErrorBody { error: message, code: status.code().into(), message, details: [] };
    json(http_status(status.code()), written(&body))
}

/// The answer to a stream that failed before it began.
pub(super) fn stream_refused(status: &Status) -> Response<Body> {
    json(http_status(status.code()), stream_failed(status))
}

/// The last line of a stream that failed.
pub(super) fn stream_failed(status: &Status) -> Bytes {
    let http = http_status(status.code());
    let code = status.code().into();
    let error = StreamError {
        grpc_code: code,
        http_code: http.as_u16(),
        message: status.message(),
        http_status: http.canonical_reason().unwrap_or("Client Closed Request"),
        code,
        details: [],
    };
    let mut line = written(&StreamErrorBody { error });
    line.push(b'\n');
    line.into()
}

/// One line of a stream.
pub(super) fn stream_line(message: &[u8]) -> Bytes {
    [b"{\"result\":".as_slice(), message, b"}\n"].concat().into()
}

/// The refusal of a request above the limit, as etcd words it.
pub(super) fn too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

/// The error of a body that was refused by whoever carries it, for a reason to be told.
#[derive(Debug, Clone)]
pub struct Refusal(pub Status);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.message())
    }
}

impl std::error::Error for Refusal {}

/// The failure of a request whose body ends in an error: of the connection, or a refusal.
pub(super) fn broken_off(error: &StdError) -> Status {
    if let Some(Refusal(status)) = error.downcast_ref() {
        return status.clone();
    }
    Status::cancelled(format!("the body of the request broke off: {error}"))
}

fn written(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings and numbers can be written")
}

/// The HTTP status that stands for a gRPC code.
pub fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // Not in the standard; the field knows it as "client closed request".
        Code::Cancelled => StatusCode::from_u16(499).expect("it has three digits"),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}
