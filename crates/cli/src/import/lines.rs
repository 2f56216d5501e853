//! JSON lines: one key each, however the file is cut into reads.

use std::fs::File;
use std::io::Read;
use std::mem;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::{Record, Source};
use crate::failure::{Exit, Failure};
use crate::output::Io;

/// Several times what the largest key and value take.
const LONGEST_LINE: usize = 64 << 20;
const READ_BYTES: usize = 64 << 10;

/// Lines of a file, or of standard input.
#[derive(Debug)]
pub(super) struct LineSource {
    file: Option<File>,
    from_line: u64,
    /// What was read and not yet given out begins at `start`.
    buffer: Vec<u8>,
    start: usize,
    /// Up to where it is known that no line ends.
    searched: usize,
    ended: bool,
    /// The number of the last line that was given out.
    line: u64,
}

impl LineSource {
    /// Passes over the lines before `from_line`.
    pub(super) fn new(file: Option<File>, from_line: u64) -> Self {
        let buffer = Vec::new();
        Self { file, from_line, buffer, start: 0, searched: 0, ended: false, line: 0 }
    }

    /// The next line, without its end.
    fn next_line(&mut self, io: &mut Io<'_>) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(offset) = unsearched.iter().position(|byte| *byte == b'\n') {
                let end = self.searched + offset;
                let line = self.buffer.get(self.start..end).unwrap_or_default().to_vec();
                self.start = end + 1;
                self.searched = self.start;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.ended {
                let rest = self.buffer.split_off(self.start);
                self.buffer.clear();
                (self.start, self.searched) = (0, 0);
                return Ok((!rest.is_empty()).then_some(rest));
            }
            if self.buffer.len() - self.start > LONGEST_LINE {
                return Err(self.refuse(&format!("is longer than {LONGEST_LINE} bytes")));
            }
            self.read(io)?;
        }
    }

    fn read(&mut self, io: &mut Io<'_>) -> Result<(), Failure> {
        self.buffer.drain(..mem::take(&mut self.start));
        let filled = self.buffer.len();
        self.searched = filled;
        self.buffer.resize(filled + READ_BYTES, 0);
        let free = self.buffer.get_mut(filled..).unwrap_or_default();
        let read = match &mut self.file {
            Some(file) => file.read(free),
            None => io.input.read(free),
        };
        let count = *read.as_ref().unwrap_or(&0);
        self.buffer.truncate(filled + count);
        match read {
            Ok(count) => self.ended = count == 0,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Failure::new(Exit::Failed, "input", format!("cannot read the input: {error}")));
            }
        }
        Ok(())
    }

    fn decode(&self, line: &[u8]) -> Result<Record, Failure> {
        let body: LineBody = serde_json::from_slice(line).map_err(|error| {
            // Its place is that in the line; which line it is, is told in front.
            let reason = error.to_string();
            self.refuse(&format!("is no JSON object of a key and a value: {}", without_line(&reason)))
        })?;
        let key = self.bytes("key", body.key, body.key_base64)?;
        let value = self.bytes("value", body.value, body.value_base64)?;
        Ok(Record { key, value, line: self.line })
    }

    fn bytes(&self, name: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, Failure> {
        match (text, base64) {
            (Some(text), None) => Ok(text.into()),
            (None, Some(base64)) => STANDARD
                .decode(base64)
                .map(Bytes::from)
                .map_err(|error| self.refuse(&format!("holds no Base64 in \"{name}_base64\": {error}"))),
            (None, None) => Err(self.refuse(&format!("has neither \"{name}\" nor \"{name}_base64\""))),
            (Some(_), Some(_)) => Err(self.refuse(&format!("has both \"{name}\" and \"{name}_base64\""))),
        }
    }

    fn refuse(&self, what: &str) -> Failure {
        Failure::new(Exit::Failed, "input", format!("line {} {what}", self.line))
    }
}

/// A message of the JSON reader without the number of the line, which is always 1.
fn without_line(reason: &str) -> String {
    reason.replace(" at line 1 column ", " at column ")
}

impl Source for LineSource {
    const UNIT: &'static str = "line";

    fn next(&mut self, io: &mut Io<'_>) -> Result<Option<Record>, Failure> {
        loop {
            self.line += 1;
            let Some(line) = self.next_line(io)? else { return Ok(None) };
            if self.line >= self.from_line && !line.trim_ascii().is_empty() {
                return self.decode(&line).map(Some);
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct LineBody {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}
