//! Failures as HTTP answers: one status, one stable code, one JSON form.
//!
//! [`Failure`] adds to [`Error`] what only HTTP can get wrong. The mapping is
//! one exhaustive `match`, so that a new error can't go out unnoticed as a 500.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::error::Error;

/// The store's revision that an answer reflects.
pub(super) const REVISION: HeaderName = HeaderName::from_static("x-kvorum-revision");

/// Longer messages are cut: they may quote a request of megabytes.
const MAX_MESSAGE_CHARS: usize = 512;

/// Why a request is not answered with a 2xx.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The layer below refused or failed.
    #[error(transparent)]
    Service(#[from] Error),
    /// A key that does not exist was read.
    #[error("the key does not exist")]
    KeyAbsent {
        /// The store's revision of which that is true.
        revision: i64,
    },
    /// A part of the request is refused.
    #[error("{place}: {error}")]
    Part {
        /// The part, such as `operations[3].put`.
        place: String,
        /// What is wrong with it.
        error: Error,
    },
    /// A batch stopped midway.
    #[error("{completed} of {total} operations were carried out, and then: {}", what_stopped(.error))]
    Batch {
        /// How many operations certainly were carried out: the first ones.
        completed: usize,
        /// How many the batch has.
        total: usize,
        /// What the transaction of the next ones failed with.
        error: Error,
    },
    /// The client's copy is the current one.
    #[error("not modified")]
    NotModified {
        /// The key's modification revision.
        mod_revision: i64,
        /// The store's revision.
        revision: i64,
    },
    /// No such path.
    #[error("no such path; /openapi.json lists what is served")]
    UnknownPath,
    /// The path exists, but not with this method.
    #[error("this path does not take that method; it takes {allow}")]
    MethodNotAllowed {
        /// The value of the `Allow` header.
        allow: String,
    },
    /// The body arrived too slowly.
    #[error("the request's body stalled: less than 64 KiB arrived within {0:?}; nothing was changed")]
    BodyStalled(Duration),
    /// The body ended early or its encoding is broken.
    #[error("the request's body broke off ({0}); nothing was changed")]
    BodyBroken(String),
}

impl Failure {
    /// A malformed request.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Service(Error::Invalid(message.into()))
    }

    /// The failure as clients read it.
    pub(super) fn answer(&self) -> ErrorAnswer {
        let (code, message) = (self.code(), shortened(self.to_string()));
        ErrorAnswer { error: ErrorBody { code, message, details: self.details() } }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Service(error) | Self::Part { error, .. } | Self::Batch { error, .. } => error.code(),
            Self::KeyAbsent { .. } | Self::UnknownPath => "not_found",
            Self::NotModified { .. } => "not_modified",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::BodyStalled(_) => "timeout",
            Self::BodyBroken(_) => "invalid_request",
        }
    }

    fn details(&self) -> Value {
        match self {
            Self::Service(error) | Self::Part { error, .. } => service_details(error),
            Self::Batch { completed, total: _, error } => {
                let mut details = service_details(error);
                if let Some(details) = details.as_object_mut() {
                    details.insert("completed".to_owned(), json!(completed));
                }
                details
            }
            Self::KeyAbsent { revision } => json!({ "revision": revision }),
            Self::MethodNotAllowed { allow } => json!({ "allow": allow }),
            Self::NotModified { .. } | Self::UnknownPath | Self::BodyStalled(_) | Self::BodyBroken(_) => {
                json!({})
            }
        }
    }

    /// Headers that belong to the status, beside the body's.
    fn headers(&self, response: &mut HttpResponse) {
        let headers = response.headers_mut();
        match self {
            Self::Service(error) | Self::Part { error, .. } | Self::Batch { error, .. } => {
                if let Some((name, value)) = service_header(error) {
                    headers.insert(name, value);
                }
            }
            Self::KeyAbsent { revision } => {
                headers.insert(REVISION, HeaderValue::from(*revision));
            }
            Self::NotModified { mod_revision, revision } => {
                headers.insert(REVISION, HeaderValue::from(*revision));
                headers.insert(header::ETAG, super::etag::format(*mod_revision));
            }
            Self::MethodNotAllowed { allow } => {
                let allow = HeaderValue::from_str(allow).expect("method names are ASCII tokens");
                headers.insert(header::ALLOW, allow);
            }
            Self::UnknownPath | Self::BodyStalled(_) | Self::BodyBroken(_) => {}
        }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Service(error) | Self::Part { error, .. } | Self::Batch { error, .. } => {
                service_status(error)
            }
            Self::KeyAbsent { .. } | Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::NotModified { .. } => StatusCode::NOT_MODIFIED,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyStalled(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyBroken(_) => StatusCode::BAD_REQUEST,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = if matches!(self, Self::NotModified { .. }) {
            HttpResponse::NotModified().finish()
        } else {
            HttpResponse::build(self.status_code()).json(self.answer())
        };
        self.headers(&mut response);
        response
    }
}

/// The status of each error of the layer below.
fn service_status(error: &Error) -> StatusCode {
    match error {
        Error::Invalid(_)
        | Error::FutureRevision { .. }
        | Error::LeaseTtlTooLarge { .. }
        | Error::DuplicateKey
        | Error::TooManyOperations { .. } => StatusCode::BAD_REQUEST,
        Error::TooLarge { .. } | Error::DeletionTooLarge { .. } | Error::AnswerTooLarge { .. } => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        Error::NotFound(_) | Error::LeaseNotFound { .. } | Error::KeyNotFound => StatusCode::NOT_FOUND,
        Error::Unauthorized(_) => StatusCode::UNAUTHORIZED,
        Error::ConditionFailed { .. } => StatusCode::PRECONDITION_FAILED,
        Error::IdempotencyMismatch
        | Error::Conflict { .. }
        | Error::LeaseExists { .. }
        | Error::AnswerLost { .. } => StatusCode::CONFLICT,
        Error::Compacted { .. } => StatusCode::GONE,
        Error::NotLeader { .. } | Error::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Error::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
        Error::ReadTimeout(_) | Error::Unknown { .. } | Error::StillRunning(_) | Error::CatchUp { .. } => {
            StatusCode::GATEWAY_TIMEOUT
        }
        Error::NoSpace { .. } => StatusCode::INSUFFICIENT_STORAGE,
        Error::Corrupt { .. } | Error::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The header that belongs to an error of the layer below, if one does.
fn service_header(error: &Error) -> Option<(HeaderName, HeaderValue)> {
    if let Error::Unavailable { retry_after, .. } = error {
        // A client that waits for zero seconds would spin.
        let seconds = retry_after.as_millis().div_ceil(1000).max(1) as u64;
        return Some((header::RETRY_AFTER, HeaderValue::from(seconds)));
    }
    match service_status(error) {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            Some((header::RETRY_AFTER, HeaderValue::from_static("1")))
        }
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        _ => None,
    }
}

/// What a batch stopped at. A batch takes no idempotency key, so that of the
/// advice for a single write none is left.
fn what_stopped(error: &Error) -> String {
    if let Error::Unknown { reason } = error {
        return format!(
            "the outcome of the transaction after them is unknown ({reason}); it may still commit"
        );
    }
    error.to_string()
}

/// The machine-readable part of each error of the layer below.
fn service_details(error: &Error) -> Value {
    match error {
        Error::TooLarge { what, size, limit, option } => {
            json!({ "what": what, "size": size, "limit": limit, "option": option })
        }
        Error::ConditionFailed { mod_revision, revision } => {
            json!({ "mod_revision": mod_revision, "revision": revision })
        }
        Error::Compacted { requested, oldest } => json!({ "requested": requested, "oldest": oldest }),
        Error::FutureRevision { requested, current } => {
            json!({ "requested": requested, "current": current })
        }
        Error::NotLeader { node: _, leader } => {
            let (id, addr) = leader.as_ref().map(|(id, addr)| (id, addr.as_str())).unzip();
            json!({ "leader_id": id, "leader_addr": addr })
        }
        Error::CatchUp { message: _, matched_index, last_log_index } => {
            json!({ "matched_index": matched_index, "last_log_index": last_log_index })
        }
        Error::LeaseNotFound { id } | Error::LeaseExists { id } => json!({ "lease": id }),
        Error::LeaseTtlTooLarge { ttl, limit } => json!({ "ttl": ttl, "limit": limit }),
        Error::TooManyOperations { count, limit } => json!({ "count": count, "limit": limit }),
        Error::DeletionTooLarge { max_keys, max_bytes } => {
            json!({ "max_keys": max_keys, "max_bytes": max_bytes })
        }
        Error::AnswerTooLarge { limit } => json!({ "limit": limit }),
        Error::AnswerLost { revision, reason: _ } => json!({ "revision": revision }),
        Error::NoSpace { member } | Error::Corrupt { member } => json!({ "member": member }),
        Error::Invalid(_)
        | Error::KeyNotFound
        | Error::DuplicateKey
        | Error::NotFound(_)
        | Error::Unauthorized(_)
        | Error::IdempotencyMismatch
        | Error::Conflict { .. }
        | Error::Unavailable { .. }
        | Error::Overloaded { .. }
        | Error::ReadTimeout(_)
        | Error::Unknown { .. }
        | Error::StillRunning(_)
        | Error::Internal { .. } => json!({}),
    }
}

fn shortened(mut message: String) -> String {
    if let Some((cut, _)) = message.char_indices().nth(MAX_MESSAGE_CHARS) {
        message.truncate(cut);
        message.push('…');
    }
    message
}

/// Every answer that is not 2xx.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Serialize, ToSchema)]
struct ErrorBody {
    /// One of a short documented list.
    #[schema(example = "invalid_request")]
    code: &'static str,
    /// What was wrong with which input, and what to do.
    message: String,
    /// Numbers and names that belong to the code; an empty object if there are none.
    #[schema(value_type = Object)]
    details: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(shortened("é".repeat(513)), format!("{}…", "é".repeat(512)));
        assert_eq!(shortened("é".repeat(512)), "é".repeat(512));
    }

    #[test]
    fn every_service_error_has_the_documented_status_and_code() {
        let leader = Some((2, "127.0.0.1:2".to_owned()));
        let wait = Duration::from_millis(1500);
        for (error, status, code) in [
            (Error::Invalid("x".into()), 400, "invalid_request"),
            (Error::TooLarge { what: "value", size: 2, limit: 1, option: "o" }, 413, "too_large"),
            (Error::NotFound("x".into()), 404, "not_found"),
            (Error::Unauthorized("x".into()), 401, "unauthorized"),
            (Error::ConditionFailed { mod_revision: 1, revision: 2 }, 412, "condition_failed"),
            (Error::IdempotencyMismatch, 409, "idempotency_mismatch"),
            (
                Error::Conflict { code: "already_initialized", message: "x".into() },
                409,
                "already_initialized",
            ),
            (Error::LeaseTtlTooLarge { ttl: 2, limit: 1 }, 400, "lease_ttl_too_large"),
            (Error::DeletionTooLarge { max_keys: 1, max_bytes: 2 }, 413, "deletion_too_large"),
            (Error::AnswerTooLarge { limit: 1 }, 413, "answer_too_large"),
            (Error::Compacted { requested: 1, oldest: 2 }, 410, "compacted"),
            (Error::FutureRevision { requested: 2, current: 1 }, 400, "future_revision"),
            (Error::NotLeader { node: 1, leader }, 503, "not_leader"),
            (Error::Unavailable { reason: "x".into(), retry_after: wait }, 503, "unavailable"),
            (Error::Overloaded { node: 1 }, 429, "overloaded"),
            (Error::ReadTimeout(wait), 504, "timeout"),
            (Error::Unknown { reason: "x".into() }, 504, "outcome_unknown"),
            (Error::StillRunning("x".into()), 504, "timeout"),
            (
                Error::CatchUp { message: "x".into(), matched_index: None, last_log_index: Some(3) },
                504,
                "timeout",
            ),
            (Error::NoSpace { member: 1 }, 507, "no_space"),
            (Error::Corrupt { member: 1 }, 500, "corrupt"),
            (Error::Internal { node: 1, reason: "x".into() }, 500, "internal"),
        ] {
            let retry = matches!(code, "not_leader" | "unavailable" | "overloaded");
            let failure = Failure::from(error);
            let response = failure.error_response();
            assert_eq!((response.status().as_u16(), failure.code()), (status, code));
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), retry, "{code}");
            assert!(failure.details().is_object());
        }
    }

    #[test]
    fn retry_after_is_in_whole_seconds_rounded_up() {
        let error = Error::Unavailable { reason: String::new(), retry_after: Duration::from_millis(1500) };
        let response = Failure::from(error).error_response();
        assert_eq!(response.headers().get(header::RETRY_AFTER).unwrap(), "2");
    }
}
