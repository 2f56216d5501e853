//! Cursors: where a listing goes on, and at which revision.
//!
//! A cursor is a versioned binary record in base64url. It is opaque but no
//! secret: it says nothing that its holder could not have asked for, so it is
//! checked for sense and not signed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes};

use crate::codec::{DecodeError, Reader, put_bytes, put_option};
use crate::error::Error;

const CURSOR_VERSION: u8 = 1;

/// The rest of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The revision that all pages reflect.
    pub(super) revision: i64,
    /// The first key of the whole listing's range.
    pub(super) start: Bytes,
    /// The end of the range, exclusive.
    pub(super) end: Option<Bytes>,
    /// The first key of the next page.
    pub(super) next: Bytes,
}

impl Cursor {
    /// The text that goes to the client.
    pub(super) fn encode(&self) -> String {
        let mut out = Vec::with_capacity(32 + self.start.len() + self.next.len());
        out.push(CURSOR_VERSION);
        out.put_i64_le(self.revision);
        put_bytes(&mut out, &self.start);
        put_option(&mut out, self.end.as_ref(), |out, end| put_bytes(out, end));
        put_bytes(&mut out, &self.next);
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads what [`Self::encode`] wrote; keys are at most `max_key_bytes` long.
    ///
    /// # Errors
    /// `Invalid` if it is not such a text or makes no sense.
    pub(super) fn decode(text: &[u8], max_key_bytes: usize) -> Result<Self, Error> {
        let invalid =
            |why: String| Error::Invalid(format!("the cursor is not one that this API gave out ({why})"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(error.to_string()))?;
        let cursor = Self::read(bytes.into()).map_err(|error| invalid(error.to_string()))?;
        // One byte more than a key: the key after a key is that key and a zero.
        let longest =
            cursor.start.len().max(cursor.next.len()).max(cursor.end.as_ref().map_or(0, Bytes::len));
        let inside = cursor.start <= cursor.next && cursor.end.as_ref().is_none_or(|end| cursor.next < *end);
        if cursor.revision < 0 || longest > max_key_bytes + 1 || !inside {
            return Err(invalid("it points outside its range".to_owned()));
        }
        Ok(cursor)
    }

    fn read(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        r.version("cursor", CURSOR_VERSION)?;
        let cursor = Self {
            revision: r.i64("revision")?,
            start: r.bytes("start")?,
            end: r.option("end", |r| r.bytes("end"))?,
            next: r.bytes("next key")?,
        };
        r.finish()?;
        Ok(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursor(start: &'static str, end: Option<&'static str>, next: &'static str) -> Cursor {
        Cursor {
            revision: 9,
            start: Bytes::from_static(start.as_bytes()),
            end: end.map(|end| Bytes::from_static(end.as_bytes())),
            next: Bytes::from_static(next.as_bytes()),
        }
    }

    #[test]
    fn a_cursor_outside_its_range_is_refused() {
        for bad in [
            cursor("b", Some("d"), "a"),
            cursor("b", Some("d"), "d"),
            cursor("b", None, "bbbbbb"),
            Cursor { revision: -1, ..cursor("b", None, "c") },
        ] {
            assert!(Cursor::decode(bad.encode().as_bytes(), 4).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn cursors_round_trip(a in any::<Vec<u8>>(), b in any::<Vec<u8>>(), revision in 0..i64::MAX) {
            let (start, next) = if a <= b { (a, b) } else { (b, a) };
            let mut end = next.clone();
            end.push(0);
            let cursor = Cursor { revision, start: start.into(), end: Some(end.into()), next: next.into() };
            prop_assert_eq!(Cursor::decode(cursor.encode().as_bytes(), 4096).unwrap(), cursor);
        }

        #[test]
        fn any_text_is_a_cursor_or_refused(text in "[A-Za-z0-9_-]{0,80}") {
            let _ = Cursor::decode(text.as_bytes(), 4096);
        }
    }
}
