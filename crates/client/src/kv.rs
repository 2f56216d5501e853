//! Single keys: put, get, delete.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde::{Deserialize, Serialize};

use crate::call::{Call, Effect};
use crate::query::{Query, encode};
use crate::{Client, Error};

const LONGEST_IDEMPOTENCY_KEY: usize = 256;

/// What a write demands of the key before it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The key's modification revision is this one.
    Revision(i64),
    /// The key exists.
    Exists,
    /// The key does not exist.
    Absent,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began.
    #[default]
    Linearizable,
    /// The same, resting on the leader's lease: bounded clock drift is assumed.
    Lease,
    /// What the node that answers has applied so far.
    Local,
}

impl Consistency {
    /// The query parameter, absent for the API's default.
    pub(crate) fn parameter(self) -> Option<&'static str> {
        match self {
            Self::Linearizable => None,
            Self::Lease => Some("lease"),
            Self::Local => Some("local"),
        }
    }
}

/// How to put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// What must hold for the write to happen.
    pub condition: Option<Condition>,
    /// A token of 1 to 256 visible ASCII bytes, unique to this write, that lets
    /// it be repeated without being applied twice.
    pub idempotency_key: Option<String>,
    /// The lease to attach the key to.
    pub lease: Option<i64>,
}

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// What must hold for the write to happen; `Absent` makes no sense here.
    pub condition: Option<Condition>,
    /// As in [`PutOptions::idempotency_key`].
    pub idempotency_key: Option<String>,
}

/// How to get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// The past revision to read; the current one if `None`.
    pub revision: Option<i64>,
    /// How fresh the answer must be.
    pub consistency: Consistency,
}

/// The answer to a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The store's revision of this write, which is now the key's modification revision.
    pub revision: i64,
    /// Whether the key was absent before.
    pub created: bool,
    /// How many times the key was set since it was created.
    pub version: i64,
}

/// The answer to a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// The store's revision after it.
    pub revision: i64,
    /// How many keys were removed: none or one.
    pub deleted: u64,
}

/// A key's value and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// The revision at which the key was created.
    pub create_revision: i64,
    /// The revision of its last write.
    pub mod_revision: i64,
    /// How many times it was set since it was created.
    pub version: i64,
    /// The lease it is attached to.
    pub lease: Option<i64>,
    /// The store's revision that the answer reflects.
    pub revision: i64,
}

impl Client {
    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// `ConditionFailed` if the condition does not hold, `OutcomeUnknown` if the
    /// write was sent and no definite answer came.
    pub async fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Written, Error> {
        let mut query = Query::default();
        query.number("lease", options.lease);
        let path = query.append_to(key_path(key.as_ref())?);
        let call = write_call(Method::PUT, path, options.idempotency_key.as_deref(), options.condition)?;
        self.execute(&call.body(value.into())).await?.json()
    }

    /// Reads `key`; `None` if it does not exist (at that revision).
    ///
    /// # Errors
    /// `Api` with code `compacted` or `future_revision` if the revision cannot be read.
    pub async fn get(&self, key: impl AsRef<[u8]>, options: GetOptions) -> Result<Option<Found>, Error> {
        let mut query = Query::default();
        query.number("revision", options.revision);
        query.text("consistency", options.consistency.parameter());
        let path = query.append_to(key_path(key.as_ref())?);
        let answer = match self.execute(&Call::new(Method::GET, path, Effect::Read)).await {
            Ok(answer) => answer,
            Err(Error::Api { code, .. }) if code == "not_found" => return Ok(None),
            Err(error) => return Err(error),
        };
        let mod_revision = answer.required_integer("etag")?;
        Ok(Some(Found {
            create_revision: answer.required_integer("x-kvorum-create-revision")?,
            mod_revision,
            version: answer.required_integer("x-kvorum-version")?,
            lease: answer.integer("x-kvorum-lease")?,
            revision: answer.required_integer("x-kvorum-revision")?,
            value: answer.body,
        }))
    }

    /// Removes `key`; removing an absent key succeeds and removes nothing.
    ///
    /// # Errors
    /// As for [`Self::put`].
    pub async fn delete(&self, key: impl AsRef<[u8]>, options: DeleteOptions) -> Result<Deleted, Error> {
        if options.condition == Some(Condition::Absent) {
            return Err(Error::InvalidInput("deleting only what is absent can never do anything".to_owned()));
        }
        let path = key_path(key.as_ref())?;
        let call = write_call(Method::DELETE, path, options.idempotency_key.as_deref(), options.condition)?;
        self.execute(&call).await?.json()
    }
}

fn write_call(
    method: Method,
    path: String,
    token: Option<&str>,
    condition: Option<Condition>,
) -> Result<Call, Error> {
    let call = keyed_call(method, path, token)?;
    let any = HeaderValue::from_static("*");
    Ok(match condition {
        None => call,
        Some(Condition::Exists) => call.header(IF_MATCH, any),
        Some(Condition::Absent) => call.header(IF_NONE_MATCH, any),
        Some(Condition::Revision(revision)) => {
            let tag = HeaderValue::try_from(format!("\"{revision}\""))
                .expect("a quoted number is a valid header value");
            call.header(IF_MATCH, tag)
        }
    })
}

/// A write that can be repeated if it carries an idempotency key.
pub(crate) fn keyed_call(method: Method, path: String, token: Option<&str>) -> Result<Call, Error> {
    let Some(token) = token else { return Ok(Call::new(method, path, Effect::Write)) };
    let fits = (1..=LONGEST_IDEMPOTENCY_KEY).contains(&token.len()) && token.trim() == token;
    let value = HeaderValue::from_str(token).ok().filter(|_| fits).ok_or_else(|| {
        Error::InvalidInput(format!(
            "the idempotency key must be 1 to {LONGEST_IDEMPOTENCY_KEY} visible ASCII bytes"
        ))
    })?;
    let call = Call::new(method, path, Effect::RepeatableWrite);
    Ok(call.header(HeaderName::from_static("idempotency-key"), value))
}

/// An idempotency key that no other write has.
pub(crate) fn new_idempotency_key() -> String {
    // The keys of the standard library's hashes come from the system's randomness.
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// The path of a key, slashes encoded too, so that no key is a path of its own.
fn key_path(key: &[u8]) -> Result<String, Error> {
    if key.is_empty() {
        return Err(Error::InvalidInput("the key is empty; it must be at least 1 byte".to_owned()));
    }
    // URLs have no way to write these two: even encoded they are steps in a path.
    if key == b"." || key == b".." {
        return Err(Error::InvalidInput(
            "the keys \".\" and \"..\" cannot stand in a URL; use POST /write and /read for them".to_owned(),
        ));
    }
    Ok(format!("/v1/kv/{}", encode(key)))
}

#[cfg(test)]
mod tests;
