//! The byte-level alphabet of everything Kvorum stores or sends in binary.
//!
//! Integers are little-endian and of fixed width, byte strings carry a 32-bit
//! length, options carry a presence byte. Whoever uses this puts a version byte
//! in front. Nothing here knows what the bytes mean, and nothing here panics or
//! allocates by a length it has not checked against the input that is there.

use bytes::{BufMut, Bytes};

/// Why bytes could not be decoded. Undecodable is never the same as absent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends inside a field.
    #[error("input ends inside {field}: {need} bytes needed, {have} left")]
    Truncated {
        /// The field that was being read.
        field: &'static str,
        /// Bytes that the field needs.
        need: usize,
        /// Bytes that were left.
        have: usize,
    },
    /// A tag that this release does not know.
    #[error("unknown {field} {tag}")]
    UnknownTag {
        /// The field that holds the tag.
        field: &'static str,
        /// The tag that was found.
        tag: u8,
    },
    /// The format version is not one that this release reads.
    #[error("{what} has format version {found}, but this release reads {known}")]
    Version {
        /// What was being decoded.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The version understood.
        known: u8,
    },
    /// A byte string that must be UTF-8 is not.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// The field that was being read.
        field: &'static str,
    },
    /// The fields decode, but together they are not a value that can be.
    #[error("{field} is invalid: {reason}")]
    Invalid {
        /// The field that was being read.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Values are nested in one another more often than is allowed.
    #[error("{field} is nested more than {limit} deep")]
    TooDeep {
        /// What is nested.
        field: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Bytes remain where the value should have ended.
    #[error("{0} bytes left over after the value")]
    Trailing(usize),
}

/// Appends a byte string with its 32-bit length.
///
/// # Panics
/// If `bytes` is 4 GiB or longer; every caller's limits are far below.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("byte strings are limited far below 4 GiB");
    out.put_u32_le(len);
    out.extend_from_slice(bytes);
}

/// Appends a presence byte and, when present, what `write` appends.
pub fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, write: impl FnOnce(&mut Vec<u8>, &T)) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            write(out, value);
        }
    }
}

/// Reads fields from the front of a buffer; byte strings share its memory.
#[derive(Debug, Clone)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Reads from the start of `input`.
    pub fn new(input: Bytes) -> Self {
        Self { rest: input }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, field: &'static str, need: usize) -> Result<Bytes, DecodeError> {
        let have = self.rest.len();
        if have < need {
            return Err(DecodeError::Truncated { field, need, have });
        }
        Ok(self.rest.split_to(need))
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(field, N)?;
        let mut array = [0; N];
        array.copy_from_slice(&bytes);
        Ok(array)
    }

    /// Reads one byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(u8::from_le_bytes)
    }

    /// Reads a 32-bit unsigned integer.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// Reads a 64-bit unsigned integer.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// Reads a 64-bit signed integer.
    pub fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.array(field).map(i64::from_le_bytes)
    }

    /// Reads a truth value: one byte, zero or one.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::UnknownTag { field, tag }),
        }
    }

    /// Reads a byte string that shares the input's memory.
    pub fn bytes(&mut self, field: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.u32(field)? as usize;
        self.take(field, len)
    }

    /// Reads a UTF-8 string.
    pub fn string(&mut self, field: &'static str) -> Result<String, DecodeError> {
        String::from_utf8(self.bytes(field)?.to_vec()).map_err(|_| DecodeError::NotUtf8 { field })
    }

    /// Reads what [`put_option`] wrote.
    pub fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool(field)? { read(self).map(Some) } else { Ok(None) }
    }

    /// Reads the version byte of `what` and refuses any but `known`.
    pub fn version(&mut self, what: &'static str, known: u8) -> Result<(), DecodeError> {
        let found = self.u8(what)?;
        if found == known { Ok(()) } else { Err(DecodeError::Version { what, found, known }) }
    }

    /// Takes everything that is left.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// Asserts that the whole input was read.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_round_trip(a in any::<u64>(), b in any::<i64>(), s in any::<Vec<u8>>(), o in any::<Option<u32>>()) {
            let mut out = Vec::new();
            out.put_u64_le(a);
            out.put_i64_le(b);
            put_bytes(&mut out, &s);
            put_option(&mut out, o.as_ref(), |out, v| out.put_u32_le(*v));
            let mut r = Reader::new(out.into());
            prop_assert_eq!(r.u64("a"), Ok(a));
            prop_assert_eq!(r.i64("b"), Ok(b));
            prop_assert_eq!(r.bytes("s"), Ok(Bytes::from(s)));
            prop_assert_eq!(r.option("o", |r| r.u32("o")), Ok(o));
            prop_assert_eq!(r.finish(), Ok(()));
        }

        #[test]
        fn any_input_is_an_answer_not_a_panic(input in any::<Vec<u8>>()) {
            let mut r = Reader::new(input.into());
            let _ = r.option("o", |r| r.string("s"));
            let _ = r.bytes("b");
            let _ = r.version("v", 1);
            let _ = r.finish();
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_before_it_is_allocated() {
        let mut r = Reader::new(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 1]));
        assert_eq!(
            r.bytes("value"),
            Err(DecodeError::Truncated { field: "value", need: 0xffff_ffff, have: 1 })
        );
    }
}
