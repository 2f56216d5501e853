//! One key of an answer, and the JSON form of bytes.
//!
//! Bytes stand in JSON as text where they are UTF-8, else in Base64 under a name
//! that ends in `_base64`. Both forms are read, whichever a node chose.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Error;
use crate::error::strange;

/// A key as an answer shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// The value; `None` if only keys were asked for.
    pub value: Option<Bytes>,
    /// The revision at which the key was created.
    pub create_revision: i64,
    /// The revision of its last write.
    pub mod_revision: i64,
    /// How many times it was set since it was created.
    pub version: i64,
    /// The lease it is attached to.
    pub lease: Option<i64>,
}

/// An item of a JSON answer.
#[derive(Debug, Deserialize)]
pub(crate) struct ItemBody {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: Option<i64>,
}

impl ItemBody {
    /// # Errors
    /// `Protocol`, blaming `endpoint`, if it is no item.
    pub(crate) fn decode(self, endpoint: &str) -> Result<Item, Error> {
        Ok(Item {
            key: KeyBody { key: self.key, key_base64: self.key_base64 }.decode(endpoint)?,
            value: decode_bytes(self.value, self.value_base64, endpoint)?,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        })
    }
}

/// Decodes all items of a list.
pub(crate) fn decode_items(items: Vec<ItemBody>, endpoint: &str) -> Result<Vec<Item>, Error> {
    items.into_iter().map(|item| item.decode(endpoint)).collect()
}

/// The key of a JSON answer.
#[derive(Debug, Deserialize)]
pub(crate) struct KeyBody {
    key: Option<String>,
    key_base64: Option<String>,
}

impl KeyBody {
    pub(crate) fn decode(self, endpoint: &str) -> Result<Bytes, Error> {
        decode_bytes(self.key, self.key_base64, endpoint)?
            .ok_or_else(|| strange(endpoint, "an item of the answer has no key"))
    }
}

fn decode_bytes(
    text: Option<String>,
    base64: Option<String>,
    endpoint: &str,
) -> Result<Option<Bytes>, Error> {
    match (text, base64) {
        (Some(text), _) => Ok(Some(Bytes::from(text))),
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map(|bytes| Some(bytes.into()))
            .map_err(|error| strange(endpoint, format!("undecodable Base64: {error}"))),
        (None, None) => Ok(None),
    }
}

/// Shorter than this, bytes are sent in whichever form is easier to read.
const LONG: usize = 1024;

/// Adds bytes to a JSON object as the API shows them: under `name` if they are UTF-8,
/// else in Base64 under `name_base64`.
pub fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => drop(object.insert(name.to_owned(), text.into())),
        Err(_) => insert_base64(object, name, bytes),
    }
}

/// The same for a request: in Base64 too if so much would have to be escaped that
/// this is shorter.
pub(crate) fn insert_shorter(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    if bytes.len() < LONG || escaped_len(bytes) <= bytes.len() / 3 * 4 {
        insert_bytes(object, name, bytes);
    } else {
        insert_base64(object, name, bytes);
    }
}

fn insert_base64(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into());
}

/// How many bytes text takes in JSON.
fn escaped_len(text: &[u8]) -> usize {
    let escaped = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..=31 => 6,
        _ => 1,
    };
    text.iter().map(escaped).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_text_or_base64() {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", &b"\0".repeat(5_000));
        insert_bytes(&mut object, "value", &[0xff]);
        let expected = serde_json::json!({ "key": "\0".repeat(5_000), "value_base64": "/w==" });
        assert_eq!(Value::from(object), expected);
    }

    #[test]
    fn long_bytes_take_the_shorter_form() {
        for (bytes, name) in [
            (b"\0".repeat(10), "v"),
            (b"\0".repeat(5_000), "v_base64"),
            (b"\xff".repeat(10), "v_base64"),
            (b"a text\n".repeat(500), "v"),
            ("\u{20ac}".repeat(5_000).into_bytes(), "v"),
        ] {
            let mut object = Map::new();
            insert_shorter(&mut object, "v", &bytes);
            assert_eq!(object.keys().collect::<Vec<_>>(), [name]);
            let json = Value::from(object).to_string();
            assert!(bytes.len() < LONG || json.len() <= bytes.len() * 4 / 3 + 20, "{}", json.len());
        }
    }
}
