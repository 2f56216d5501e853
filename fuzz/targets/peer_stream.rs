//! Streams between nodes: the same frames come out, however the bytes arrive.

#![no_main]

use bytes::Bytes;
use kvorum_fuzz::TypeConfig;
use kvorum_fuzz::openraft_network::wire::{Encoding, FrameDecoder, Message, SnapshotFrame, encode_frame};
use libfuzzer_sys::fuzz_target;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};

fuzz_target!(|data: &[u8]| {
    let [choice, piece, data @ ..] = data else { return };
    let encoding = if choice & 0x80 == 0 { Encoding::Binary } else { Encoding::Json };
    match choice & 3 {
        0 => frames::<AppendEntriesRequest<TypeConfig>>(encoding, data, *piece),
        1 => frames::<StreamAppendResult<TypeConfig>>(encoding, data, *piece),
        _ => frames::<SnapshotFrame>(encoding, data, *piece),
    }
});

fn frames<M: Message>(encoding: Encoding, data: &[u8], piece: u8) {
    let (whole, ended) = cut::<M>(encoding, [data].into_iter());
    let pieces = cut::<M>(encoding, data.chunks(usize::from(piece) + 1));
    assert_eq!((&whole, ended), (&pieces.0, pieces.1));

    // Written anew, the frames are the same.
    let again: Vec<u8> = whole.iter().flat_map(|frame| frame.1.clone()).collect();
    let (again, ended) = cut::<M>(encoding, [&again[..]].into_iter());
    assert!(!ended);
    assert_eq!(again, whole);
}

/// The messages in binary, each with the frame that carries it, and whether one was refused.
fn cut<'a, M: Message>(
    encoding: Encoding,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<(Bytes, Bytes)>, bool) {
    let mut decoder = FrameDecoder::new(encoding);
    let mut found = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame::<M>() {
                Ok(Some(message)) => {
                    found.push((message.encode(Encoding::Binary), encode_frame(&message, encoding)));
                }
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}
