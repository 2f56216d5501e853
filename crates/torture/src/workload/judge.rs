//! What an answer, or none, says about whether a call was carried out.
//!
//! Invariant: "failed" is said only where the server's documents say that the call was
//! certainly not carried out, or where it was certainly never sent. Whatever is not known
//! to mean that is "unknown": a checker can live with too little knowledge, not with false
//! knowledge.

use std::error::Error as _;

use tonic::{Code, ConnectError, Status};

use super::http::{Answer, Trouble};
use crate::history::{Call, Outcome};

/// Codes of HTTP errors that say that nothing was changed, whatever was asked.
const REFUSALS: [&str; 20] = [
    "invalid_request",
    "future_revision",
    "duplicate_key",
    "too_many_operations",
    "lease_ttl_too_large",
    "unauthorized",
    "not_found",
    "lease_not_found",
    "key_not_found",
    "method_not_allowed",
    "lease_exists",
    "compacted",
    "condition_failed",
    "too_large",
    "deletion_too_large",
    "overloaded",
    "corrupt",
    "not_leader",
    "unavailable",
    "no_space",
];

/// How the reason of what was never sent begins.
pub(super) const NOT_SENT: &str = "not sent: ";

/// The longest text that is remembered of what was told.
const LONGEST: usize = 200;

fn failed(reason: impl Into<String>) -> Outcome {
    Outcome::Failed { reason: cut(reason.into()) }
}

/// An outcome of which nothing is known, and why.
pub(super) fn unknown(reason: impl Into<String>) -> Outcome {
    Outcome::Unknown { reason: cut(reason.into()) }
}

fn cut(text: String) -> String {
    if text.chars().count() <= LONGEST { text } else { text.chars().take(LONGEST).collect() }
}

/// Of an answer over HTTP that is an error.
pub(super) fn refusal(call: &Call, answer: &Answer) -> Outcome {
    let Some(code) = answer.code() else {
        return unknown(format!("{} without an error's form", answer.status));
    };
    let told = format!("{} {code}", answer.status);
    let certain = REFUSALS.contains(&code.as_str())
        || match (answer.status, code.as_str()) {
            (408, "timeout") => true,
            (504, "timeout") | (413, "answer_too_large") => call.only_reads(),
            _ => false,
        };
    if certain { failed(told) } else { unknown(told) }
}

/// Of a call over HTTP that has no answer.
pub(super) fn trouble(trouble: &Trouble) -> Outcome {
    match trouble {
        Trouble::NotSent(reason) => failed(format!("{NOT_SENT}{reason}")),
        Trouble::Lost(reason) => unknown(reason.clone()),
    }
}

/// Of a call over gRPC that did not succeed.
pub(super) fn status(call: &Call, status: &Status) -> Outcome {
    if was_not_sent(status) {
        return failed(format!("{NOT_SENT}{}", status.message()));
    }
    let message = status.message();
    let told = format!("{:?} {message}", status.code());
    // What does not come from the server itself does not begin so.
    let certain = message.starts_with("etcdserver: ")
        && match status.code() {
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => true,
            Code::Unavailable => {
                message == "etcdserver: no leader"
                    || message == "etcdserver: request timed out" && call.only_reads()
            }
            Code::ResourceExhausted => {
                matches!(
                    message,
                    "etcdserver: too many requests"
                        | "etcdserver: mvcc: database space exceeded"
                        | "etcdserver: too much to delete at once; delete smaller ranges"
                )
            }
            Code::DataLoss => message == "etcdserver: corrupt cluster",
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal => false,
        };
    if certain { failed(told) } else { unknown(told) }
}

/// Whether there was no connection over which it could have been sent.
fn was_not_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Step;

    fn write() -> Call {
        let put = Step::Put { key: "k".to_owned(), value: "v".to_owned(), lease: None };
        let read = Step::Get { key: "k".to_owned() };
        Call::Txn { compares: Vec::new(), then: vec![put], otherwise: vec![read], local: false }
    }

    fn read() -> Call {
        let then = vec![Step::Get { key: "k".to_owned() }];
        Call::Txn { compares: Vec::new(), then, otherwise: Vec::new(), local: false }
    }

    fn is_failed(outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Failed { .. } => true,
            Outcome::Unknown { .. } => false,
            Outcome::Done { .. } | Outcome::SeedWritten | Outcome::SeedFound { .. } => {
                panic!("an error became {outcome:?}")
            }
        }
    }

    #[test]
    fn only_documented_refusals_over_http_are_certain() {
        let judged = |call: &Call, code: u16, text: &str| {
            let body = format!(r#"{{"error":{{"code":"{text}","message":"m","details":{{}}}}}}"#);
            is_failed(&refusal(call, &Answer::of(code, &body)))
        };
        for (code, text) in [
            (503, "not_leader"),
            (503, "unavailable"),
            (429, "overloaded"),
            (412, "condition_failed"),
            (413, "deletion_too_large"),
            (404, "lease_not_found"),
            (408, "timeout"),
            (507, "no_space"),
            (500, "corrupt"),
        ] {
            assert!(judged(&write(), code, text), "{text}");
        }
        for (code, text) in [
            (504, "outcome_unknown"),
            (504, "timeout"),
            (500, "internal"),
            (409, "answer_lost"),
            (409, "idempotency_mismatch"),
            (413, "answer_too_large"),
            (503, "something_new"),
        ] {
            assert!(!judged(&write(), code, text), "{text}");
        }
        assert!(judged(&read(), 504, "timeout"));
        assert!(!judged(&read(), 500, "internal"));
        assert!(!judged(&Call::SeedWrite { key: "k".to_owned(), value: None }, 504, "timeout"));
        for body in ["", "Bad Gateway", "{}", r#"{"error":"unavailable"}"#] {
            assert!(!is_failed(&refusal(&write(), &Answer::of(503, body))), "{body}");
        }
    }

    #[test]
    fn only_documented_refusals_over_grpc_are_certain() {
        let judged = |call: &Call, answer: Status| is_failed(&status(call, &answer));
        for answer in [
            Status::unavailable("etcdserver: no leader"),
            Status::resource_exhausted("etcdserver: too many requests"),
            Status::resource_exhausted("etcdserver: too much to delete at once; delete smaller ranges"),
            Status::invalid_argument("etcdserver: duplicate key given in txn request"),
            Status::not_found("etcdserver: requested lease not found"),
            Status::out_of_range("etcdserver: mvcc: required revision has been compacted"),
        ] {
            assert!(judged(&write(), answer.clone()), "{answer}");
        }
        for answer in [
            Status::unavailable("etcdserver: request timed out"),
            Status::unavailable("etcdserver: server stopped"),
            Status::unavailable("connection reset"),
            Status::unavailable("no leader"),
            Status::deadline_exceeded("context deadline exceeded"),
            Status::cancelled("Timeout expired"),
            Status::internal("etcdserver: node 1 failed: x"),
            Status::unknown("h2 protocol error"),
            Status::data_loss("etcdserver: the write was carried out at revision 3"),
            Status::resource_exhausted("etcdserver: the answer would be larger"),
            Status::resource_exhausted("message too large"),
        ] {
            assert!(!judged(&write(), answer.clone()), "{answer}");
        }
        assert!(judged(&read(), Status::unavailable("etcdserver: request timed out")));
        assert!(!judged(&read(), Status::unavailable("etcdserver: server stopped")));
    }

    #[tokio::test]
    async fn a_refused_connection_is_known_not_to_have_carried_anything() {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = gone.local_addr().unwrap();
        drop(gone);
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{addr}")).unwrap().connect_lazy();
        let mut kv = kvorum_etcd_proto::etcdserverpb::kv_client::KvClient::new(channel);
        let answer = kv.put(kvorum_etcd_proto::etcdserverpb::PutRequest::default()).await.unwrap_err();
        assert!(is_failed(&status(&write(), &answer)), "{answer:?}");
    }

    #[tokio::test]
    async fn a_connection_that_breaks_under_a_call_says_nothing() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = server.local_addr().unwrap();
        let breaks = tokio::spawn(async move {
            use tokio::io::AsyncReadExt as _;
            let (mut stream, _) = server.accept().await.unwrap();
            let _ = stream.read(&mut [0; 512]).await;
        });
        let channel =
            tonic::transport::Endpoint::from_shared(format!("http://{addr}")).unwrap().connect_lazy();
        let mut kv = kvorum_etcd_proto::etcdserverpb::kv_client::KvClient::new(channel);
        let answer = kv.put(kvorum_etcd_proto::etcdserverpb::PutRequest::default()).await.unwrap_err();
        assert!(!is_failed(&status(&write(), &answer)), "{answer:?}");
        breaks.await.unwrap();
    }

    #[test]
    fn long_texts_are_cut() {
        let Outcome::Unknown { reason } = unknown("ä".repeat(5000)) else { panic!("not unknown") };
        assert_eq!(reason.chars().count(), LONGEST);
    }
}
