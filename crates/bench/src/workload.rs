//! What is asked of the servers: kinds of operation, keys, values, and what an
//! answer must look like.
//!
//! Nothing here knows sockets or time. Keys are a function of their number, so
//! that a later run finds what an earlier one loaded.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::http1::{Response, Shape};

/// The mix of operations of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Writes to random keys: `PUT /v1/kv/{key}`.
    Put,
    /// Linearizable reads of random keys: `GET /v1/kv/{key}`.
    Get,
    /// Reads of random keys from the state of the node that is asked.
    GetLocal,
    /// Writes and linearizable reads; see `--read-percent`.
    Mixed,
    /// Writes through `POST /write`.
    SeedPut,
    /// Local reads through `POST /read`.
    SeedRead,
    /// Writes every key exactly once, in order, and retries what failed.
    Load,
    /// Steady writes, to measure how long none is acknowledged while a leader fails.
    Failover,
}

/// One kind of operation; latencies are kept apart by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    Get,
    GetLocal,
    SeedPut,
    SeedRead,
}

impl Operation {
    pub(crate) const ALL: [Self; 5] = [Self::Put, Self::Get, Self::GetLocal, Self::SeedPut, Self::SeedRead];

    /// The name in reports; stable.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetLocal => "get_local",
            Self::SeedPut => "seed_put",
            Self::SeedRead => "seed_read",
        }
    }

    pub(crate) fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::SeedPut)
    }

    /// The fixed parts of the request.
    pub(crate) fn shape(self) -> Shape {
        let empty =
            Shape { start: "", query: "", body_start: None, body_middle: "", body_end: "", has_value: false };
        match self {
            Self::Put => Shape { start: "PUT /v1/kv/", has_value: true, ..empty },
            Self::Get => Shape { start: "GET /v1/kv/", ..empty },
            Self::GetLocal => Shape { start: "GET /v1/kv/", query: "?consistency=local", ..empty },
            Self::SeedPut => Shape {
                start: "POST /write",
                body_start: Some(r#"{"Put":{"key":""#),
                body_middle: r#"","value":""#,
                body_end: r#""}}"#,
                has_value: true,
                ..empty
            },
            Self::SeedRead => {
                Shape { start: "POST /read", body_start: Some("\""), body_middle: "\"", ..empty }
            }
        }
    }

    /// Judges an answer of which `body` is the start.
    pub(crate) fn judge(self, response: &Response, body: &[u8], value_size: usize) -> Verdict {
        let value_size = value_size as u64;
        match (self, response.status) {
            (Self::Put, 200 | 201) if body.starts_with(b"{\"revision\":") => Verdict::Done,
            (Self::Get | Self::GetLocal, 200) if response.body_len == value_size => Verdict::Done,
            (Self::Get | Self::GetLocal, 404) if contains(body, b"\"not_found\"") => Verdict::Absent,
            (Self::SeedPut, 200) if body == b"\"Ok\"" => Verdict::Done,
            (Self::SeedRead, 200) if response.body_len == value_size.saturating_add(2) => Verdict::Done,
            (Self::SeedRead, 200) if body == b"\"\"" => Verdict::Absent,
            (_, 200..300) => Verdict::Wrong,
            _ => Verdict::Refused,
        }
    }
}

/// What an answer amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The operation was carried out.
    Done,
    /// A read was carried out, and the key is not there.
    Absent,
    /// The server says that it did, but the answer is not the one expected.
    Wrong,
    /// The server did not carry it out, or does not say so.
    Refused,
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// How many digits the key `number` needs, and one letter in front.
pub(crate) fn key_size_needed(keys: u64) -> usize {
    keys.saturating_sub(1).to_string().len().saturating_add(1)
}

/// Writes the key of the given number: the letter `b`, then the number in
/// decimal, padded with zeros to the size of `key`. Only unreserved characters,
/// so it stands in a path and in JSON as it is.
pub(crate) fn write_key(key: &mut [u8], number: u64) {
    let Some((first, digits)) = key.split_first_mut() else { return };
    *first = b'b';
    let mut left = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0'.wrapping_add((left % 10) as u8);
        left /= 10;
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Random printable bytes from which values are cut at random places.
///
/// Filling every value anew would cost CPU time that the servers need. A pool a
/// mebibyte longer than a value makes it unlikely that one compressed block of a
/// server holds the same bytes twice.
#[derive(Debug)]
pub(crate) struct Values {
    pool: Bytes,
    size: usize,
}

impl Values {
    const SPREAD: usize = 1 << 20;

    pub(crate) fn new(size: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pool = vec![0_u8; size.saturating_add(Self::SPREAD)];
        rng.fill(&mut pool[..]);
        for byte in &mut pool {
            *byte = ALPHABET.get(usize::from(*byte & 63)).copied().unwrap_or(b'-');
        }
        Self { pool: pool.into(), size }
    }

    /// A value; never one with a character that JSON would escape.
    pub(crate) fn pick(&self, rng: &mut StdRng) -> &[u8] {
        let at = rng.random_range(0..Self::SPREAD);
        self.pool.get(at..at.saturating_add(self.size)).expect("the pool is longer than any place by a value")
    }

    /// A value to keep.
    pub(crate) fn pick_shared(&self, rng: &mut StdRng) -> Bytes {
        self.pool.slice_ref(self.pick(rng))
    }

    /// The size of every value in bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::RequestTemplate;

    #[test]
    fn keys_have_the_size_asked_for_and_differ() {
        let mut key = [0; 12];
        write_key(&mut key, 9_876);
        assert_eq!(&key, b"b00000009876");
        assert_eq!((key_size_needed(1), key_size_needed(10), key_size_needed(11)), (2, 2, 3));
        let mut all: Vec<Vec<u8>> = (0..1_000)
            .map(|number| {
                let mut key = vec![0; key_size_needed(1_000)];
                write_key(&mut key, number);
                key
            })
            .collect();
        assert!(all.is_sorted(), "the order of keys is that of their numbers");
        all.dedup();
        assert_eq!(all.len(), 1_000);
    }

    #[test]
    fn values_are_printable_of_the_size_asked_for_and_differ() {
        let values = Values::new(100, 1);
        let mut rng = StdRng::seed_from_u64(2);
        let first = values.pick(&mut rng).to_vec();
        let second = values.pick(&mut rng).to_vec();
        assert_ne!(first, second);
        assert!(first.iter().chain(&second).all(|byte| ALPHABET.contains(byte)));
        assert_eq!((first.len(), second.len(), values.size()), (100, 100, 100));
        assert_eq!(Values::new(0, 1).pick(&mut rng), b"");
    }

    #[test]
    fn requests_carry_key_and_value_where_they_belong() {
        let request = |operation: Operation| {
            let mut template = RequestTemplate::new(operation.shape(), "h:1", 4, 3);
            write_key(template.key_mut(), 42);
            let (head, tail) = template.parts();
            let value: &[u8] = if template.has_value() { b"xyz" } else { b"" };
            String::from_utf8([head, value, tail].concat()).unwrap()
        };
        assert_eq!(
            request(Operation::Put),
            "PUT /v1/kv/b042 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 3\r\n\r\nxyz"
        );
        assert_eq!(request(Operation::Get), "GET /v1/kv/b042 HTTP/1.1\r\nHost: h:1\r\n\r\n");
        assert_eq!(
            request(Operation::GetLocal),
            "GET /v1/kv/b042?consistency=local HTTP/1.1\r\nHost: h:1\r\n\r\n"
        );
        let json = "\r\nContent-Type: application/json\r\nContent-Length: ";
        assert_eq!(
            request(Operation::SeedPut),
            format!(
                "POST /write HTTP/1.1\r\nHost: h:1{json}36\r\n\r\n{{\"Put\":{{\"key\":\"b042\",\"value\":\"xyz\"}}}}"
            )
        );
        assert_eq!(
            request(Operation::SeedRead),
            format!("POST /read HTTP/1.1\r\nHost: h:1{json}6\r\n\r\n\"b042\"")
        );
    }

    #[test]
    fn answers_are_judged_by_status_and_body() {
        use Operation::{Get, Put, SeedPut, SeedRead};
        let judge = |operation: Operation, status, body: &[u8]| {
            let response = Response { status, body_len: body.len() as u64, ..Response::default() };
            operation.judge(&response, body, 3)
        };
        assert_eq!(judge(Put, 201, br#"{"revision":7,"created":true,"version":1}"#), Verdict::Done);
        assert_eq!(judge(Put, 200, b"whatever"), Verdict::Wrong);
        assert_eq!(judge(Put, 503, b"{}"), Verdict::Refused);
        assert_eq!(judge(Get, 200, b"abc"), Verdict::Done);
        assert_eq!(judge(Get, 200, b"abcd"), Verdict::Wrong);
        assert_eq!(judge(Get, 404, br#"{"error":{"code":"not_found"}}"#), Verdict::Absent);
        assert_eq!(judge(Get, 404, b"no such route"), Verdict::Refused);
        assert_eq!(judge(SeedPut, 200, b"\"Ok\""), Verdict::Done);
        assert_eq!(judge(SeedPut, 200, b"\"No\""), Verdict::Wrong);
        assert_eq!(judge(SeedRead, 200, b"\"abc\""), Verdict::Done);
        assert_eq!(judge(SeedRead, 200, b"\"\""), Verdict::Absent);
        assert_eq!(judge(SeedRead, 200, b"\"ab\""), Verdict::Wrong);
    }
}
