//! Cuts a body that arrives over time into its JSON documents.

use bytes::{Bytes, BytesMut};
use tonic::Status;

use super::answer::too_large;

/// The documents of a body so far: objects, one after the other, with nothing but white
/// space between them.
///
/// Holds at most one document that is not whole yet, and what came with its last part. Each
/// byte is looked at once, however small the parts are that it arrives in.
#[derive(Debug)]
pub(super) struct Documents {
    waiting: BytesMut,
    /// How much of `waiting` has been looked at; the document begins at its start.
    seen: usize,
    /// Brackets open at `seen`.
    depth: usize,
    in_string: bool,
    after_backslash: bool,
    max_bytes: usize,
}

impl Documents {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            waiting: BytesMut::new(),
            seen: 0,
            depth: 0,
            in_string: false,
            after_backslash: false,
            max_bytes,
        }
    }

    /// Adds what has arrived.
    pub(super) fn push(&mut self, part: &[u8]) {
        self.waiting.extend_from_slice(part);
    }

    /// Takes the next document, if all of it is there.
    ///
    /// # Errors
    /// `InvalidArgument` if something else than an object comes next, or an object that is too
    /// large. What follows can't be told apart then, so the body is of no more use.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.depth == 0 {
            let space = self.waiting.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let _ = self.waiting.split_to(space);
        }
        while let Some(&byte) = self.waiting.get(self.seen) {
            self.seen += 1;
            if self.seen > self.max_bytes {
                return Err(too_large());
            }
            if self.in_string {
                match byte {
                    _ if self.after_backslash => self.after_backslash = false,
                    b'\\' => self.after_backslash = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'{' | b'[' if self.depth > 0 || byte == b'{' => self.depth += 1,
                _ if self.depth == 0 => {
                    return Err(Status::invalid_argument("a request must be a JSON object"));
                }
                b'"' => self.in_string = true,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let document = self.waiting.split_to(self.seen).freeze();
                        self.seen = 0;
                        return Ok(Some(document));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Checks that the body did not end inside a document.
    ///
    /// # Errors
    /// `InvalidArgument` if it did.
    pub(super) fn finish(&self) -> Result<(), Status> {
        if self.depth == 0 {
            Ok(())
        } else {
            Err(Status::invalid_argument("the body ends inside a JSON object"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(parts: &[&str]) -> Result<Vec<String>, String> {
        let mut documents = Documents::new(20);
        let mut found = Vec::new();
        for part in parts {
            documents.push(part.as_bytes());
            while let Some(document) = documents.next().map_err(|status| status.message().to_owned())? {
                found.push(String::from_utf8(document.to_vec()).unwrap());
            }
        }
        documents.finish().map_err(|status| status.message().to_owned())?;
        Ok(found)
    }

    #[test]
    fn documents_are_found_however_they_are_divided() {
        let body = " {\"a\":\"}\\\"{\"}\n\n{}{\"b\":[{},[]]}\t";
        let expected = ["{\"a\":\"}\\\"{\"}", "{}", "{\"b\":[{},[]]}"];
        assert_eq!(cut(&[body]).unwrap(), expected);
        for at in 0..body.len() {
            let (one, other) = body.split_at(at);
            assert_eq!(cut(&[one, other]).unwrap(), expected, "cut at {at}");
        }
        let single: Vec<_> = body.split("").collect();
        assert_eq!(cut(&single).unwrap(), expected);
        assert_eq!(cut(&["", " \n"]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_object_ends_the_body() {
        for body in ["1", "[{}]", "{},{}", "}", "\"{}\""] {
            assert_eq!(cut(&[body]).unwrap_err(), "a request must be a JSON object", "{body}");
        }
        assert_eq!(cut(&["{} {\"a\":"]).unwrap_err(), "the body ends inside a JSON object");
    }

    #[test]
    fn a_document_is_refused_as_soon_as_it_is_too_large() {
        assert_eq!(cut(&["{\"a\":\"0123456789abc\"}"]).unwrap_err(), "etcdserver: request is too large");
        assert_eq!(cut(&["{\"a\":\"01234567", "89abc"]).unwrap_err(), "the body ends inside a JSON object");
        assert_eq!(
            cut(&["{\"a\":\"01234567", "89abcdefgh"]).unwrap_err(),
            "etcdserver: request is too large"
        );
        assert_eq!(cut(&["{\"a\":\"0123456789ab\"}"; 3]).unwrap().len(), 3);
    }
}
