//! Finds the service that carries a call out.
//!
//! Calls for keys are nearly all that a busy node answers, so their service is asked directly;
//! the way through the router costs them as much as decoding does. What it answers must not
//! depend on the way.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;

use super::Answer;

/// All services. Cheap to clone.
#[derive(Clone)]
pub struct Dispatch {
    direct: Option<Direct>,
    others: Routes,
}

/// A service that is asked directly. Cheap to clone.
#[derive(Clone)]
pub(super) struct Direct {
    name: &'static str,
    carry_out: Arc<dyn Fn(Request<Body>) -> Answer + Send + Sync>,
}

impl Direct {
    /// The service called `name`; `carry_out` is given the calls of it.
    pub(super) fn new(
        name: &'static str,
        carry_out: impl Fn(Request<Body>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self { name, carry_out: Arc::new(carry_out) }
    }
}

impl Dispatch {
    /// Hands the calls of `direct` to it, and all others to `others`.
    pub(super) fn with(direct: Direct, others: Routes) -> Self {
        Self { direct: Some(direct), others }
    }

    /// The same with what `more` adds to the others.
    pub(super) fn and(self, more: impl FnOnce(Routes) -> Routes) -> Self {
        Self { others: more(self.others), ..self }
    }
}

impl From<Routes> for Dispatch {
    fn from(others: Routes) -> Self {
        Self { direct: None, others }
    }
}

impl Service<Request<Body>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // As services and router are: always.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split_once('/'));
        match (&self.direct, service) {
            (Some(direct), Some((name, _))) if name == direct.name => (direct.carry_out)(request),
            _ => Box::pin(self.others.call(request)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tonic::{Code, Status};

    use super::*;

    #[tokio::test]
    async fn calls_of_the_service_reach_it_and_all_others_the_router() {
        let busy = |_| -> Answer { Box::pin(ready(Ok(Status::data_loss("the busy one").into_http()))) };
        let mut dispatch = Dispatch::with(Direct::new("some.Busy", busy), Routes::default());
        for (path, code) in [
            ("/some.Busy/Call", Code::DataLoss),
            ("/some.Busy/Another", Code::DataLoss),
            ("/some.Busy", Code::Unimplemented),
            ("/some.Busier/Call", Code::Unimplemented),
            ("/other.Busy/some.Busy/", Code::Unimplemented),
            ("/", Code::Unimplemented),
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let Ok(answer) = dispatch.call(request).await;
            assert_eq!(Status::from_header_map(answer.headers()).unwrap().code(), code, "{path}");
        }
    }
}
