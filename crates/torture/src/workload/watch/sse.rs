//! Server-sent events: messages out of bytes that arrive in pieces.

/// The largest message that is kept: one revision has at most a few hundred small events.
const LARGEST: usize = 16 << 20;

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// Its kind.
    pub(super) event: String,
    /// Its id; empty if it has none.
    pub(super) id: String,
    /// Its data, lines joined by line feeds.
    pub(super) data: String,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    message: Message,
    has_data: bool,
}

impl Parser {
    /// Takes a piece; gives the messages that it completes.
    ///
    /// # Errors
    /// What is no such stream.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<Vec<Message>, &'static str> {
        let mut messages = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() + self.message.data.len() > LARGEST {
                return Err("a message is too large");
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = std::str::from_utf8(&line).map_err(|_| "the stream is no text")?;
                messages.extend(self.end_line(line.trim_end_matches(['\r', '\n'])));
            }
        }
        Ok(messages)
    }

    fn end_line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return std::mem::take(&mut self.has_data).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.message.event),
            "id" => value.clone_into(&mut self.message.id),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            // A comment, which says that the connection stands.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_wherever_pieces_end() {
        let text = ": hello\n\nevent: created\nid: 5\ndata: {}\n\nevent:change\r\ndata: a\r\ndata:  ä\r\n\r\nid: 9\n\n";
        let message = |event: &str, id: &str, data: &str| Message {
            event: event.to_owned(),
            id: id.to_owned(),
            data: data.to_owned(),
        };
        let expected = [message("created", "5", "{}"), message("change", "", "a\n ä")];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let pieces = text.as_bytes().chunks(size);
            let messages: Vec<_> = pieces.flat_map(|piece| parser.feed(piece).unwrap()).collect();
            assert_eq!(messages, expected, "{size}");
        }
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        assert!(Parser::default().feed(b"data: \xff\n").is_err());
        assert!(Parser::default().feed(&vec![b'x'; LARGEST + 1]).is_err());
    }
}
