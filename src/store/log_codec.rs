//! The bytes of Raft's own vocabulary: log ids, votes, memberships, entries.
//!
//! The functions in pairs (`put_…`, `read_…`) delimit themselves and carry no
//! version: whoever embeds them (the peers' messages, the state machine) puts
//! one in front. What this log store keeps has its own version byte. A proposal's
//! bytes are passed on as they are; nothing here looks into them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes};
use openraft::alias::{CommittedLeaderIdOf, EntryOf, EntryPayloadOf, LogIdOf, StoredMembershipOf, VoteOf};
use openraft::vote::RaftLeaderId as _;

use crate::codec::{DecodeError, Reader, put_bytes, put_option};
use crate::command::Proposal;
use crate::{Member, NodeId, TypeConfig};

/// The term and node id of a leader.
pub type LeaderId = CommittedLeaderIdOf<TypeConfig>;
/// A log entry's identity: its leader and its index.
pub type LogId = LogIdOf<TypeConfig>;
/// A node's vote.
pub type Vote = VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = EntryOf<TypeConfig>;
/// What a log entry carries.
pub type Payload = EntryPayloadOf<TypeConfig>;
/// Voters (one set, or two while they change) and all nodes' addresses.
pub type Membership = openraft::Membership<NodeId, Member>;
/// A membership and the log id of the entry that set it.
pub type StoredMembership = StoredMembershipOf<TypeConfig>;

const ENTRY_VERSION: u8 = 1;
const META_VERSION: u8 = 1;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("a cluster has far fewer than 2^32 nodes"));
}

/// Appends a leader's term and node id.
pub fn put_leader_id(out: &mut Vec<u8>, leader: &LeaderId) {
    out.put_u64_le(leader.term);
    out.put_u64_le(leader.node_id);
}

/// Reads what [`put_leader_id`] wrote.
pub fn read_leader_id(r: &mut Reader) -> Result<LeaderId, DecodeError> {
    Ok(LeaderId::new(r.u64("term")?, r.u64("leader's node id")?))
}

/// Appends a log id.
pub fn put_log_id(out: &mut Vec<u8>, id: &LogId) {
    put_leader_id(out, id.committed_leader_id());
    out.put_u64_le(id.index());
}

/// Reads what [`put_log_id`] wrote.
pub fn read_log_id(r: &mut Reader) -> Result<LogId, DecodeError> {
    Ok(LogId::new(read_leader_id(r)?, r.u64("log index")?))
}

/// Appends a vote.
pub fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    put_leader_id(out, &vote.leader_id);
    out.push(u8::from(vote.committed));
}

/// Reads what [`put_vote`] wrote.
pub fn read_vote(r: &mut Reader) -> Result<Vote, DecodeError> {
    Ok(Vote { leader_id: read_leader_id(r)?, committed: r.bool("committed vote")? })
}

/// Appends a membership: the voter sets, then every node with its address.
pub fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let configs = membership.get_joint_config();
    put_count(out, configs.len());
    for voters in configs {
        put_count(out, voters.len());
        for voter in voters {
            out.put_u64_le(*voter);
        }
    }
    put_count(out, membership.nodes().count());
    for (id, node) in membership.nodes() {
        out.put_u64_le(*id);
        put_bytes(out, node.addr.as_bytes());
    }
}

/// Reads what [`put_membership`] wrote.
///
/// # Errors
/// Besides undecodable input: `Invalid` for an empty voter set or a voter that
/// has no address.
pub fn read_membership(r: &mut Reader) -> Result<Membership, DecodeError> {
    // The counts are not trusted with an allocation: a false one meets the end
    // of the input.
    let mut configs = Vec::new();
    for _ in 0..r.u32("voter sets")? {
        let mut voters = BTreeSet::new();
        for _ in 0..r.u32("voters")? {
            voters.insert(r.u64("voter")?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..r.u32("nodes")? {
        nodes.insert(r.u64("node id")?, Member { addr: r.string("node address")? });
    }
    Membership::new(configs, nodes)
        .map_err(|error| DecodeError::Invalid { field: "membership", reason: error.to_string() })
}

/// Appends a membership with the log id that set it.
pub fn put_stored_membership(out: &mut Vec<u8>, stored: &StoredMembership) {
    put_option(out, stored.log_id().as_ref(), put_log_id);
    put_membership(out, stored.membership());
}

/// Reads what [`put_stored_membership`] wrote.
pub fn read_stored_membership(r: &mut Reader) -> Result<StoredMembership, DecodeError> {
    let log_id = r.option("membership's log id", read_log_id)?;
    Ok(StoredMembership::new(log_id, read_membership(r)?))
}

fn put_payload(out: &mut Vec<u8>, payload: &Payload) {
    match payload {
        Payload::Blank => out.push(BLANK),
        Payload::Normal(proposal) => {
            out.push(NORMAL);
            put_bytes(out, proposal.as_bytes());
        }
        Payload::Membership(membership) => {
            out.push(MEMBERSHIP);
            put_membership(out, membership);
        }
    }
}

fn read_payload(r: &mut Reader) -> Result<Payload, DecodeError> {
    match r.u8("payload")? {
        BLANK => Ok(Payload::Blank),
        NORMAL => Ok(Payload::Normal(Proposal::from_bytes(r.bytes("proposal")?))),
        MEMBERSHIP => Ok(Payload::Membership(read_membership(r)?)),
        tag => Err(DecodeError::UnknownTag { field: "payload", tag }),
    }
}

/// Appends an entry with its log id.
pub fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_log_id(out, &entry.log_id);
    put_payload(out, &entry.payload);
}

/// Reads what [`put_entry`] wrote; a proposal shares the input's memory.
pub fn read_entry(r: &mut Reader) -> Result<Entry, DecodeError> {
    Ok(Entry { log_id: read_log_id(r)?, payload: read_payload(r)? })
}

/// Roughly how many bytes an entry takes, in memory as on the wire.
pub fn entry_size(entry: &Entry) -> usize {
    const FIXED: usize = 64;
    FIXED
        + match &entry.payload {
            Payload::Blank => 0,
            Payload::Normal(proposal) => proposal.as_bytes().len(),
            Payload::Membership(membership) => {
                membership.nodes().map(|(_, node)| FIXED + node.addr.len()).sum::<usize>()
            }
        }
}

/// The stored value of an entry. The index is not in it: it is the key.
pub(super) fn put_stored_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.push(ENTRY_VERSION);
    put_leader_id(out, entry.log_id.committed_leader_id());
    put_payload(out, &entry.payload);
}

/// Reads the stored value of the entry at `index`.
pub(super) fn read_stored_entry(index: u64, value: Bytes) -> Result<Entry, DecodeError> {
    let mut r = Reader::new(value);
    r.version("log entry", ENTRY_VERSION)?;
    let entry = Entry { log_id: LogId::new(read_leader_id(&mut r)?, index), payload: read_payload(&mut r)? };
    r.finish()?;
    Ok(entry)
}

/// The stored value of the vote.
pub(super) fn stored_vote(vote: &Vote) -> Vec<u8> {
    let mut out = vec![META_VERSION];
    put_vote(&mut out, vote);
    out
}

/// Reads what [`stored_vote`] gave.
pub(super) fn read_stored_vote(value: Bytes) -> Result<Vote, DecodeError> {
    let mut r = Reader::new(value);
    r.version("vote", META_VERSION)?;
    let vote = read_vote(&mut r)?;
    r.finish()?;
    Ok(vote)
}

/// The stored value of a log id: the committed or the purged one.
pub(super) fn stored_log_id(id: &LogId) -> Vec<u8> {
    let mut out = vec![META_VERSION];
    put_log_id(&mut out, id);
    out
}

/// Reads what [`stored_log_id`] gave.
pub(super) fn read_stored_log_id(value: Bytes) -> Result<LogId, DecodeError> {
    let mut r = Reader::new(value);
    r.version("log id", META_VERSION)?;
    let id = read_log_id(&mut r)?;
    r.finish()?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::prelude::*;

    fn leader_ids() -> impl Strategy<Value = LeaderId> {
        (any::<u64>(), any::<u64>()).prop_map(|(term, node)| LeaderId::new(term, node))
    }

    fn log_ids() -> impl Strategy<Value = LogId> {
        (leader_ids(), any::<u64>()).prop_map(|(leader, index)| LogId::new(leader, index))
    }

    /// None, one or two voter sets, and learners beside them.
    fn memberships() -> impl Strategy<Value = Membership> {
        let nodes = || btree_map(any::<u64>(), ".{0,20}", 0..4);
        (vec(btree_set(any::<u64>(), 1..5), 0..3), nodes()).prop_map(|(configs, learners)| {
            let voters = configs.iter().flatten().map(|id| (*id, format!("127.0.0.1:{id}")));
            let nodes: BTreeMap<_, _> =
                learners.into_iter().chain(voters).map(|(id, addr)| (id, Member { addr })).collect();
            Membership::new(configs, nodes).unwrap()
        })
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let payload = prop_oneof![
            Just(Payload::Blank),
            vec(any::<u8>(), 0..200).prop_map(|b| Payload::Normal(Proposal::from_bytes(b.into()))),
            memberships().prop_map(Payload::Membership),
        ];
        (log_ids(), payload).prop_map(|(log_id, payload)| Entry { log_id, payload })
    }

    /// Writes `value`, reads it back, and asserts that exactly its bytes were read.
    fn assert_round_trip<T: PartialEq + std::fmt::Debug>(
        value: &T,
        put: impl FnOnce(&mut Vec<u8>, &T),
        read: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
    ) {
        let mut out = Vec::new();
        put(&mut out, value);
        out.push(0xee);
        let mut r = Reader::new(out.into());
        assert_eq!(read(&mut r).as_ref(), Ok(value));
        assert_eq!(r.rest().as_ref(), [0xee]);
    }

    proptest! {
        #[test]
        fn raft_values_round_trip(
            id in log_ids(),
            committed in any::<bool>(),
            membership in memberships(),
            set_by in proptest::option::of(log_ids()),
            entry in entries(),
        ) {
            let vote = Vote { leader_id: *id.committed_leader_id(), committed };
            assert_round_trip(&id, put_log_id, read_log_id);
            assert_round_trip(&vote, put_vote, read_vote);
            assert_round_trip(&membership, put_membership, read_membership);
            let stored = StoredMembership::new(set_by, membership);
            assert_round_trip(&stored, put_stored_membership, read_stored_membership);
            assert_round_trip(&entry, put_entry, read_entry);
            prop_assert_eq!(read_stored_vote(stored_vote(&vote).into()), Ok(vote));
            prop_assert_eq!(read_stored_log_id(stored_log_id(&id).into()), Ok(id));
        }

        #[test]
        fn stored_entries_round_trip_and_their_prefixes_are_refused(entry in entries(), cut in 1_usize..40) {
            let mut out = Vec::new();
            put_stored_entry(&mut out, &entry);
            let value = Bytes::from(out);
            let prefix = value.slice(..value.len().saturating_sub(cut));
            prop_assert_eq!(read_stored_entry(entry.log_id.index(), value), Ok(entry));
            prop_assert!(read_stored_entry(1, prefix).is_err());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(input in vec(any::<u8>(), 0..200)) {
            let input = Bytes::from(input);
            let _ = read_entry(&mut Reader::new(input.clone()));
            let _ = read_stored_membership(&mut Reader::new(input.clone()));
            let _ = read_stored_entry(1, input.clone());
            let _ = read_stored_vote(input.clone());
            let _ = read_stored_log_id(input);
        }
    }

    #[test]
    fn a_proposal_read_from_an_entry_shares_the_entry_s_memory() {
        let proposal = Proposal::from_bytes(Bytes::from(vec![7; 100]));
        let entry = Entry { log_id: LogId::new(LeaderId::new(1, 1), 1), payload: Payload::Normal(proposal) };
        let mut out = Vec::new();
        put_stored_entry(&mut out, &entry);
        let value = Bytes::from(out);
        let Payload::Normal(read) = read_stored_entry(1, value.clone()).unwrap().payload else {
            panic!("a normal entry was written")
        };
        assert!(value.as_ptr_range().contains(&read.as_bytes().as_ptr()));
    }

    #[test]
    fn a_voter_without_an_address_is_refused() {
        let mut out = Vec::new();
        for word in [1_u32, 1] {
            out.put_u32_le(word);
        }
        out.put_u64_le(9);
        out.put_u32_le(0);
        let read = read_membership(&mut Reader::new(out.into()));
        assert!(matches!(read, Err(DecodeError::Invalid { field: "membership", .. })), "{read:?}");
    }
}
