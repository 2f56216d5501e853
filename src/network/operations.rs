//! What `/v1/txn` and `/v1/batch` both say in JSON: ranges of keys, puts, deletes.
//!
//! A key or a value is text, or base64 under a name of its own. Whatever is
//! ambiguous or contradictory is refused with the place where it stands.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::Failure;
use super::place::Place;
use crate::command::{DeleteOp, PutOp};
use crate::keyspace::KeyRange;

/// Bytes as a request gives them: in one of two fields.
#[derive(Debug)]
pub(super) struct Given {
    /// The field for text, and its name.
    pub(super) text: (&'static str, Option<String>),
    /// The field for base64, and its name.
    pub(super) base64: (&'static str, Option<String>),
}

impl Given {
    /// The field that is there.
    fn name(&self) -> &'static str {
        if self.text.1.is_some() { self.text.0 } else { self.base64.0 }
    }

    fn is_some(&self) -> bool {
        self.text.1.is_some() || self.base64.1.is_some()
    }

    /// The bytes, if they are given, of the object at `place`.
    pub(super) fn bytes(self, place: &Place<'_>) -> Result<Option<Bytes>, Failure> {
        match (self.text, self.base64) {
            ((_, None), (_, None)) => Ok(None),
            ((_, Some(text)), (_, None)) => Ok(Some(text.into())),
            ((_, None), (name, Some(base64))) => match STANDARD.decode(base64) {
                Ok(bytes) => Ok(Some(bytes.into())),
                Err(error) => Err(place.field(name).refuse(format!("is not base64 ({error})"))),
            },
            ((text, Some(_)), (base64, Some(_))) => {
                Err(place.refuse(format!("has both {text} and {base64}; give one of them")))
            }
        }
    }
}

/// Which keys a request means.
#[derive(Debug)]
pub(super) struct NamedKeys {
    pub(super) key: Given,
    pub(super) prefix: Given,
    pub(super) start: Given,
    pub(super) end: Given,
}

impl NamedKeys {
    /// The range, of the object at `place`.
    pub(super) fn range(self, place: &Place<'_>) -> Result<KeyRange, Failure> {
        let Self { key, prefix, start, end } = self;
        let ways = [&key, &prefix, &start].into_iter().filter(|given| given.is_some()).count();
        if ways != 1 {
            return Err(place.refuse("must name its keys in exactly one way: key, prefix or start"));
        }
        if end.is_some() && !start.is_some() {
            return Err(place.field(end.name()).refuse("makes sense only beside start"));
        }
        if key.is_some() {
            return Ok(KeyRange::One(one_key(key, place)?));
        }
        if let Some(prefix) = prefix.bytes(place)? {
            return Ok(KeyRange::prefix(prefix));
        }
        let name = end.name();
        match (start.bytes(place)?.unwrap_or_default(), end.bytes(place)?) {
            (start, None) => Ok(KeyRange::From(start)),
            (start, Some(end)) if end > start => Ok(KeyRange::Between { start, end }),
            (_, Some(_)) => Err(place.field(name).refuse("must come after start in the order of bytes")),
        }
    }
}

/// A single key, which must be there, of the object at `place`.
fn one_key(given: Given, place: &Place<'_>) -> Result<Bytes, Failure> {
    let name = given.name();
    match given.bytes(place)? {
        None => Err(place.refuse("needs a key")),
        Some(key) if key.is_empty() => Err(place.field(name).refuse("is empty; a key has at least one byte")),
        Some(key) => Ok(key),
    }
}

/// Declares an object that names a range of keys beside the fields given here,
/// because serde can't refuse unknown fields of an object that is put together
/// from two types.
macro_rules! object_with_keys {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::network) struct $name {
            /// The only key, if it is UTF-8.
            key: Option<String>,
            /// The only key, in base64.
            key_base64: Option<String>,
            /// All keys that begin with this, if it is UTF-8; empty for all.
            prefix: Option<String>,
            /// All keys that begin with this, in base64.
            prefix_base64: Option<String>,
            /// All keys from this one on, if it is UTF-8.
            start: Option<String>,
            /// All keys from this one on, in base64.
            start_base64: Option<String>,
            /// With `start`: only keys before this one, if it is UTF-8.
            end: Option<String>,
            /// With `start`: only keys before this one, in base64.
            end_base64: Option<String>,
            $($(#[$field_meta])* $field: $type,)*
        }

        impl $name {
            /// Takes the fields that say which keys are meant.
            fn take_keys(&mut self) -> $crate::network::operations::NamedKeys {
                use $crate::network::operations::{Given, NamedKeys};
                NamedKeys {
                    key: Given {
                        text: ("key", self.key.take()),
                        base64: ("key_base64", self.key_base64.take()),
                    },
                    prefix: Given {
                        text: ("prefix", self.prefix.take()),
                        base64: ("prefix_base64", self.prefix_base64.take()),
                    },
                    start: Given {
                        text: ("start", self.start.take()),
                        base64: ("start_base64", self.start_base64.take()),
                    },
                    end: Given {
                        text: ("end", self.end.take()),
                        base64: ("end_base64", self.end_base64.take()),
                    },
                }
            }
        }
    };
}
pub(super) use object_with_keys;

/// Sets a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PutBody {
    /// The key, if it is UTF-8.
    key: Option<String>,
    /// The key in base64.
    key_base64: Option<String>,
    /// The value, if it is UTF-8.
    value: Option<String>,
    /// The value in base64.
    value_base64: Option<String>,
    /// The lease that the key is attached to; none if absent or zero.
    lease: Option<i64>,
    /// Keep the key's value, which must be there, instead of setting one.
    #[serde(default)]
    keep_value: bool,
    /// Keep the key attached to the lease it has; the key must be there.
    #[serde(default)]
    keep_lease: bool,
    /// Answer what the key held.
    #[serde(default)]
    previous: bool,
}

impl PutBody {
    /// The operation at `place`.
    pub(super) fn into_op(self, place: &Place<'_>) -> Result<PutOp, Failure> {
        let key = Given { text: ("key", self.key), base64: ("key_base64", self.key_base64) };
        let value = Given { text: ("value", self.value), base64: ("value_base64", self.value_base64) };
        let key = one_key(key, place)?;
        let value = match (value.bytes(place)?, self.keep_value) {
            (Some(_), true) => return Err(place.refuse("has a value and keep_value; give one of them")),
            (None, false) => return Err(place.refuse("needs value, value_base64 or keep_value")),
            (value, _) => value,
        };
        let lease = match (self.lease, self.keep_lease) {
            (Some(_), true) => return Err(place.refuse("has lease and keep_lease; give one of them")),
            (None, true) => None,
            (lease, false) => Some(lease.unwrap_or(0)),
        };
        Ok(PutOp { key, value, lease, want_previous: self.previous })
    }
}

object_with_keys! {
    /// Removes a range of keys.
    DeleteBody {
        /// Answer what they held.
        #[serde(default)]
        previous: bool,
    }
}

impl DeleteBody {
    /// The operation at `place`.
    pub(super) fn into_op(mut self, place: &Place<'_>) -> Result<DeleteOp, Failure> {
        Ok(DeleteOp { keys: self.take_keys().range(place)?, want_previous: self.previous })
    }
}
