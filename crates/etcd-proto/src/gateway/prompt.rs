//! A body that has to make progress.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::codegen::StdError;

use super::answer::broken_off;

/// A body is given its time again for each further piece of this size.
const PROGRESS_BYTES: usize = 64 << 10;

/// Lets a body through as long as each 64 KiB of it arrive within a time; then it fails with
/// `DeadlineExceeded`. Bodies that are there at once start no timer.
#[derive(Debug)]
pub struct PromptBody<B> {
    body: Pin<Box<B>>,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    progress: usize,
}

impl<B> PromptBody<B> {
    /// Gives `body` the time `patience`.
    pub fn new(body: B, patience: Duration) -> Self {
        Self { body: Box::pin(body), patience, waiting: None, progress: 0 }
    }
}

impl<B> HttpBody for PromptBody<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.body.as_mut().poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.progress += frame.data_ref().map_or(0, Bytes::len);
                if self.progress >= PROGRESS_BYTES {
                    self.progress = 0;
                    self.waiting = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(broken_off(&error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let patience = self.patience;
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
                let stalled = || Status::deadline_exceeded("the body of the request did not arrive in time");
                waiting.as_mut().poll(context).map(|()| Some(Err(stalled())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
