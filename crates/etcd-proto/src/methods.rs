//! The table of all methods: where each is found over gRPC and HTTP, and how its messages
//! go from JSON to protobuf and back.

use bytes::Bytes;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A method of a service.
#[derive(Debug)]
pub struct Method {
    /// The path of its gRPC calls, such as `/etcdserverpb.KV/Range`.
    pub path: &'static str,
    /// Where it takes JSON by POST; empty when only gRPC reaches it.
    pub http_paths: &'static [&'static str],
    /// Whether a caller sends any number of requests.
    pub client_streaming: bool,
    /// Whether it gives any number of responses.
    pub server_streaming: bool,
    /// Reads one request written as JSON and encodes it.
    ///
    /// Field names may be those of the definitions or in camel case, unknown ones are
    /// skipped, and integers of 64 bits may be strings or numbers.
    ///
    /// # Errors
    /// What is wrong with the JSON, and where.
    pub to_protobuf: fn(&[u8]) -> Result<Bytes, MalformedRequest>,
    /// Writes one encoded response as JSON: field names as defined, integers of 64 bits as
    /// strings, bytes as Base64, enumerations by name, and no field that has its default.
    ///
    /// # Errors
    /// The bytes are no such message, or hold an enumeration's number that has no name.
    pub to_json: fn(Bytes) -> Result<Vec<u8>, UnprintableMessage>,
}

/// What serde says of a number that is none of those that it tries.
const NO_FORM_FITS: &str = "data did not match any variant of untagged enum Content";

/// JSON that is no request of the method.
#[derive(Debug, Error)]
pub enum MalformedRequest {
    /// It is not JSON, or no object.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A field holds what it can't.
    #[error("{field}: {problem}")]
    Field {
        /// Where it is, such as `compare[0].version`.
        field: String,
        /// What is wrong with it, and the line and column.
        problem: String,
    },
}

impl MalformedRequest {
    fn of(error: serde_path_to_error::Error<serde_json::Error>) -> Self {
        let field = error.path().to_string();
        let error = error.into_inner();
        if error.is_syntax() || error.is_eof() || field == "." {
            return Self::Json(error);
        }
        let problem = error.to_string().replace(NO_FORM_FITS, "not a number that fits the field");
        Self::Field { field, problem }
    }
}

/// A response that has no JSON form.
#[derive(Debug, Error)]
pub enum UnprintableMessage {
    /// The bytes are not the response of the method.
    #[error("the response cannot be decoded")]
    Decode(#[from] prost::DecodeError),
    /// The response holds what its definition does not name.
    #[error("the response cannot be written as JSON")]
    Write(#[from] serde_json::Error),
}

/// The method whose gRPC path is `path`.
pub fn method(path: &str) -> Option<&'static Method> {
    at_path(path).and_then(|at| METHODS.get(at))
}

/// The method that takes JSON at `http_path`. The paths of etcd 3.3, which begin with
/// `/v3beta`, lead to the same methods, as they still do in etcd.
pub fn method_at(http_path: &str) -> Option<&'static Method> {
    let at = match http_path.strip_prefix("/v3beta/") {
        Some(rest) => at_http_path(&format!("/v3/{rest}")),
        None => at_http_path(http_path),
    };
    at.and_then(|at| METHODS.get(at))
}

fn request<M: Message + DeserializeOwned>(json: &[u8]) -> Result<Bytes, MalformedRequest> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let message: M = serde_path_to_error::deserialize(&mut reader).map_err(MalformedRequest::of)?;
    reader.end()?;
    Ok(message.encode_to_vec().into())
}

fn response<M: Message + Default + Serialize>(protobuf: Bytes) -> Result<Vec<u8>, UnprintableMessage> {
    Ok(serde_json::to_vec(&M::decode(protobuf)?)?)
}

include!(concat!(env!("OUT_DIR"), "/methods.rs"));
