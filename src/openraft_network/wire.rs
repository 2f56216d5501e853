//! What peers say to each other, in bytes.
//!
//! Every Raft message has two encodings, told apart by `Content-Type`: Openraft's
//! own JSON, which anyone can read and write, and a binary form of ours with a
//! version byte, which nodes speak among themselves. Who speaks to whom stands in
//! HTTP headers, so that it is the same for both and for streams.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{DecodeError, Reader, put_bytes, put_option};
use crate::config::MOST_REQUEST_BYTES;
use crate::store::log_codec::{
    put_entry, put_log_id, put_stored_membership, put_vote, read_entry, read_log_id, read_stored_membership,
    read_vote,
};
use crate::{LogId, SnapshotMeta, TypeConfig, Vote};

/// Version of every binary peer message.
pub const WIRE_VERSION: u8 = 1;
/// `Content-Type` of Openraft's JSON.
pub const JSON: &str = "application/json";
/// `Content-Type` of one binary message.
pub const BINARY: &str = "application/vnd.kvorum.raft";
/// `Content-Type` of a stream of length-prefixed binary messages.
pub const BINARY_STREAM: &str = "application/vnd.kvorum.raft-stream";
/// `Content-Type` of a stream of JSON messages, one a line.
pub const JSON_STREAM: &str = "application/vnd.kvorum.raft-stream+json";
/// The largest frame that is accepted, in bytes. An append holds at most a few
/// MiB of entries unless a single one is larger, and the configuration allows no
/// value of more than half of this.
pub const MAX_FRAME_BYTES: usize = 64 << 20;
// Beside the largest request, a message that forwards writes has up to 1 MiB of smaller ones.
const _: () = assert!(MOST_REQUEST_BYTES + (2 << 20) <= MAX_FRAME_BYTES);

/// Room that is made for the items of a list before they are read.
const MAX_RESERVED_ITEMS: usize = 1024;
/// Room that is made for the rest of a frame before it has arrived, in bytes.
const MAX_RESERVED_BYTES: usize = 1 << 20;

/// Header: the sender's cluster, 16 hexadecimal digits.
pub const HEADER_CLUSTER: &str = "x-kvorum-cluster";
/// Header: the sender's node id.
pub const HEADER_FROM: &str = "x-kvorum-from";
/// Header: the node id that the message is meant for.
pub const HEADER_TO: &str = "x-kvorum-to";

/// How messages to peers are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Ours, compact.
    Binary,
    /// Openraft's JSON, readable.
    Json,
}

/// A message that could not be understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The binary form is damaged or of another version.
    #[error("the binary message cannot be decoded: {0}")]
    Binary(#[from] DecodeError),
    /// The JSON form is malformed.
    #[error("the JSON message cannot be decoded: {0}")]
    Json(#[from] serde_json::Error),
    /// A stream announces a frame beyond the limit.
    #[error("a frame of {0} bytes is beyond the limit of {MAX_FRAME_BYTES}")]
    FrameTooLarge(usize),
}

/// A message with a binary and a JSON form.
pub trait Message: Sized + Serialize + DeserializeOwned {
    /// Appends the binary form without the version byte.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads what [`Self::put`] wrote.
    fn read(r: &mut Reader) -> Result<Self, DecodeError>;

    /// The whole message in `encoding`.
    fn encode(&self, encoding: Encoding) -> Bytes {
        match encoding {
            Encoding::Binary => {
                let mut out = vec![WIRE_VERSION];
                self.put(&mut out);
                out.into()
            }
            Encoding::Json => serde_json::to_vec(self).expect("peer messages have a JSON form").into(),
        }
    }

    /// Reads a whole message; bytes are shared with `input`.
    fn decode(encoding: Encoding, input: Bytes) -> Result<Self, WireError> {
        match encoding {
            Encoding::Binary => {
                let mut r = Reader::new(input);
                r.version("peer message", WIRE_VERSION)?;
                let message = Self::read(&mut r)?;
                r.finish()?;
                Ok(message)
            }
            Encoding::Json => Ok(serde_json::from_slice(&input)?),
        }
    }
}

fn put_log_id_option(out: &mut Vec<u8>, id: Option<&LogId>) {
    put_option(out, id, put_log_id);
}

fn read_log_id_option(r: &mut Reader) -> Result<Option<LogId>, DecodeError> {
    r.option("log id", read_log_id)
}

/// For how many of the `count` items of a list room is made before they are read.
///
/// The count is the sender's word, and an item takes many times the memory of the
/// byte that could stand for it: room for as many as there are bytes in a large
/// message would be gigabytes.
fn reserved(count: usize, r: &Reader) -> usize {
    count.min(r.remaining()).min(MAX_RESERVED_ITEMS)
}

impl Message for VoteRequest<TypeConfig> {
    fn put(&self, out: &mut Vec<u8>) {
        put_vote(out, &self.vote);
        put_log_id_option(out, self.last_log_id.as_ref());
        out.push(u8::from(self.leadership_transfer));
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        let vote = read_vote(r)?;
        let last_log_id = read_log_id_option(r)?;
        let leadership_transfer = r.bool("leadership transfer")?;
        Ok(Self { vote, last_log_id, leadership_transfer })
    }
}

impl Message for VoteResponse<TypeConfig> {
    fn put(&self, out: &mut Vec<u8>) {
        put_vote(out, &self.vote);
        out.push(u8::from(self.vote_granted));
        put_log_id_option(out, self.last_log_id.as_ref());
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        let vote = read_vote(r)?;
        let vote_granted = r.bool("vote granted")?;
        let last_log_id = read_log_id_option(r)?;
        Ok(Self { vote, vote_granted, last_log_id })
    }
}

impl Message for AppendEntriesRequest<TypeConfig> {
    fn put(&self, out: &mut Vec<u8>) {
        put_vote(out, &self.vote);
        put_log_id_option(out, self.prev_log_id.as_ref());
        put_log_id_option(out, self.leader_commit.as_ref());
        let count = u32::try_from(self.entries.len()).expect("an append holds a few thousand entries");
        out.put_u32_le(count);
        for entry in &self.entries {
            put_entry(out, entry);
        }
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        let vote = read_vote(r)?;
        let prev_log_id = read_log_id_option(r)?;
        let leader_commit = read_log_id_option(r)?;
        let count = r.u32("entry count")? as usize;
        let mut entries = Vec::with_capacity(reserved(count, r));
        for _ in 0..count {
            entries.push(read_entry(r)?);
        }
        Ok(Self { vote, prev_log_id, entries, leader_commit })
    }
}

impl Message for AppendEntriesResponse<TypeConfig> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Success => out.push(0),
            Self::PartialSuccess(matching) => {
                out.push(1);
                put_log_id_option(out, matching.as_ref());
            }
            Self::Conflict => out.push(2),
            Self::HigherVote(vote) => {
                out.push(3);
                put_vote(out, vote);
            }
        }
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        match r.u8("append answer")? {
            0 => Ok(Self::Success),
            1 => Ok(Self::PartialSuccess(read_log_id_option(r)?)),
            2 => Ok(Self::Conflict),
            3 => Ok(Self::HigherVote(read_vote(r)?)),
            tag => Err(DecodeError::UnknownTag { field: "append answer", tag }),
        }
    }
}

impl Message for StreamAppendResult<TypeConfig> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Ok(matching) => {
                out.push(0);
                put_log_id_option(out, matching.as_ref());
            }
            Err(StreamAppendError::Conflict(log_id)) => {
                out.push(1);
                put_log_id(out, log_id);
            }
            Err(StreamAppendError::HigherVote(vote)) => {
                out.push(2);
                put_vote(out, vote);
            }
        }
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        match r.u8("stream answer")? {
            0 => Ok(Ok(read_log_id_option(r)?)),
            1 => Ok(Err(StreamAppendError::Conflict(read_log_id(r)?))),
            2 => Ok(Err(StreamAppendError::HigherVote(read_vote(r)?))),
            tag => Err(DecodeError::UnknownTag { field: "stream answer", tag }),
        }
    }
}

impl Message for TransferLeaderRequest<TypeConfig> {
    fn put(&self, out: &mut Vec<u8>) {
        put_vote(out, self.from_leader());
        out.put_u64_le(*self.to_node_id());
        put_log_id_option(out, self.last_log_id());
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        let from = read_vote(r)?;
        let to = r.u64("node id")?;
        Ok(Self::new(from, to, read_log_id_option(r)?))
    }
}

impl Message for TransferLeaderResponse<TypeConfig> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Ok(()) => out.push(0),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                out.push(1);
                put_vote(out, expected);
                put_vote(out, actual);
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                out.push(2);
                put_log_id_option(out, expected.as_ref());
                put_log_id_option(out, actual.as_ref());
            }
        }
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        match r.u8("transfer answer")? {
            0 => Ok(Ok(())),
            1 => Ok(Err(TransferLeaderError::VoteChanged { expected: read_vote(r)?, actual: read_vote(r)? })),
            2 => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: read_log_id_option(r)?,
                actual: read_log_id_option(r)?,
            })),
            tag => Err(DecodeError::UnknownTag { field: "transfer answer", tag }),
        }
    }
}

impl Message for SnapshotResponse<TypeConfig> {
    fn put(&self, out: &mut Vec<u8>) {
        put_vote(out, &self.vote);
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self::new(read_vote(r)?))
    }
}

/// One file of a snapshot as announced at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct SnapshotFile {
    /// The file's name, without any folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// One step of a snapshot's transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotFrame {
    /// Comes first: what the snapshot covers and which files will follow.
    Begin {
        /// The sender's vote, as with every Raft message of a leader.
        vote: Vote,
        /// Log id and membership that the snapshot covers.
        meta: SnapshotMeta,
        /// The files, in the order in which they come.
        files: Vec<SnapshotFile>,
    },
    /// The next piece of the current file.
    Chunk {
        /// xxh3-64 of `data`.
        checksum: u64,
        /// The bytes.
        #[serde(with = "base64_bytes")]
        data: Bytes,
    },
    /// Comes last.
    End {
        /// xxh3-64 over the begin frame and the chunks' checksums in order.
        checksum: u64,
    },
}

impl Message for SnapshotFrame {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Begin { vote, meta, files } => {
                out.push(1);
                put_vote(out, vote);
                put_log_id_option(out, meta.last_log_id.as_ref());
                put_stored_membership(out, &meta.last_membership);
                out.put_u32_le(u32::try_from(files.len()).expect("a snapshot has few files"));
                for file in files {
                    put_bytes(out, file.name.as_bytes());
                    out.put_u64_le(file.size);
                }
            }
            Self::Chunk { checksum, data } => {
                out.push(2);
                out.put_u64_le(*checksum);
                put_bytes(out, data);
            }
            Self::End { checksum } => {
                out.push(3);
                out.put_u64_le(*checksum);
            }
        }
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        match r.u8("snapshot frame")? {
            1 => {
                let vote = read_vote(r)?;
                let last_log_id = read_log_id_option(r)?;
                let last_membership = read_stored_membership(r)?;
                let count = r.u32("file count")? as usize;
                let mut files = Vec::with_capacity(reserved(count, r));
                for _ in 0..count {
                    files.push(SnapshotFile { name: r.string("file name")?, size: r.u64("file size")? });
                }
                Ok(Self::Begin { vote, meta: SnapshotMeta { last_log_id, last_membership }, files })
            }
            2 => Ok(Self::Chunk { checksum: r.u64("checksum")?, data: r.bytes("chunk")? }),
            3 => Ok(Self::End { checksum: r.u64("checksum")? }),
            tag => Err(DecodeError::UnknownTag { field: "snapshot frame", tag }),
        }
    }
}

/// Encodes a message as one frame of a stream: a length and the message, or one
/// line of JSON.
pub fn encode_frame<M: Message>(message: &M, encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Binary => {
            let mut out = vec![0, 0, 0, 0, WIRE_VERSION];
            message.put(&mut out);
            let length = u32::try_from(out.len() - 4).expect("a frame is far below 4 GiB");
            if let Some(prefix) = out.first_chunk_mut::<4>() {
                *prefix = length.to_le_bytes();
            }
            out.into()
        }
        Encoding::Json => {
            let mut line = serde_json::to_vec(message).expect("peer messages have a JSON form");
            line.push(b'\n');
            line.into()
        }
    }
}

/// Cuts frames out of a stream's pieces, however they arrive.
#[derive(Debug)]
pub struct FrameDecoder {
    encoding: Encoding,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line's end.
    searched: usize,
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, buffer: BytesMut::new(), searched: 0 }
    }

    /// Adds what has arrived.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Whether a part of a frame is waiting for its rest.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole message, if it has arrived.
    ///
    /// # Errors
    /// When the frame is too large or doesn't decode; the stream is then of no
    /// more use.
    pub fn next_frame<M: Message>(&mut self) -> Result<Option<M>, WireError> {
        match self.encoding {
            Encoding::Binary => {
                let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(None) };
                let length = u32::from_le_bytes(*prefix) as usize;
                if length > MAX_FRAME_BYTES {
                    return Err(WireError::FrameTooLarge(length));
                }
                if self.buffer.len() < 4 + length {
                    // The length is the sender's word; what arrives makes its own room.
                    self.buffer.reserve((4 + length - self.buffer.len()).min(MAX_RESERVED_BYTES));
                    return Ok(None);
                }
                self.buffer.advance(4);
                M::decode(Encoding::Binary, self.buffer.split_to(length).freeze()).map(Some)
            }
            Encoding::Json => {
                let unsearched = self.buffer.iter().skip(self.searched);
                let Some(end) = unsearched.copied().position(|byte| byte == b'\n') else {
                    self.searched = self.buffer.len();
                    return if self.buffer.len() > MAX_FRAME_BYTES {
                        Err(WireError::FrameTooLarge(self.buffer.len()))
                    } else {
                        Ok(None)
                    };
                };
                let line = self.buffer.split_to(self.searched + end).freeze();
                self.searched = 0;
                self.buffer.advance(1);
                M::decode(Encoding::Json, line).map(Some)
            }
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Json => "json",
        })
    }
}

/// JSON form of file contents.
mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
