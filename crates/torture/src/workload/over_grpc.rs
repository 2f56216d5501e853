//! Calls as etcd's API wants them, over one channel to a node, and what its answers mean.
//!
//! A channel connects anew by itself, but repeats no call. What has a call of its own may go
//! by it or as a transaction, so that both are proved.

use std::time::Duration;

use bytes::Bytes;
use kvorum_etcd_proto::{etcdserverpb as pb, mvccpb};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::kv_client::KvClient;
use pb::request_op::Request;
use pb::response_op::Response;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::http::CONNECT;
use super::judge;
use crate::history::{Call, Compare, Outcome, Record, Step, StepResult};

/// After which silence a connection is asked whether it still stands.
const PROBE_AFTER: Duration = Duration::from_secs(2);
/// How long it has to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// A channel to `HOST:PORT`, which is not connected yet.
///
/// # Errors
/// When that is no address.
pub(super) fn channel(addr: &str) -> Result<Channel, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{addr}"))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PROBE_AFTER)
        .keep_alive_timeout(PROBE_LIMIT)
        .tcp_nodelay(true)
        .connect_lazy())
}

/// Makes a call once; `plain` prefers the call's own method to a transaction.
pub(super) async fn call(channel: Channel, call: &Call, plain: bool, limit: Duration) -> Outcome {
    let Call::Txn { compares, then, otherwise, local } = call else {
        return Outcome::Failed { reason: "not sent: the seed's calls are none of etcd's".to_owned() };
    };
    let kv = KvClient::new(channel);
    let answer = async {
        if plain
            && compares.is_empty()
            && otherwise.is_empty()
            && let [step] = then.as_slice()
        {
            return ask_plainly(kv, step, *local).await;
        }
        let request = pb::TxnRequest {
            compare: compares.iter().map(condition).collect(),
            success: then.iter().map(|step| operation(step, *local)).collect(),
            failure: otherwise.iter().map(|step| operation(step, *local)).collect(),
        };
        ask(kv, request, then, otherwise).await
    };
    match timeout(limit, answer).await {
        Ok(Ok(Some(outcome))) => outcome,
        Ok(Ok(None)) => judge::unknown("strange answer over gRPC"),
        Ok(Err(status)) => judge::status(call, &status),
        Err(_) => judge::unknown(format!("no answer within {limit:?}")),
    }
}

async fn ask(
    mut kv: KvClient<Channel>,
    request: pb::TxnRequest,
    then: &[Step],
    otherwise: &[Step],
) -> Result<Option<Outcome>, Status> {
    let answer = kv.txn(request).await?.into_inner();
    Ok(done(then, otherwise, &answer))
}

async fn ask_plainly(mut kv: KvClient<Channel>, step: &Step, local: bool) -> Result<Option<Outcome>, Status> {
    let (header, result) = match step {
        Step::Get { key } => {
            let answer = kv.range(range(key, local)).await?.into_inner();
            let result = got(key, &answer);
            (answer.header, result)
        }
        Step::Put { key, value, lease } => {
            (kv.put(put(key, value, *lease)).await?.into_inner().header, Some(StepResult::Put))
        }
        Step::Delete { key } => {
            let answer = kv.delete_range(delete(key)).await?.into_inner();
            (answer.header, Some(StepResult::Deleted(answer.deleted)))
        }
    };
    Ok(header.zip(result).map(|(header, result)| Outcome::Done {
        revision: header.revision,
        succeeded: true,
        results: vec![result],
    }))
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn range(key: &str, local: bool) -> pb::RangeRequest {
    pb::RangeRequest { key: bytes(key), serializable: local, ..Default::default() }
}

fn put(key: &str, value: &str, lease: Option<i64>) -> pb::PutRequest {
    pb::PutRequest { key: bytes(key), value: bytes(value), lease: lease.unwrap_or(0), ..Default::default() }
}

fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: bytes(key), ..Default::default() }
}

fn condition(compare: &Compare) -> pb::Compare {
    let (key, target, union) = match compare {
        Compare::ModRevision { key, revision } => {
            (key, CompareTarget::Mod, TargetUnion::ModRevision(*revision))
        }
        Compare::CreateRevision { key, revision } => {
            (key, CompareTarget::Create, TargetUnion::CreateRevision(*revision))
        }
        Compare::Value { key, value } => (key, CompareTarget::Value, TargetUnion::Value(bytes(value))),
    };
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: bytes(key),
        target_union: Some(union),
        ..Default::default()
    }
}

fn operation(step: &Step, local: bool) -> pb::RequestOp {
    let request = match step {
        Step::Get { key } => Request::RequestRange(range(key, local)),
        Step::Put { key, value, lease } => Request::RequestPut(put(key, value, *lease)),
        Step::Delete { key } => Request::RequestDeleteRange(delete(key)),
    };
    pb::RequestOp { request: Some(request) }
}

/// What a transaction's answer says; `None` if it does not fit what was asked.
fn done(then: &[Step], otherwise: &[Step], answer: &pb::TxnResponse) -> Option<Outcome> {
    let asked = if answer.succeeded { then } else { otherwise };
    if asked.len() != answer.responses.len() {
        return None;
    }
    let results = asked.iter().zip(&answer.responses).map(|(step, told)| {
        Some(match (step, told.response.as_ref()?) {
            (Step::Get { key }, Response::ResponseRange(told)) => got(key, told)?,
            (Step::Put { .. }, Response::ResponsePut(_)) => StepResult::Put,
            (Step::Delete { .. }, Response::ResponseDeleteRange(told)) => StepResult::Deleted(told.deleted),
            _ => return None,
        })
    });
    let results = results.collect::<Option<_>>()?;
    let revision = answer.header.as_ref()?.revision;
    Some(Outcome::Done { revision, succeeded: answer.succeeded, results })
}

fn got(key: &str, answer: &pb::RangeResponse) -> Option<StepResult> {
    match answer.kvs.as_slice() {
        [] => Some(StepResult::Got(None)),
        [found] if found.key == key.as_bytes() => Some(StepResult::Got(Some(record(found)?))),
        _ => None,
    }
}

/// A key's record; `None` if its value is no text, which nobody has written.
pub(super) fn record(found: &mvccpb::KeyValue) -> Option<Record> {
    Some(Record {
        value: String::from_utf8(found.value.to_vec()).ok()?,
        create_revision: found.create_revision,
        mod_revision: found.mod_revision,
        version: found.version,
        lease: found.lease,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(response: Response) -> pb::ResponseOp {
        pb::ResponseOp { response: Some(response) }
    }

    fn found(key: &str) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: bytes(key),
            value: bytes("v"),
            create_revision: 5,
            mod_revision: 7,
            version: 2,
            lease: 9,
        }
    }

    #[test]
    fn answers_of_transactions_are_read() {
        let get = Step::Get { key: "a".to_owned() };
        let set = Step::Put { key: "b".to_owned(), value: "w".to_owned(), lease: None };
        let remove = Step::Delete { key: "c".to_owned() };
        let then = [get.clone(), set, remove];
        let read = |kvs| Response::ResponseRange(pb::RangeResponse { kvs, ..Default::default() });
        let deleted = pb::DeleteRangeResponse { deleted: 1, ..Default::default() };
        let whole = pb::TxnResponse {
            header: Some(pb::ResponseHeader { revision: 8, ..Default::default() }),
            succeeded: true,
            responses: vec![
                response(read(vec![found("a")])),
                response(Response::ResponsePut(pb::PutResponse::default())),
                response(Response::ResponseDeleteRange(deleted)),
            ],
        };
        let record =
            Record { value: "v".to_owned(), create_revision: 5, mod_revision: 7, version: 2, lease: 9 };
        let results = vec![StepResult::Got(Some(record)), StepResult::Put, StepResult::Deleted(1)];
        let expected = Outcome::Done { revision: 8, succeeded: true, results };
        assert_eq!(done(&then, &[], &whole), Some(expected));

        let missed = pb::TxnResponse {
            succeeded: false,
            responses: vec![response(read(Vec::new()))],
            ..whole.clone()
        };
        let expected = Outcome::Done { revision: 8, succeeded: false, results: vec![StepResult::Got(None)] };
        assert_eq!(done(&then, std::slice::from_ref(&get), &missed), Some(expected));

        let strange = [
            pb::TxnResponse { header: None, ..whole.clone() },
            pb::TxnResponse { responses: whole.responses[..2].to_vec(), ..whole.clone() },
            pb::TxnResponse { succeeded: false, ..whole.clone() },
        ];
        for answer in strange {
            assert_eq!(done(&then, &[], &answer), None, "{answer:?}");
        }
        let another = pb::RangeResponse { kvs: vec![found("z")], ..Default::default() };
        assert_eq!(got("a", &another), None);
    }

    #[tokio::test]
    async fn the_seeds_calls_are_not_sent() {
        let call = Call::SeedRead { key: "a".to_owned() };
        let channel = channel("127.0.0.1:1").unwrap();
        let outcome = super::call(channel, &call, true, Duration::from_secs(1)).await;
        assert!(matches!(outcome, Outcome::Failed { .. }));
    }
}
