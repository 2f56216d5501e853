//! The little of HTTP/1.1 that a load generator needs: fixed request heads with
//! a hole for the key, and an incremental reader of answers.
//!
//! Why not an HTTP library: the generator shares the machine with the servers
//! it measures, so its own CPU time distorts the result. All requests of a run
//! have the same shape, so a head is written once per connection and patched in
//! place, and nothing is allocated per operation. Against one and the same
//! server that does nothing, 256-byte puts cost 5.9 µs of CPU each at 64 clients
//! and 9.5 µs at 1,000; with hyper's low-level client and no bookkeeping at all
//! they cost 7.4 and 14.5 µs.
//!
//! Nothing here knows sockets, clocks or keys. Whatever a server sends, the
//! reader ends in a [`Response`] or in [`Malformed`]; it keeps a bounded part of
//! the body and never panics.

/// The longest line of an answer's head that is accepted.
const MAX_LINE: usize = 16 * 1024;
/// The most header lines that are accepted.
const MAX_HEADERS: usize = 256;

/// Why the bytes of a server are no HTTP/1.1 answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed answer: {0}")]
pub(crate) struct Malformed(&'static str);

/// A whole answer, apart from the part of the body that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// How many bytes the body had.
    pub(crate) body_len: u64,
    /// The `Retry-After` header, when it was a number of seconds.
    pub(crate) retry_after_seconds: Option<u64>,
    /// Whether the server closes the connection after this answer.
    pub(crate) close: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    StatusLine,
    Headers { seen: usize },
    Body { left: u64 },
    ChunkSize,
    Chunk { left: u64 },
    ChunkEnd,
    Trailers { seen: usize },
    Done,
}

/// Reads answers to requests other than HEAD, fed in pieces of any size.
#[derive(Debug)]
pub(crate) struct ResponseReader {
    state: State,
    response: Response,
    content_length: Option<u64>,
    chunked: bool,
    /// The start of a line whose end has not arrived.
    line: Vec<u8>,
    /// The first bytes of the body.
    kept: Vec<u8>,
    keep: usize,
}

impl ResponseReader {
    /// A reader that keeps at most the first `keep` bytes of each body.
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            state: State::StatusLine,
            response: Response::default(),
            content_length: None,
            chunked: false,
            line: Vec::new(),
            kept: Vec::new(),
            keep,
        }
    }

    /// Forgets the answer and gets ready for the next one.
    pub(crate) fn reset(&mut self) {
        self.state = State::StatusLine;
        self.response = Response::default();
        self.content_length = None;
        self.chunked = false;
        self.line.clear();
        self.kept.clear();
    }

    /// The first bytes of the body that has arrived so far.
    pub(crate) fn body_start(&self) -> &[u8] {
        &self.kept
    }

    /// Takes the next bytes from the server.
    ///
    /// # Errors
    /// [`Malformed`] if they can't be the continuation of an answer. Bytes past
    /// the answer's end are malformed too: nothing was asked that they answer.
    pub(crate) fn feed(&mut self, mut input: &[u8]) -> Result<Option<Response>, Malformed> {
        while !input.is_empty() {
            match self.state {
                State::Body { left } => {
                    let left = self.take_body(&mut input, left);
                    self.state = if left == 0 { State::Done } else { State::Body { left } };
                }
                State::Chunk { left } => {
                    let left = self.take_body(&mut input, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk { left } };
                }
                State::Done => return Err(Malformed("bytes after the end of the answer")),
                State::StatusLine
                | State::Headers { .. }
                | State::ChunkSize
                | State::ChunkEnd
                | State::Trailers { .. } => self.take_line(&mut input)?,
            }
        }
        Ok((self.state == State::Done).then_some(self.response))
    }

    fn take_body(&mut self, input: &mut &[u8], left: u64) -> u64 {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let (body, rest) = input.split_at(here);
        *input = rest;
        let wanted = self.keep.saturating_sub(self.kept.len()).min(here);
        self.kept.extend(body.iter().take(wanted));
        self.response.body_len = self.response.body_len.saturating_add(here as u64);
        left.saturating_sub(here as u64)
    }

    fn take_line(&mut self, input: &mut &[u8]) -> Result<(), Malformed> {
        let Some(end) = input.iter().position(|&byte| byte == b'\n') else {
            if self.line.len().saturating_add(input.len()) > MAX_LINE {
                return Err(Malformed("a line of the head is too long"));
            }
            self.line.extend_from_slice(input);
            *input = &[];
            return Ok(());
        };
        let (here, rest) = input.split_at(end);
        *input = rest.get(1..).unwrap_or_default();
        if self.line.is_empty() {
            return self.line_read(here);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(here);
        let outcome = self.line_read(&line);
        line.clear();
        self.line = line;
        outcome
    }

    fn line_read(&mut self, line: &[u8]) -> Result<(), Malformed> {
        if line.len() > MAX_LINE {
            return Err(Malformed("a line of the head is too long"));
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            State::StatusLine => self.status_line(line),
            State::Headers { .. } if line.is_empty() => self.head_read(),
            State::Headers { seen } => {
                self.state = State::Headers { seen: count_header(seen)? };
                self.header(line)
            }
            State::ChunkSize => {
                let left = chunk_size(line)?;
                self.state = if left == 0 { State::Trailers { seen: 0 } } else { State::Chunk { left } };
                Ok(())
            }
            State::ChunkEnd if line.is_empty() => {
                self.state = State::ChunkSize;
                Ok(())
            }
            State::ChunkEnd => Err(Malformed("a chunk is longer than its size")),
            State::Trailers { .. } if line.is_empty() => {
                self.state = State::Done;
                Ok(())
            }
            State::Trailers { seen } => {
                self.state = State::Trailers { seen: count_header(seen)? };
                Ok(())
            }
            State::Body { .. } | State::Chunk { .. } | State::Done => {
                Err(Malformed("a line where none can be"))
            }
        }
    }

    fn status_line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let rest = line.strip_prefix(b"HTTP/1.1 ").ok_or(Malformed("it does not begin with HTTP/1.1"))?;
        let (&code, reason) = rest.split_first_chunk::<3>().ok_or(Malformed("the status is cut"))?;
        if !reason.is_empty() && !reason.starts_with(b" ") {
            return Err(Malformed("the status is not three digits"));
        }
        let status = number(&code).ok_or(Malformed("the status is not three digits"))?;
        self.response.status = u16::try_from(status).unwrap_or_default();
        if self.response.status < 100 {
            return Err(Malformed("the status is below 100"));
        }
        self.state = State::Headers { seen: 0 };
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let colon = line.iter().position(|&byte| byte == b':').ok_or(Malformed("a header has no colon"))?;
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = number(value).ok_or(Malformed("the content length is not a number"))?;
            if self.content_length.is_some_and(|other| other != length) {
                return Err(Malformed("two content lengths disagree"));
            }
            self.content_length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("the transfer encoding is not chunked"));
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.response.close |= value
                .split(|&byte| byte == b',')
                .any(|part| part.trim_ascii().eq_ignore_ascii_case(b"close"));
        } else if name.eq_ignore_ascii_case(b"retry-after") {
            self.response.retry_after_seconds = number(value);
        }
        Ok(())
    }

    fn head_read(&mut self) -> Result<(), Malformed> {
        self.state = match (self.response.status, self.chunked, self.content_length) {
            (101, _, _) => return Err(Malformed("the server switched protocols")),
            (100..200, _, _) => {
                // An interim answer; the one that counts follows.
                self.reset();
                return Ok(());
            }
            (_, true, Some(_)) => {
                return Err(Malformed("it has both a content length and a transfer encoding"));
            }
            (204 | 304, _, _) | (_, false, Some(0)) => State::Done,
            (_, true, None) => State::ChunkSize,
            (_, false, Some(left)) => State::Body { left },
            (_, false, None) => {
                return Err(Malformed("it has neither a content length nor chunks"));
            }
        };
        Ok(())
    }
}

fn count_header(seen: usize) -> Result<usize, Malformed> {
    if seen >= MAX_HEADERS {
        return Err(Malformed("it has too many headers"));
    }
    Ok(seen.saturating_add(1))
}

/// A decimal number without sign; `None` for anything else or on overflow.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    if digits.is_empty() {
        return Err(Malformed("a chunk has no size"));
    }
    digits
        .iter()
        .try_fold(0_u64, |value, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            value.checked_mul(16)?.checked_add(u64::from(digit))
        })
        .ok_or(Malformed("a chunk's size is not a hexadecimal number"))
}

/// A request with fixed bytes around a key of fixed size, and around a value
/// when it carries one.
#[derive(Debug, Clone)]
pub(crate) struct RequestTemplate {
    /// Everything before the value, with a hole for the key.
    head: Vec<u8>,
    key_at: usize,
    key_size: usize,
    /// What follows the value.
    tail: &'static [u8],
    has_value: bool,
}

/// The fixed parts of a request: method and start of the path, the rest of the
/// path, and what of the body surrounds key and value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Method and path up to the key, or the whole path.
    pub(crate) start: &'static str,
    /// What follows the key in the path.
    pub(crate) query: &'static str,
    /// The body before the key, when the key is in the body.
    pub(crate) body_start: Option<&'static str>,
    /// The body between key and value.
    pub(crate) body_middle: &'static str,
    /// The body after the value.
    pub(crate) body_end: &'static str,
    /// Whether the body holds a value.
    pub(crate) has_value: bool,
}

impl RequestTemplate {
    /// Prepares requests of `shape` to the host `host`.
    pub(crate) fn new(shape: Shape, host: &str, key_size: usize, value_size: usize) -> Self {
        let mut head = Vec::with_capacity(256);
        let mut key_at = 0;
        head.extend_from_slice(shape.start.as_bytes());
        if shape.body_start.is_none() {
            key_at = head.len();
            head.resize(head.len().saturating_add(key_size), b'0');
        }
        head.extend_from_slice(shape.query.as_bytes());
        head.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        head.extend_from_slice(host.as_bytes());
        let value_size = if shape.has_value { value_size } else { 0 };
        if let Some(body_start) = shape.body_start {
            let length =
                [body_start.len(), key_size, shape.body_middle.len(), value_size, shape.body_end.len()];
            let length: usize = length.iter().sum();
            head.extend_from_slice(b"\r\nContent-Type: application/json\r\nContent-Length: ");
            head.extend_from_slice(length.to_string().as_bytes());
            head.extend_from_slice(b"\r\n\r\n");
            head.extend_from_slice(body_start.as_bytes());
            key_at = head.len();
            head.resize(head.len().saturating_add(key_size), b'0');
            head.extend_from_slice(shape.body_middle.as_bytes());
        } else if shape.has_value {
            head.extend_from_slice(b"\r\nContent-Length: ");
            head.extend_from_slice(value_size.to_string().as_bytes());
            head.extend_from_slice(b"\r\n\r\n");
        } else {
            head.extend_from_slice(b"\r\n\r\n");
        }
        Self { head, key_at, key_size, tail: shape.body_end.as_bytes(), has_value: shape.has_value }
    }

    /// The bytes of the key, to be overwritten before the request is sent.
    pub(crate) fn key_mut(&mut self) -> &mut [u8] {
        let end = self.key_at.saturating_add(self.key_size);
        self.head.get_mut(self.key_at..end).expect("the hole was made for a key of this size")
    }

    /// The bytes before the value and after it.
    pub(crate) fn parts(&self) -> (&[u8], &'static [u8]) {
        (&self.head, self.tail)
    }

    /// Whether a value stands between the two parts.
    pub(crate) fn has_value(&self) -> bool {
        self.has_value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nX-Any: thing\r\nretry-AFTER: 7\r\n\r\nhello";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\nConnection: x, close\r\n\r\n\
        3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n";

    fn read_in_pieces(input: &[u8], size: usize) -> (Result<Option<Response>, Malformed>, Vec<u8>) {
        let mut reader = ResponseReader::new(64);
        let mut last = Ok(None);
        for piece in input.chunks(size) {
            assert_eq!(last, Ok(None), "only the last piece ends the answer");
            last = reader.feed(piece);
            if last.is_err() {
                break;
            }
        }
        (last, reader.body_start().to_vec())
    }

    #[test]
    fn answers_are_read_whatever_the_pieces() {
        let plain = Response { status: 200, body_len: 5, retry_after_seconds: Some(7), close: false };
        let chunked = Response { status: 503, body_len: 13, retry_after_seconds: None, close: true };
        for size in 1..=CHUNKED.len() {
            assert_eq!(read_in_pieces(PLAIN, size), (Ok(Some(plain)), b"hello".to_vec()));
            assert_eq!(read_in_pieces(CHUNKED, size), (Ok(Some(chunked)), b"abc0123456789".to_vec()));
        }
    }

    #[test]
    fn every_cut_answer_asks_for_more() {
        for whole in [PLAIN, CHUNKED] {
            for end in 0..whole.len() {
                assert_eq!(ResponseReader::new(8).feed(&whole[..end]), Ok(None));
            }
        }
    }

    #[test]
    fn malformed_answers_are_refused() {
        let bad: &[&[u8]] = &[
            b"SSH-2.0-x\r\n",
            b"HTTP/1.0 200 OK\r\n",
            b"HTTP/1.1 20\r\n",
            b"HTTP/1.1 2x0 OK\r\n",
            b"HTTP/1.1 2000 OK\r\n",
            b"HTTP/1.1 099 OK\r\n",
            b"HTTP/1.1 101 Switching\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            b"HTTP/1.1 204 No Content\r\n\r\nx",
        ];
        for input in bad {
            for size in [1, 7, input.len()] {
                let mut reader = ResponseReader::new(64);
                let refused = input.chunks(size).any(|piece| reader.feed(piece).is_err());
                assert!(refused, "{:?} in pieces of {size}", String::from_utf8_lossy(input));
            }
        }
        let mut endless = ResponseReader::new(8);
        assert!((0..MAX_LINE).any(|_| endless.feed(b"HT").is_err()), "a line has a longest size");
        let mut many = ResponseReader::new(8);
        many.feed(b"HTTP/1.1 200 OK\r\n").unwrap();
        assert!((0..=MAX_HEADERS).any(|_| many.feed(b"a: b\r\n").is_err()), "headers have a greatest number");
    }

    #[test]
    fn an_interim_answer_is_passed_over_and_a_reader_can_be_used_again() {
        let mut reader = ResponseReader::new(2);
        let first =
            reader.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(first.unwrap().unwrap().status, 201);
        assert_eq!(reader.body_start(), b"ab", "only as much as asked is kept");
        reader.reset();
        let second = reader.feed(b"HTTP/1.1 304 Not Modified\r\n\r\n").unwrap().unwrap();
        assert_eq!((second.status, second.body_len), (304, 0));
    }
}
