//! gRPC's framing: each message after a byte that says whether it is compressed, which here
//! it never is, and four bytes with its length.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tonic::Status;

const HEAD_BYTES: usize = 5;

/// Frames one message.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a message within the limit fits its frame");
    let mut framed = BytesMut::with_capacity(HEAD_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(length);
    framed.put_slice(message);
    framed.freeze()
}

/// Messages of a body that arrives in parts.
#[derive(Debug, Default)]
pub(super) struct Messages {
    waiting: BytesMut,
}

impl Messages {
    /// Adds what has arrived.
    pub(super) fn push(&mut self, part: &[u8]) {
        self.waiting.extend_from_slice(part);
    }

    /// Takes the next message, if all of it is there.
    ///
    /// # Errors
    /// `Internal` if it is compressed, which nobody asked for.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((mut head, rest)) = self.waiting.split_at_checked(HEAD_BYTES) else { return Ok(None) };
        if head.get_u8() != 0 {
            return Err(Status::internal(
                "the response is compressed, though the request allowed no compression",
            ));
        }
        let length = head.get_u32() as usize;
        if rest.len() < length {
            return Ok(None);
        }
        self.waiting.advance(HEAD_BYTES);
        Ok(Some(self.waiting.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_divided() {
        let body = [frame(b"one"), frame(b""), frame(b"three")].concat();
        for at in 0..=body.len() {
            let (one, other) = body.split_at(at);
            let mut messages = Messages::default();
            let mut found = Vec::new();
            for part in [one, other] {
                messages.push(part);
                while let Some(message) = messages.next().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, ["one", "", "three"], "cut at {at}");
        }
    }

    #[test]
    fn compressed_messages_are_refused() {
        let mut messages = Messages::default();
        messages.push(b"\x01\0\0\0\0");
        messages.next().unwrap_err();
    }
}
