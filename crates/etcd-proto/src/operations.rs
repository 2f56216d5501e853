//! How much a transaction is going to be, told from its encoded form.
//!
//! An operation without content takes two bytes on the wire and some hundred in memory, so the
//! length of a request says little about what reading it takes.

use bytes::Buf as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Field numbers of `TxnRequest`.
const COMPARE: u32 = 1;
const SUCCESS: u32 = 2;
const FAILURE: u32 = 3;
/// Field number of `RequestOp`: a transaction inside.
const REQUEST_TXN: u32 = 4;

/// Counts the compares and operations in an encoded `TxnRequest`, nested ones too. What can't
/// be read is not counted, nor will it be read.
pub fn operations_in_txn(message: &[u8]) -> usize {
    let mut count = 0;
    let mut txns = vec![message];
    while let Some(txn) = txns.pop() {
        for (field, content) in messages(txn) {
            match field {
                COMPARE => count += 1,
                SUCCESS | FAILURE => {
                    count += 1;
                    txns.extend(
                        messages(content).filter(|(field, _)| *field == REQUEST_TXN).map(|(_, txn)| txn),
                    );
                }
                _ => {}
            }
        }
    }
    count
}

/// The fields of a message that have a length, in their order, up to what can't be read.
fn messages(mut message: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            if !message.has_remaining() {
                return None;
            }
            let (field, kind) = decode_key(&mut message).ok()?;
            if kind == WireType::LengthDelimited {
                let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
                let (content, rest) = message.split_at_checked(length)?;
                message = rest;
                return Some((field, content));
            }
            skip_field(kind, field, &mut message, DecodeContext::default()).ok()?;
        }
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::etcdserverpb::request_op::Request;
    use crate::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest};

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    #[test]
    fn operations_are_counted_at_every_depth() {
        let put =
            || op(Request::RequestPut(PutRequest { key: b"k".as_slice().into(), ..Default::default() }));
        let delete = op(Request::RequestDeleteRange(DeleteRangeRequest::default()));
        let inner =
            TxnRequest { compare: vec![Compare::default()], success: vec![put()], failure: vec![delete] };
        let txn = TxnRequest {
            compare: vec![Compare::default(); 2],
            success: vec![put(), op(Request::RequestTxn(inner.clone()))],
            failure: vec![RequestOp::default(), op(Request::RequestTxn(inner))],
        };
        assert_eq!(operations_in_txn(&txn.encode_to_vec()), 6 + 2 * 3);
        assert_eq!(operations_in_txn(&[]), 0);
        // Empty operations, as short as they can be.
        assert_eq!(operations_in_txn(&[0x12, 0].repeat(1_000)), 1_000);
    }

    #[test]
    fn what_cannot_be_read_ends_the_count() {
        let txn = TxnRequest { success: vec![RequestOp::default(); 3], ..Default::default() }.encode_to_vec();
        for tail in [&[0x12, 5, 1][..], &[0x12], &[0xff; 12], &[0x0b], &[0x11, 1, 2]] {
            assert_eq!(operations_in_txn(&[&txn, tail].concat()), 3, "{tail:?}");
        }
        // Fields of other kinds are passed over.
        let numbers = [&[0x08, 1][..], &[0x09, 1, 2, 3, 4, 5, 6, 7, 8], &[0x0d, 1, 2, 3, 4]].concat();
        let group = [0x7b, 0x08, 1, 0x7c];
        assert_eq!(operations_in_txn(&[&numbers, &group[..], &txn].concat()), 3);
    }
}
