//! Query strings and percent-encoded keys.
//!
//! A query is parsed against the list of parameters that its route takes.
//! Whatever else stands in it is refused by name, as is a parameter that comes
//! twice. Values are bytes: keys need not be UTF-8.

use std::borrow::Cow;

use bytes::Bytes;

use crate::error::Error;
use crate::service::Consistency;

/// The parameter that chooses how fresh a read must be.
pub(super) const CONSISTENCY: &str = "consistency";

/// The decoded parameters of a query string.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(&'static str, Bytes)>,
}

impl Query {
    /// Parses `raw`, which may hold the parameters in `allowed`.
    ///
    /// # Errors
    /// `Invalid` for unknown or repeated parameters and broken percent-encoding.
    pub(super) fn parse(raw: &str, allowed: &[&'static str]) -> Result<Self, Error> {
        let mut query = Self::default();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name, Plus::IsSpace)?;
            let Some(known) = allowed.iter().find(|known| known.as_bytes() == name) else {
                return Err(unknown(&name, allowed));
            };
            if query.bytes(known).is_some() {
                return Err(Error::Invalid(format!("the query parameter {known} comes twice")));
            }
            query.pairs.push((known, decode(value, Plus::IsSpace)?));
        }
        Ok(query)
    }

    /// A parameter's bytes.
    pub(super) fn bytes(&self, name: &str) -> Option<&Bytes> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Whether a parameter is there at all.
    pub(super) fn has(&self, name: &str) -> bool {
        self.bytes(name).is_some()
    }

    /// A whole number of at least `min`.
    pub(super) fn number(&self, name: &str, min: i64) -> Result<Option<i64>, Error> {
        let Some(value) = self.bytes(name) else { return Ok(None) };
        std::str::from_utf8(value)
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .filter(|number| *number >= min)
            .map(Some)
            .ok_or_else(|| {
                Error::Invalid(format!("{name} must be a whole number from {min} to {}", i64::MAX))
            })
    }

    /// `true`, `false`, or the bare name, which means true.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Error> {
        match self.bytes(name).map(AsRef::as_ref) {
            None | Some(b"false") => Ok(false),
            Some(b"true" | b"") => Ok(true),
            Some(_) => Err(Error::Invalid(format!("{name} must be true or false"))),
        }
    }

    /// How fresh the read must be.
    pub(super) fn consistency(&self, default: Consistency) -> Result<Consistency, Error> {
        match self.bytes(CONSISTENCY).map(AsRef::as_ref) {
            None => Ok(default),
            Some(b"linearizable") => Ok(Consistency::Linearizable),
            Some(b"lease") => Ok(Consistency::Lease),
            Some(b"local") => Ok(Consistency::Local),
            Some(_) => Err(Error::Invalid("consistency must be linearizable, lease or local".to_owned())),
        }
    }
}

fn unknown(name: &[u8], allowed: &[&'static str]) -> Error {
    let shown: String = String::from_utf8_lossy(name).chars().take(64).collect();
    let takes = if allowed.is_empty() {
        "this path takes none".into()
    } else {
        Cow::from(format!("this path takes {}", allowed.join(", ")))
    };
    Error::Invalid(format!("unknown query parameter {shown:?}; {takes}"))
}

/// What `+` stands for: a space in queries (as HTML forms have it), itself in paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plus {
    IsSpace,
    IsPlus,
}

/// The bytes that a key in a path stands for.
///
/// # Errors
/// `Invalid` if a `%` is not followed by two hexadecimal digits.
pub(super) fn decode_path_key(raw: &str) -> Result<Bytes, Error> {
    decode(raw, Plus::IsPlus)
}

fn decode(raw: &str, plus: Plus) -> Result<Bytes, Error> {
    let raw = raw.as_bytes();
    let plain = |byte: &u8| *byte != b'%' && (plus == Plus::IsPlus || *byte != b'+');
    if raw.iter().all(plain) {
        return Ok(Bytes::copy_from_slice(raw));
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(&byte) = rest.next() {
        out.push(match byte {
            b'%' => rest
                .next()
                .zip(rest.next())
                .and_then(|(high, low)| Some(hex(*high)? << 4 | hex(*low)?))
                .ok_or_else(|| {
                    Error::Invalid(
                        "a % must be followed by two hexadecimal digits; write %25 for %".to_owned(),
                    )
                })?,
            b'+' if plus == Plus::IsSpace => b' ',
            other => other,
        });
    }
    Ok(out.into())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_decoded_as_bytes() {
        let query =
            Query::parse("prefix=a%2Fb+c%ff&limit=7&keys_only&x=", &["prefix", "limit", "keys_only", "x"])
                .unwrap();
        assert_eq!(query.bytes("prefix").unwrap(), &b"a/b c\xff"[..]);
        assert_eq!(query.number("limit", 1).unwrap(), Some(7));
        assert!(query.flag("keys_only").unwrap());
        assert_eq!(query.bytes("x").unwrap(), &b""[..]);
    }

    #[test]
    fn unknown_repeated_and_broken_parameters_are_refused_by_name() {
        let refused = |raw: &str| Query::parse(raw, &["prefix", "limit"]).unwrap_err().to_string();
        assert!(refused("prefx=a").contains("\"prefx\"; this path takes prefix, limit"));
        assert!(refused("limit=1&limit=2").contains("limit comes twice"));
        assert!(refused("prefix=%4").contains('%'));
        assert!(refused("prefix=%zz").contains('%'));
        assert!(refused("prefix=%+1").contains('%'));
    }

    #[test]
    fn numbers_have_one_form_and_a_least_value() {
        for bad in ["", "-1", "+1", "0", "1.0", "99999999999999999999", "x", "%ff"] {
            let query = Query::parse(&format!("limit={bad}"), &["limit"]).unwrap();
            assert!(query.number("limit", 1).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_query_is_parsed_or_refused(raw in ".*") {
            let _ = Query::parse(&raw, &["prefix", "limit"]);
        }

        #[test]
        fn any_key_survives_percent_encoding(key in any::<Vec<u8>>()) {
            use std::fmt::Write as _;
            let encoded = key.iter().fold(String::new(), |mut text, byte| {
                write!(text, "%{byte:02x}").unwrap();
                text
            });
            prop_assert_eq!(decode_path_key(&encoded).unwrap(), key);
        }
    }
}
