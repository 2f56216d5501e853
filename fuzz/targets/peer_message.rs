//! Single messages between nodes, in both encodings, and the checks before Raft sees them.

#![no_main]

use bytes::Bytes;
use kvorum_fuzz::codec::Reader;
use kvorum_fuzz::openraft_network::forward::{
    ForwardRequest, ForwardResponse, ManageRequest, ManageResponse,
};
use kvorum_fuzz::openraft_network::wire::{Encoding, Message, SnapshotFrame};
use kvorum_fuzz::openraft_network::{check_append, check_snapshot, check_transfer, check_vote};
use kvorum_fuzz::store::log_codec::{
    put_entry, put_membership, put_stored_membership, read_entry, read_membership, read_stored_membership,
};
use kvorum_fuzz::{LogId, TypeConfig};
use libfuzzer_sys::fuzz_target;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let encoding = if choice & 0x80 == 0 { Encoding::Binary } else { Encoding::Json };
    let input = Bytes::copy_from_slice(data);
    match choice & 0x7f {
        0 => {
            let _ = message::<VoteRequest<TypeConfig>>(encoding, input).map(|request| check_vote(&request));
        }
        1 => drop(message::<VoteResponse<TypeConfig>>(encoding, input)),
        2 => {
            let append = message::<AppendEntriesRequest<TypeConfig>>(encoding, input);
            let _ = append.map(|request| check_append(&request));
        }
        3 => drop(message::<AppendEntriesResponse<TypeConfig>>(encoding, input)),
        4 => drop(message::<StreamAppendResult<TypeConfig>>(encoding, input)),
        5 => {
            let transfer = message::<TransferLeaderRequest<TypeConfig>>(encoding, input);
            let _ = transfer.map(|request| check_transfer(&request));
        }
        6 => drop(message::<TransferLeaderResponse<TypeConfig>>(encoding, input)),
        7 => drop(message::<SnapshotResponse<TypeConfig>>(encoding, input)),
        8 => {
            if let Some(SnapshotFrame::Begin { vote, meta, .. }) = message(encoding, input) {
                let committed: Option<LogId> = meta.last_membership.log_id().as_ref().copied();
                check_snapshot(&vote, &meta, committed);
            }
        }
        9 => {
            if let Ok(request) = ForwardRequest::decode(input) {
                assert_eq!(ForwardRequest::decode(request.encode()).as_ref(), Ok(&request));
            }
        }
        10 => {
            if let Ok(response) = ForwardResponse::decode(input) {
                assert_eq!(ForwardResponse::decode(response.encode()).as_ref(), Ok(&response));
            }
        }
        11 => {
            let _ = serde_json::from_slice::<ManageRequest>(data);
            if let Ok(ManageResponse::Failed(error)) = serde_json::from_slice(data) {
                let _ = error.into_error().to_string();
            }
        }
        12 => stored(input, read_entry, put_entry),
        13 => stored(input, read_membership, put_membership),
        14 => stored(input, read_stored_membership, put_stored_membership),
        _ => {}
    }
});

/// Reads a message, and asserts that both its encodings keep it.
fn message<M: Message>(encoding: Encoding, input: Bytes) -> Option<M> {
    let message = M::decode(encoding, input).ok()?;
    let binary = message.encode(Encoding::Binary);
    for encoding in [Encoding::Binary, Encoding::Json] {
        let again = M::decode(encoding, message.encode(encoding)).expect("what was encoded decodes");
        assert_eq!(again.encode(Encoding::Binary), binary, "by way of {encoding}");
    }
    Some(message)
}

/// Reads what is stored or embedded, and asserts that it is kept.
fn stored<T, E>(input: Bytes, read: impl Fn(&mut Reader) -> Result<T, E>, put: impl Fn(&mut Vec<u8>, &T))
where
    E: std::fmt::Debug,
{
    let Ok(value) = read(&mut Reader::new(input)) else { return };
    let mut out = Vec::new();
    put(&mut out, &value);
    let mut reader = Reader::new(out.clone().into());
    let again = read(&mut reader).expect("what was encoded decodes");
    reader.finish().expect("all of it was read");
    let mut twice = Vec::new();
    put(&mut twice, &again);
    assert_eq!(twice, out);
}
