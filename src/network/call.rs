//! One request on its way to a handler: credentials, admission, body, query.
//!
//! Handlers take a [`Call`] instead of Actix's extractors, so that every limit
//! is enforced in one place, in the right order (route, credentials, admission,
//! body), and every refusal has the documented form.

use std::future::{Future as _, Ready, poll_fn, ready};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use serde::de::DeserializeOwned;

use super::admission::{Admission, Permit};
use super::backend::Backend;
use super::error::Failure;
use super::place;
use super::query::{self, Query};
use crate::command::Idempotency;
use crate::error::Error;

/// A body is given its time again for each further piece of this size.
const BODY_PROGRESS_BYTES: usize = 64 << 10;

/// What all calls of one worker share.
#[derive(Debug)]
pub(super) struct Shared<B> {
    /// The layer below.
    pub(super) backend: B,
    /// What is in flight, over all workers.
    pub(super) admission: Arc<Admission>,
    /// The largest body of a call that carries JSON.
    pub(super) max_request_bytes: usize,
    /// How long a body may take for each [`BODY_PROGRESS_BYTES`].
    pub(super) body_patience: Duration,
    /// How long a client may take for one slice of a large answer.
    pub(super) stall: Duration,
}

/// The largest body that a call takes, with the names for its error.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimit {
    /// What the body is.
    pub(super) what: &'static str,
    /// Its largest size.
    pub(super) bytes: usize,
    /// The option that sets it.
    pub(super) option: &'static str,
}

/// A request that reached its handler.
pub(super) struct Call<B> {
    /// The request's head.
    pub(super) request: HttpRequest,
    /// What all calls share.
    pub(super) shared: Rc<Shared<B>>,
    payload: Payload,
}

impl<B: Backend> FromRequest for Call<B> {
    type Error = Failure;
    type Future = Ready<Result<Self, Failure>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let shared = request
            .app_data::<Rc<Shared<B>>>()
            .expect("the server gives every app the shared state of its worker");
        ready(Ok(Self { request: request.clone(), shared: Rc::clone(shared), payload: payload.take() }))
    }
}

impl<B: Backend> Call<B> {
    /// The layer below.
    pub(super) fn backend(&self) -> &B {
        &self.shared.backend
    }

    /// Demands the cluster's secret, if there is one.
    pub(super) fn authorize(&self) -> Result<(), Failure> {
        let bearer = self
            .request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        Ok(self.backend().authorize(bearer)?)
    }

    /// Takes a place among the requests in flight.
    pub(super) fn admit(&self) -> Result<Permit, Failure> {
        self.shared.admission.admit().ok_or_else(|| self.overloaded())
    }

    /// Counts `bytes` as held by the request of `permit`.
    pub(super) fn hold(&self, permit: &mut Permit, bytes: usize) -> Result<(), Failure> {
        if permit.grow(bytes) { Ok(()) } else { Err(self.overloaded()) }
    }

    /// That too much is in flight.
    pub(super) fn overloaded(&self) -> Failure {
        Error::Overloaded { node: self.backend().node_id() }.into()
    }

    /// The query's parameters, of which the route takes `allowed`.
    pub(super) fn query(&self, allowed: &[&'static str]) -> Result<Query, Failure> {
        match self.request.uri().query() {
            None => Ok(Query::default()),
            Some(raw) => Ok(Query::parse(raw, allowed)?),
        }
    }

    /// The key that the path names after `prefix`: raw bytes, slashes and dots as they are.
    pub(super) fn path_key(&self, prefix: &str) -> Result<Bytes, Failure> {
        // The router has matched a decoded path; a key is read from the raw one,
        // where an encoded slash is no separator and nothing was normalised.
        let raw = self.request.uri().path().strip_prefix(prefix).ok_or(Failure::UnknownPath)?;
        let key = query::decode_path_key(raw)?;
        self.check_key("key", &key)?;
        Ok(key)
    }

    /// A segment of the path that the router has named.
    pub(super) fn path_number<T: FromStr>(&self, name: &str) -> Result<T, Failure> {
        self.request
            .match_info()
            .get(name)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Failure::invalid(format!("the path's {name} must be a whole number")))
    }

    /// Checks a key's length.
    pub(super) fn check_key(&self, what: &'static str, key: &[u8]) -> Result<(), Failure> {
        let limit = self.backend().limits().max_key_bytes;
        if key.is_empty() {
            Err(Failure::invalid(format!("the {what} is empty; keys have 1 to {limit} bytes")))
        } else if key.len() > limit {
            Err(Error::TooLarge { what, size: key.len(), limit, option: "max_key_bytes" }.into())
        } else {
            Ok(())
        }
    }

    /// Checks the lengths of the parameters that name keys or begins of keys. Empty ones pass:
    /// what they stand for is the route's to say.
    pub(super) fn check_query_keys(&self, query: &Query, names: &[&'static str]) -> Result<(), Failure> {
        let given = names.iter().filter_map(|name| Some((*name, query.bytes(name)?)));
        let mut keys = given.filter(|(_, key)| !key.is_empty());
        keys.try_for_each(|(name, key)| self.check_key(name, key))
    }

    /// The client's token that makes the write apply at most once.
    pub(super) fn idempotency(&self) -> Result<Option<Idempotency>, Failure> {
        let mut tokens = self.request.headers().get_all("idempotency-key");
        let Some(token) = tokens.next() else { return Ok(None) };
        if tokens.next().is_some() {
            return Err(Failure::invalid("there is more than one Idempotency-Key"));
        }
        Ok(Some(self.backend().idempotency(Bytes::copy_from_slice(token.as_bytes()))?))
    }

    /// The body of a call that carries JSON, read as `T`.
    ///
    /// The content type is not looked at: the calls are to work with a bare `curl -d`.
    pub(super) async fn json<T: DeserializeOwned>(
        &mut self,
        permit: &mut Permit,
        expected: &str,
    ) -> Result<T, Failure> {
        read_json(&self.json_body(permit).await?, expected)
    }

    /// [`Self::json`] for a body of many small objects, each of which takes up to
    /// `object_bytes` once it is read: many times the two bytes of its braces.
    pub(super) async fn json_of_objects<T: DeserializeOwned>(
        &mut self,
        permit: &mut Permit,
        expected: &str,
        object_bytes: usize,
    ) -> Result<T, Failure> {
        let body = self.json_body(permit).await?;
        self.hold(permit, place::count_objects(&body).saturating_mul(object_bytes))?;
        read_json(&body, expected)
    }

    async fn json_body(&mut self, permit: &mut Permit) -> Result<Bytes, Failure> {
        let limit = BodyLimit {
            what: "request body",
            bytes: self.shared.max_request_bytes,
            option: "max_request_bytes",
        };
        self.body(permit, limit).await
    }

    /// The body's bytes, counted as held by `permit`.
    ///
    /// # Errors
    /// `TooLarge` as soon as it is known, without keeping more than the limit;
    /// `Overloaded` before anything is read, if the length was announced.
    pub(super) async fn body(&mut self, permit: &mut Permit, limit: BodyLimit) -> Result<Bytes, Failure> {
        let too_large = |size| {
            Failure::from(Error::TooLarge {
                what: limit.what,
                size,
                limit: limit.bytes,
                option: limit.option,
            })
        };
        // Actix has refused a malformed Content-Length already.
        let announced: Option<usize> = self
            .request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.trim().parse().ok());
        if let Some(size) = announced.filter(|size| *size > limit.bytes) {
            return Err(too_large(size));
        }
        self.hold(permit, announced.unwrap_or(0))?;

        let patience = self.shared.body_patience;
        let mut deadline = pin!(tokio::time::sleep(patience));
        let Some(first) = next_chunk(&mut self.payload, deadline.as_mut(), patience).await? else {
            return Ok(Bytes::new());
        };
        if announced == Some(first.len()) {
            return Ok(first);
        }
        // Memory follows what arrived, not what was announced.
        let mut body =
            BytesMut::with_capacity(first.len().max(BODY_PROGRESS_BYTES.min(announced.unwrap_or(0))));
        let mut progress = 0;
        let mut chunk = first;
        loop {
            let size = body.len() + chunk.len();
            if size > limit.bytes {
                return Err(too_large(size));
            }
            if announced.is_none() {
                self.hold(permit, chunk.len())?;
            }
            body.extend_from_slice(&chunk);
            progress += chunk.len();
            if progress >= BODY_PROGRESS_BYTES {
                progress = 0;
                deadline.as_mut().reset(tokio::time::Instant::now() + patience);
            }
            match next_chunk(&mut self.payload, deadline.as_mut(), patience).await? {
                Some(next) => chunk = next,
                None => return Ok(body.freeze()),
            }
        }
    }
}

fn read_json<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let place = place::locate(body, &error).map(|place| format!("{place}: ")).unwrap_or_default();
        let error: String = error.to_string().chars().take(256).collect();
        Failure::invalid(format!("the body must be JSON such as {expected}: {place}{error}"))
    })
}

/// The body's next bytes; `None` at its end.
async fn next_chunk(
    payload: &mut Payload,
    mut deadline: Pin<&mut tokio::time::Sleep>,
    patience: Duration,
) -> Result<Option<Bytes>, Failure> {
    poll_fn(|cx| match Pin::new(&mut *payload).poll_next(cx) {
        Poll::Ready(Some(Ok(chunk))) => Poll::Ready(Ok(Some(chunk))),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Err(Failure::BodyBroken(error.to_string()))),
        Poll::Ready(None) => Poll::Ready(Ok(None)),
        Poll::Pending => deadline.as_mut().poll(cx).map(|()| Err(Failure::BodyStalled(patience))),
    })
    .await
}
