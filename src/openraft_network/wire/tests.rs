//! Round trips of every peer message, and of streams cut anywhere.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::command::Command;
use crate::{Entry, Member, Membership, StoredMembership};
use openraft::EntryPayload;

fn log_ids() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(term, node_id, index)| {
        LogId::new(openraft::impls::leader_id_adv::LeaderId { term, node_id }, index)
    })
}

fn votes() -> impl Strategy<Value = Vote> {
    (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| {
        if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) }
    })
}

fn memberships() -> impl Strategy<Value = Membership> {
    proptest::collection::btree_map(1_u64..9, "[a-z]{1,9}:[0-9]{1,4}", 1..6).prop_map(|nodes| {
        let nodes: BTreeMap<_, _> = nodes.into_iter().map(|(id, addr)| (id, Member { addr })).collect();
        let voters: BTreeSet<_> = nodes.keys().copied().take(3).collect();
        Membership::new(vec![voters], nodes).unwrap()
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        Just(EntryPayload::Blank),
        "[a-z]{1,9}".prop_map(|key| EntryPayload::Normal(Command::put(key, "v").encode())),
        memberships().prop_map(EntryPayload::Membership),
    ];
    (log_ids(), payload).prop_map(|(log_id, payload)| Entry { log_id, payload })
}

fn round_trip<M: Message + PartialEq + fmt::Debug>(message: &M) {
    for encoding in [Encoding::Binary, Encoding::Json] {
        let decoded = M::decode(encoding, message.encode(encoding)).unwrap();
        assert_eq!(&decoded, message, "{encoding}");
    }
}

proptest! {
    #[test]
    fn votes_round_trip(vote in votes(), last in proptest::option::of(log_ids()), flag in any::<bool>()) {
        round_trip(&VoteRequest::<TypeConfig> { vote, last_log_id: last, leadership_transfer: flag });
        round_trip(&VoteResponse::<TypeConfig> { vote, vote_granted: flag, last_log_id: last });
        round_trip(&SnapshotResponse::<TypeConfig>::new(vote));
        round_trip(&TransferLeaderRequest::<TypeConfig>::new(vote, 7, last));
    }

    #[test]
    fn appends_round_trip(
        vote in votes(),
        prev in proptest::option::of(log_ids()),
        commit in proptest::option::of(log_ids()),
        entries in proptest::collection::vec(entries(), 0..8),
    ) {
        let request = AppendEntriesRequest::<TypeConfig> { vote, prev_log_id: prev, entries, leader_commit: commit };
        for encoding in [Encoding::Binary, Encoding::Json] {
            let decoded = AppendEntriesRequest::<TypeConfig>::decode(encoding, request.encode(encoding)).unwrap();
            prop_assert_eq!(&decoded.entries, &request.entries);
            prop_assert_eq!(decoded.vote, request.vote);
            prop_assert_eq!((decoded.prev_log_id, decoded.leader_commit), (prev, commit));
        }
        round_trip(&AppendEntriesResponse::<TypeConfig>::PartialSuccess(prev));
        round_trip(&AppendEntriesResponse::<TypeConfig>::HigherVote(vote));
    }

    #[test]
    fn frames_survive_any_cutting(
        answers in proptest::collection::vec(proptest::option::of(log_ids()), 1..8),
        cut in 1_usize..40,
    ) {
        for encoding in [Encoding::Binary, Encoding::Json] {
            let whole: Vec<u8> = answers
                .iter()
                .flat_map(|id| encode_frame::<StreamAppendResult<TypeConfig>>(&Ok(*id), encoding))
                .collect();
            let mut decoder = FrameDecoder::new(encoding);
            let mut seen = Vec::new();
            for piece in whole.chunks(cut) {
                decoder.push(piece);
                while let Some(answer) = decoder.next_frame::<StreamAppendResult<TypeConfig>>().unwrap() {
                    seen.push(answer.unwrap());
                }
            }
            prop_assert_eq!(&seen, &answers);
            prop_assert!(decoder.is_empty());
        }
    }

    #[test]
    fn snapshot_frames_round_trip(vote in votes(), last in proptest::option::of(log_ids()), membership in memberships(), data in any::<Vec<u8>>(), checksum in any::<u64>()) {
        let meta = SnapshotMeta { last_log_id: last, last_membership: StoredMembership::new(last, membership) };
        let files = vec![SnapshotFile { name: "000012.sst".into(), size: 77 }];
        round_trip(&SnapshotFrame::Begin { vote, meta, files });
        round_trip(&SnapshotFrame::Chunk { checksum, data: data.into() });
        round_trip(&SnapshotFrame::End { checksum });
    }

    #[test]
    fn any_bytes_decode_or_are_refused(input in any::<Vec<u8>>()) {
        for encoding in [Encoding::Binary, Encoding::Json] {
            let _ = AppendEntriesRequest::<TypeConfig>::decode(encoding, input.clone().into());
            let _ = SnapshotFrame::decode(encoding, input.clone().into());
            let mut decoder = FrameDecoder::new(encoding);
            decoder.push(&input);
            while let Ok(Some(_)) = decoder.next_frame::<SnapshotFrame>() {}
        }
    }
}

#[test]
fn a_frame_beyond_the_limit_is_refused_before_it_is_buffered() {
    let mut decoder = FrameDecoder::new(Encoding::Binary);
    decoder.push(&u32::MAX.to_le_bytes());
    assert!(matches!(decoder.next_frame::<SnapshotFrame>(), Err(WireError::FrameTooLarge(_))));
}

#[test]
fn a_claimed_length_or_count_makes_little_room() {
    let mut decoder = FrameDecoder::new(Encoding::Binary);
    decoder.push(&u32::try_from(MAX_FRAME_BYTES).unwrap().to_le_bytes());
    assert!(decoder.next_frame::<SnapshotFrame>().unwrap().is_none());
    assert!(decoder.buffer.capacity() <= 2 * MAX_RESERVED_BYTES, "{}", decoder.buffer.capacity());
    let large = Reader::new(vec![0; 1 << 20].into());
    assert_eq!(reserved(u32::MAX as usize, &large), MAX_RESERVED_ITEMS);
    assert_eq!(reserved(7, &large), 7);
    assert_eq!(reserved(7, &Reader::new(Bytes::new())), 0);
}
