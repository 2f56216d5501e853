//! Failures in etcd's words: clients compare code and text.
//!
//! Where etcd has an error of the same meaning, exactly that is answered; anything else says
//! what happened after the same prefix. What may have been carried out is never told in words
//! that make clients try again by themselves.

use tonic::{Code, Status};

use crate::error::Error;

/// What may go into a message; the rest of a longer one is cut off.
const MAX_MESSAGE_CHARS: usize = 512;

/// The status that etcd would answer for `error`.
pub(super) fn of(error: &Error) -> Status {
    let (code, message) = match error {
        Error::Invalid(_) | Error::IdempotencyMismatch => return ours(Code::InvalidArgument, error),
        Error::TooLarge { .. } => return request_too_large(),
        Error::NotFound(_) => return ours(Code::NotFound, error),
        Error::Unauthorized(_) => return ours(Code::PermissionDenied, error),
        Error::ConditionFailed { .. } | Error::Conflict { .. } => {
            return ours(Code::FailedPrecondition, error);
        }
        Error::LeaseNotFound { .. } => (Code::NotFound, "etcdserver: requested lease not found"),
        Error::LeaseExists { .. } => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        Error::LeaseTtlTooLarge { .. } => (Code::OutOfRange, "etcdserver: too large lease TTL"),
        Error::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
        Error::DuplicateKey => (Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
        Error::TooManyOperations { .. } => {
            (Code::InvalidArgument, "etcdserver: too many operations in txn request")
        }
        Error::DeletionTooLarge { .. } => {
            (Code::ResourceExhausted, "etcdserver: too much to delete at once; delete smaller ranges")
        }
        Error::AnswerTooLarge { .. } => return ours(Code::ResourceExhausted, error),
        Error::NoSpace { .. } => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        Error::Corrupt { .. } => (Code::DataLoss, "etcdserver: corrupt cluster"),
        Error::AnswerLost { .. } => return ours(Code::DataLoss, error),
        Error::Compacted { .. } => {
            (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
        }
        Error::FutureRevision { .. } => {
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
        }
        Error::NotLeader { .. } | Error::Unavailable { .. } => (Code::Unavailable, "etcdserver: no leader"),
        Error::Overloaded { .. } => (Code::ResourceExhausted, "etcdserver: too many requests"),
        Error::ReadTimeout(_) | Error::StillRunning(_) | Error::CatchUp { .. } | Error::Unknown { .. } => {
            (Code::Unavailable, "etcdserver: request timed out")
        }
        Error::Internal { .. } => return ours(Code::Internal, error),
    };
    Status::new(code, message)
}

/// A failure that etcd does not know.
fn ours(code: Code, error: &Error) -> Status {
    let message: String = error.to_string().chars().take(MAX_MESSAGE_CHARS).collect();
    Status::new(code, format!("etcdserver: {message}"))
}

pub(super) fn request_too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

pub(super) fn empty_key() -> Status {
    Status::invalid_argument("etcdserver: key is not provided")
}

pub(super) fn invalid_sort_option() -> Status {
    Status::invalid_argument("etcdserver: invalid sort option")
}

pub(super) fn value_provided() -> Status {
    Status::invalid_argument("etcdserver: value is provided")
}

pub(super) fn lease_provided() -> Status {
    Status::invalid_argument("etcdserver: lease is provided")
}

pub(super) fn too_many_operations() -> Status {
    of(&Error::TooManyOperations { count: 0, limit: 0 })
}

pub(super) fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

pub(super) fn stopped() -> Status {
    Status::unavailable("etcdserver: server stopped")
}
