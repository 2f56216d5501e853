//! A JSON document to a message and back.
//!
//! Whatever the gateway reads, it must write as the same message; and whatever a server
//! answers, it must write or refuse.

#![no_main]

use std::fmt::Debug;

use bytes::Bytes;
use kvorum_etcd_proto::METHODS;
use kvorum_etcd_proto::etcdserverpb as pb;
use kvorum_etcd_proto::{v3electionpb, v3lockpb};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    let Some((choice, document)) = data.split_first() else { return };
    let method = &METHODS[usize::from(*choice) % METHODS.len()];
    let _ = (method.to_protobuf)(document);
    if let Ok(json) = (method.to_json)(Bytes::copy_from_slice(document)) {
        serde_json::from_slice::<serde_json::Value>(&json).expect("an answer in JSON is JSON");
    }
    match choice % 16 {
        0 => round_trip::<pb::TxnRequest>(document),
        1 => round_trip::<pb::RangeRequest>(document),
        2 => round_trip::<pb::PutRequest>(document),
        3 => round_trip::<pb::DeleteRangeRequest>(document),
        4 => round_trip::<pb::CompactionRequest>(document),
        5 => round_trip::<pb::WatchRequest>(document),
        6 => round_trip::<pb::LeaseGrantRequest>(document),
        7 => round_trip::<pb::LeaseTimeToLiveRequest>(document),
        8 => round_trip::<pb::MemberAddRequest>(document),
        9 => round_trip::<pb::AlarmRequest>(document),
        10 => round_trip::<pb::AuthRoleGrantPermissionRequest>(document),
        11 => round_trip::<pb::TxnResponse>(document),
        12 => round_trip::<pb::WatchResponse>(document),
        13 => round_trip::<pb::StatusResponse>(document),
        14 => round_trip::<v3lockpb::LockRequest>(document),
        _ => round_trip::<v3electionpb::CampaignRequest>(document),
    }
});

/// What is read from `input`, as JSON or as protobuf, is the same after a round in either form.
fn round_trip<M: Message + Default + PartialEq + Debug + Serialize + DeserializeOwned>(input: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<M>(input) {
        check(&message);
    }
    if let Ok(message) = M::decode(input) {
        check(&message);
    }
}

fn check<M: Message + Default + PartialEq + Debug + Serialize + DeserializeOwned>(message: &M) {
    let bytes = message.encode_to_vec();
    assert_eq!(&M::decode(&bytes[..]).expect("what was encoded decodes"), message);
    // A number that names nothing has no JSON form.
    if let Ok(json) = serde_json::to_string(message) {
        let read: M = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
        assert_eq!(&read, message, "{json}");
    }
}
