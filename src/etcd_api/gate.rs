//! The gate that every call passes, over gRPC and in JSON alike.
//!
//! It knows the table of methods and hardly anything of what they do: it counts calls by method
//! and outcome, refuses simple calls above a number in flight, keeps their deadlines, and ends
//! streams when the node stops. What callers must prove is to be demanded here.
//!
//! A few simple calls may wait for hours for what others do. Such a call is told how to say so
//! ([`Waiting`]); from then on it takes no place from those that are only being carried out.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::{HeaderMap, Request, Response};
use kvorum_etcd_proto::gateway::PromptBody;
use kvorum_etcd_proto::{METHODS, Method, method};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

use super::bodies::{Arriving, CallBytes, Cut, Leaving, Weighed, too_many, trailers};
use crate::inflight::{AnswerBytes, InflightBytes};
use crate::metrics::Figures;

/// gRPC's codes are 0 to 16.
const CODES: usize = 17;

/// What stands for all methods that are not etcd's: health, reflection, unknown ones.
const OTHER: &str = "other";

/// The simple calls that may wait for what others do.
const MAY_WAIT: [&str; 2] = ["/v3lockpb.Lock/Lock", "/v3electionpb.Election/Campaign"];

/// The call whose request may become much larger than it is.
const TXN: &str = "/etcdserverpb.KV/Txn";

/// Calls so far, and those in flight.
#[derive(Debug)]
pub struct Traffic {
    ended: HashMap<&'static str, [AtomicU64; CODES]>,
    inflight: AtomicUsize,
    waiting: AtomicUsize,
    /// As many may be in flight, and as many wait besides.
    max_places: usize,
}

/// How often a method has ended so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallCount {
    /// The path of the method, or `other`.
    pub method: &'static str,
    /// The outcome.
    pub code: Code,
    /// Calls since the start.
    pub count: u64,
}

impl Traffic {
    fn new(max_places: usize) -> Self {
        let names = METHODS.iter().map(|method| method.path).chain([OTHER]);
        Self {
            ended: names.map(|name| (name, Default::default())).collect(),
            inflight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            max_places,
        }
    }

    /// Simple calls in flight that do not wait.
    pub fn inflight(&self) -> usize {
        self.inflight.load(Ordering::Relaxed)
    }

    /// Calls that wait for what others do.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Every outcome that there has been, in the order of methods and codes.
    pub fn counts(&self) -> Vec<CallCount> {
        let sorted: BTreeMap<_, _> = self.ended.iter().collect();
        let mut counts = Vec::new();
        for (method, by_code) in sorted {
            for (code, count) in (0..).zip(by_code) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    counts.push(CallCount { method, code: Code::from(code), count });
                }
            }
        }
        counts
    }

    /// Adds what is counted here to the node's figures.
    pub fn figures(&self, out: &mut Figures) {
        let inflight = "Simple calls of etcd's API that are being answered";
        out.gauge("etcd_calls_in_flight", inflight, self.inflight());
        let waiting = "Calls for locks and leadership that wait for others";
        out.gauge("etcd_calls_waiting", waiting, self.waiting());
        let counts = self.counts().into_iter().map(|of| {
            let labels = vec![("method", of.method.to_owned()), ("code", format!("{:?}", of.code))];
            (labels, of.count)
        });
        out.counters("etcd_calls", "Calls of etcd's API that have ended, streams included", counts);
    }

    fn count(&self, name: &str, code: Code) {
        let counter = self.ended.get(name).and_then(|by_code| by_code.get(code as usize));
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes one more place of those that `taken` counts, if there is one.
    fn take(&self, taken: &AtomicUsize) -> bool {
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                (now < self.max_places).then_some(now + 1)
            })
            .is_ok()
    }
}

/// What a simple call is counted among.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    InFlight,
    Waiting,
    /// It was refused, or has ended.
    Nowhere,
}

/// A simple call's place.
#[derive(Debug)]
struct Place {
    traffic: Arc<Traffic>,
    standing: Mutex<Standing>,
}

impl Place {
    fn take(traffic: &Arc<Traffic>) -> Option<Arc<Self>> {
        let taken = traffic.take(&traffic.inflight);
        let place = || Self { traffic: Arc::clone(traffic), standing: Mutex::new(Standing::InFlight) };
        taken.then(|| Arc::new(place()))
    }

    /// Waits instead of being in flight; false if there is no room for that.
    fn wait(&self) -> bool {
        let mut standing = self.standing.lock();
        if *standing == Standing::InFlight {
            if !self.traffic.take(&self.traffic.waiting) {
                return false;
            }
            self.traffic.inflight.fetch_sub(1, Ordering::Relaxed);
            *standing = Standing::Waiting;
        }
        true
    }

    fn leave(&self) {
        let taken = match std::mem::replace(&mut *self.standing.lock(), Standing::Nowhere) {
            Standing::InFlight => &self.traffic.inflight,
            Standing::Waiting => &self.traffic.waiting,
            Standing::Nowhere => return,
        };
        taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// By what a call that may wait says that it does; an extension of its request.
#[derive(Debug, Clone)]
pub struct Waiting {
    place: Arc<Place>,
    closed: watch::Receiver<bool>,
}

impl Waiting {
    /// Gives the call's place to others, for one among those that wait.
    ///
    /// # Errors
    /// When too many wait, or the node stops.
    pub fn begin(&self) -> Result<(), Status> {
        if *self.closed.borrow() {
            return Err(stopped());
        }
        if self.place.wait() { Ok(()) } else { Err(too_many()) }
    }

    /// Waits until the node stops, which calls that wait must not hold up.
    pub async fn closed(mut self) {
        // The sender lives as long as the gate; a gate that is gone has closed too.
        let _ = self.closed.wait_for(|closed| *closed).await;
    }
}

/// A call on its way: counted once, when it has ended, and in flight until then.
#[derive(Debug)]
struct Passage {
    traffic: Arc<Traffic>,
    name: &'static str,
    place: Option<Arc<Place>>,
    code: Option<Code>,
}

impl Passage {
    /// Notes the outcome that headers or trailers tell, if they do.
    fn note(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(Status::GRPC_STATUS) {
            self.code = Some(Code::from_bytes(status.as_bytes()));
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        // Without an outcome, the caller has gone before there was one.
        self.traffic.count(self.name, self.code.unwrap_or(Code::Cancelled));
        if let Some(place) = &self.place {
            place.leave();
        }
    }
}

/// Lets calls through to `S`. Clones share what they count.
#[derive(Debug, Clone)]
pub struct Gate<S> {
    calls: S,
    traffic: Arc<Traffic>,
    bounds: Bounds,
    inflight: Arc<InflightBytes>,
    closed: watch::Sender<bool>,
}

/// What calls may cost.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Simple calls that are carried out at a time, and as many besides that wait.
    pub max_inflight: usize,
    /// The largest message of a call.
    pub max_message_bytes: usize,
    /// The time that each 64 KiB of a simple call's body may take.
    pub body_patience: Duration,
}

impl<S> Gate<S> {
    /// A gate before `calls`, whose simple ones hold bytes of `inflight`.
    pub fn new(calls: S, bounds: Bounds, inflight: Arc<InflightBytes>) -> Self {
        let traffic = Arc::new(Traffic::new(bounds.max_inflight));
        Self { calls, traffic, bounds, inflight, closed: watch::Sender::new(false) }
    }

    /// What has come through.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Ends all streams and refuses new ones; simple calls go on.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// The body of a call's only request, counted.
    fn arriving(&self, name: &str, body: Body, bytes: &CallBytes) -> Body {
        // A call that never ends to arrive would hold its place for good.
        let prompt = PromptBody::new(Arriving::protobuf(body, bytes.clone()), self.bounds.body_patience);
        if name == TXN {
            Body::new(Weighed::new(prompt, bytes.clone(), self.bounds.max_message_bytes))
        } else {
            Body::new(prompt)
        }
    }

    fn admit(&self, method: Option<&Method>, streams: bool) -> Result<Passage, Status> {
        let name = method.map_or(OTHER, |method| method.path);
        let mut passage = Passage { traffic: Arc::clone(&self.traffic), name, place: None, code: None };
        let refusal = if streams {
            self.closed.borrow().then(stopped)
        } else {
            passage.place = Place::take(&self.traffic);
            passage.place.is_none().then(too_many)
        };
        match refusal {
            None => Ok(passage),
            Some(status) => {
                passage.code = Some(status.code());
                Err(status)
            }
        }
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.calls.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = method(request.uri().path());
        // What is not etcd's may stream (reflection does), and is cheap.
        let streams = method.is_none_or(|method| method.client_streaming || method.server_streaming);
        let mut passage = match self.admit(method, streams) {
            Ok(passage) => passage,
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        if let Some(place) = &passage.place
            && MAY_WAIT.contains(&passage.name)
        {
            let waiting = Waiting { place: Arc::clone(place), closed: self.closed.subscribe() };
            request.extensions_mut().insert(waiting);
        }
        let deadline = deadline(request.headers());
        let closing = streams.then(|| closing(self.closed.subscribe()));
        let has_one_request = method.is_some_and(|method| !method.client_streaming);
        let bytes = has_one_request.then(|| CallBytes::of(&self.inflight));
        let cut = request.extensions().get::<Cut>().cloned();
        let name = passage.name;
        let answer = self.calls.call(match &bytes {
            None => request,
            Some(bytes) => request.map(|body| self.arriving(name, body, bytes)),
        });
        Box::pin(async move {
            let response = match deadline {
                None => answer.await,
                Some(deadline) => tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| {
                    Ok(Status::deadline_exceeded("context deadline exceeded").into_http())
                }),
            };
            let Ok(mut response) = response;
            let counted = response.extensions_mut().remove::<AnswerBytes>().unwrap_or_default();
            passage.note(response.headers());
            Ok(response.map(|body| {
                if passage.code.is_some() {
                    body
                } else {
                    Body::new(Passing {
                        body: Leaving::new(body, name, bytes.filter(|_| !streams), counted, cut),
                        passage,
                        closing,
                    })
                }
            }))
        })
    }
}

type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

fn closing(mut closed: watch::Receiver<bool>) -> Closing {
    Box::pin(async move {
        // The sender lives as long as the gate; a gate that is gone has closed too.
        let _ = closed.wait_for(|closed| *closed).await;
    })
}

fn stopped() -> Status {
    Status::unavailable("etcdserver: server stopped")
}

/// The body of an answer, watched for its outcome.
struct Passing {
    body: Leaving<Body>,
    passage: Passage,
    /// Only streams end before their time.
    closing: Option<Closing>,
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.passage.code.is_some() {
            return Poll::Ready(None);
        }
        if let Some(closing) = &mut self.closing
            && closing.as_mut().poll(context).is_ready()
        {
            let status = stopped();
            self.passage.code = Some(status.code());
            // Cannot fail: the message is plain text, and there is no metadata.
            return Poll::Ready(Some(trailers(&status)));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.passage.note(trailers);
                }
            }
            Some(Err(status)) => self.passage.code = Some(status.code()),
            None => self.passage.code = Some(Code::Ok),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        // Only having read to the end tells the outcome.
        self.passage.code.is_some()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The time that the caller allows, as the protocol writes it: up to eight digits and a unit.
///
/// What is written otherwise is no deadline here; the caller keeps its own in any case.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate<()> {
        let body_patience = Duration::from_secs(1);
        let bounds = Bounds { max_inflight: 2, max_message_bytes: 1 << 20, body_patience };
        Gate::new((), bounds, InflightBytes::new(1 << 20))
    }

    fn written(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        deadline(&headers)
    }

    #[test]
    fn deadlines_are_read_in_all_units_and_nothing_else_is() {
        assert_eq!(written("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(written("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(written("3M"), Some(Duration::from_secs(180)));
        assert_eq!(written("4S"), Some(Duration::from_secs(4)));
        assert_eq!(written("5m"), Some(Duration::from_millis(5)));
        assert_eq!(written("6u"), Some(Duration::from_micros(6)));
        assert_eq!(written("7n"), Some(Duration::from_nanos(7)));
        for text in ["", "S", "5", "5s", "-5S", "+5S", "123456789S", "5 S", "ü"] {
            assert_eq!(written(text), None, "{text:?}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    #[test]
    fn who_waits_takes_no_place_in_flight_and_there_is_a_bound_for_both() {
        let gate = gate();
        let lock = || gate.admit(method(MAY_WAIT[0]), false);
        let waiting = |passage: &Passage| Waiting {
            place: Arc::clone(passage.place.as_ref().unwrap()),
            closed: gate.closed.subscribe(),
        };
        let standing = || (gate.traffic().inflight(), gate.traffic().waiting());
        let waiters = [lock().unwrap(), lock().unwrap()];
        lock().unwrap_err();
        for waiter in &waiters {
            waiting(waiter).begin().unwrap();
            waiting(waiter).begin().unwrap();
        }
        assert_eq!(standing(), (0, 2));
        let third = lock().unwrap();
        assert_eq!(waiting(&third).begin().unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(standing(), (1, 2));
        let late = waiting(&third);
        drop((third, waiters));
        assert_eq!(standing(), (0, 0));
        // The call may end before it says that it waits.
        late.begin().unwrap();
        assert_eq!(standing(), (0, 0));
        gate.close();
        assert_eq!(late.begin().unwrap_err().message(), "etcdserver: server stopped");
    }

    #[test]
    fn places_are_given_back_and_outcomes_counted_once() {
        let gate = gate();
        let put = method("/etcdserverpb.KV/Put");
        let one = gate.admit(put, false).unwrap();
        let mut two = gate.admit(put, false).unwrap();
        let refusal = gate.admit(put, false).unwrap_err();
        assert_eq!(
            (refusal.code(), refusal.message()),
            (Code::ResourceExhausted, "etcdserver: too many requests")
        );
        gate.admit(None, true).unwrap().code = Some(Code::Ok);
        assert_eq!(gate.traffic().inflight(), 2);
        two.code = Some(Code::Ok);
        drop((one, two));
        assert_eq!(gate.traffic().inflight(), 0);

        let count = |method, code| CallCount { method, code, count: 1 };
        let put = "/etcdserverpb.KV/Put";
        assert_eq!(
            gate.traffic().counts(),
            [
                count(put, Code::Ok),
                count(put, Code::Cancelled),
                count(put, Code::ResourceExhausted),
                count(OTHER, Code::Ok)
            ]
        );
    }
}
