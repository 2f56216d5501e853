//! Server-sent events: messages out of bytes that arrive in pieces.
//!
//! It knows the line format alone: comments, fields, and the empty line that ends
//! a message. Where a piece ends makes no difference, wherever it cuts.

use std::mem;

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its kind; empty if it has none.
    pub(crate) event: String,
    /// Its data, lines joined by line feeds.
    pub(crate) data: String,
}

/// Why a stream is no stream of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SseError {
    #[error("the stream of events is not UTF-8")]
    NotUtf8,
    #[error("a message of the stream of events is larger than {limit} bytes")]
    TooLarge { limit: usize },
}

/// Takes a stream apart.
#[derive(Debug)]
pub(crate) struct Parser {
    limit: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The last byte was a carriage return, so a line feed now ends nothing.
    after_return: bool,
    at_start: bool,
    message: Message,
    has_data: bool,
}

impl Parser {
    /// `limit` is the most bytes that a message may have.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_return: false,
            at_start: true,
            message: Message::default(),
            has_data: false,
        }
    }

    /// Takes bytes from the front of `piece` until a message is whole or nothing
    /// is left.
    ///
    /// # Errors
    /// `NotUtf8` and `TooLarge`; nothing that follows can be made sense of.
    pub(crate) fn next(&mut self, piece: &mut &[u8]) -> Result<Option<Message>, SseError> {
        while !piece.is_empty() {
            if mem::take(&mut self.after_return)
                && let Some(rest) = piece.strip_prefix(b"\n")
            {
                *piece = rest;
                continue;
            }
            let end = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (start, rest) = piece.split_at(end.unwrap_or(piece.len()));
            if self.line.len() + start.len() + self.message.data.len() > self.limit {
                return Err(SseError::TooLarge { limit: self.limit });
            }
            self.line.extend_from_slice(start);
            *piece = rest;
            let Some((ending, rest)) = rest.split_first() else { break };
            *piece = rest;
            self.after_return = *ending == b'\r';
            let line = mem::take(&mut self.line);
            if let Some(message) = self.end_line(&line)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn end_line(&mut self, line: &[u8]) -> Result<Option<Message>, SseError> {
        let line = std::str::from_utf8(line).map_err(|_| SseError::NotUtf8)?;
        let line = if mem::take(&mut self.at_start) { line.trim_start_matches('\u{feff}') } else { line };
        if line.is_empty() {
            return Ok(self.end_message());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.message.event),
            "data" => {
                if mem::replace(&mut self.has_data, true) {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            // Comments have no field's name, and others say nothing to this reader: ids
            // do not, because the data tell of every revision.
            _ => {}
        }
        Ok(None)
    }

    /// A message without data is none.
    fn end_message(&mut self) -> Option<Message> {
        let message = mem::take(&mut self.message);
        mem::take(&mut self.has_data).then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Message>, SseError> {
        let mut parser = Parser::new(1024);
        let mut messages = Vec::new();
        for mut piece in pieces {
            while let Some(message) = parser.next(&mut piece)? {
                messages.push(message);
            }
            assert!(piece.is_empty(), "everything is taken");
        }
        Ok(messages)
    }

    fn message(event: &str, data: &str) -> Message {
        Message { event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn fields_become_messages() {
        let text = "\u{feff}: hello\n\nevent: created\nid: 5\ndata: {}\n\nevent:change\ndata: a\ndata:  b\nretry: 3\n\n\
                    id: 9\n\nnonsense\ndata\n\nevent: cut off\ndata: x\n";
        let expected = [message("created", "{}"), message("change", "a\n b"), message("", "")];
        assert_eq!(parse([text.as_bytes()]).unwrap(), expected);
    }

    #[test]
    fn every_line_ending_is_one() {
        let expected = [message("e", "1"), message("", "2")];
        for ending in ["\n", "\r", "\r\n"] {
            let text = "event: e|data: 1||data: 2||".replace('|', ending);
            assert_eq!(parse([text.as_bytes()]).unwrap(), expected, "{ending:?}");
        }
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_before_it_is_whole() {
        let line = format!("data: {}\n", "x".repeat(400));
        let outcome = parse([line.as_bytes(), line.as_bytes(), line.as_bytes()]);
        assert_eq!(outcome, Err(SseError::TooLarge { limit: 1024 }));
        assert_eq!(parse(["x".repeat(2000).as_bytes()]), Err(SseError::TooLarge { limit: 1024 }));
        let many = format!("{line}\n").repeat(10);
        assert_eq!(parse([many.as_bytes()]).unwrap().len(), 10);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(parse([&b"data: \xff\n\n"[..]]), Err(SseError::NotUtf8));
    }

    /// Streams out of the parts that matter, in any order.
    fn streams() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("data: "),
            Just("event: change"),
            Just("id: 7"),
            Just(": comment"),
            Just("\n"),
            Just("\r"),
            Just("\r\n"),
            Just("\n\n"),
            Just("ä€"),
            Just(":"),
            Just("\0"),
        ];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn where_pieces_end_makes_no_difference(
            stream in streams(), cuts in proptest::collection::vec(0_usize..200, 0..12),
        ) {
            let bytes = stream.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
            prop_assert_eq!(parse(pieces), parse([bytes]));
        }

        #[test]
        fn what_is_written_as_messages_is_read_as_these(
            messages in proptest::collection::vec(("[a-z]{0,5}", "[^\r\0]{0,30}"), 0..8),
        ) {
            let mut stream = String::new();
            let mut expected = Vec::new();
            for (event, data) in messages {
                stream.extend(["event: ", &event, "\n"]);
                data.split('\n').for_each(|line| stream.extend(["data: ", line, "\n"]));
                stream.push('\n');
                expected.push(Message { event, data });
            }
            prop_assert_eq!(parse([stream.as_bytes()]).unwrap(), expected);
        }
    }
}
