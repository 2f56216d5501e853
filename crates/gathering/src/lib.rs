//! A stream that lets what is written to it gather before it is sent.
//!
//! One task serves an HTTP/2 connection with many calls. A batch of the log makes many of its
//! answers ready together, but the task is woken by the first of them and would send it alone,
//! then each of the others; and h2 sends a payload of some hundred bytes by itself if it may
//! write from several buffers at once. Each such write costs more than the answer that it
//! carries. So the tasks that are ready have their turn before anything is sent, and short
//! pieces are copied together.
//!
//! Nothing is held back that was flushed: no answer waits for another one that may never come.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held at most until they are flushed. Longer pieces are not copied.
const HELD_BYTES: usize = 16 << 10;

/// A stream around `S`; reads pass through.
#[derive(Debug)]
pub struct Gathering<S> {
    stream: S,
    /// Written to here, and from `sent` on not to `stream`.
    held: Vec<u8>,
    sent: usize,
    /// Whether other tasks had their turn since the last flush.
    has_yielded: bool,
}

impl<S> Gathering<S> {
    /// Nothing is held yet.
    pub fn new(stream: S) -> Self {
        Self { stream, held: Vec::new(), sent: 0, has_yielded: false }
    }

    /// Lets the tasks that are ready run once.
    fn poll_others(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.has_yielded {
            return Poll::Ready(());
        }
        self.has_yielded = true;
        // Woken while it runs, a task goes to the end of the queue.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Sends what is held and, behind it, `more`; answers how much of that was sent, which is
    /// nothing only if it is empty.
    fn poll_send(&mut self, context: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let held = self.held.get(self.sent..).unwrap_or_default();
            if held.is_empty() {
                self.held.clear();
                self.sent = 0;
                if more.is_empty() {
                    return Poll::Ready(Ok(0));
                }
                return Pin::new(&mut self.stream).poll_write(context, more);
            }
            let parts = [IoSlice::new(held), IoSlice::new(more)];
            let sent = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &parts))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_more = sent.saturating_sub(held.len());
            self.sent += sent - of_more;
            if of_more > 0 {
                self.held.clear();
                self.sent = 0;
                return Poll::Ready(Ok(of_more));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// It says that it can't write from several buffers, for which h2 copies short payloads together.
impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_others(context));
        if self.held.len() + bytes.len() <= HELD_BYTES {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        self.poll_send(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context, &[]))?;
        self.has_yielded = false;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context, &[]))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Takes at most so many bytes a write, none on every second one, and notes each write.
    #[derive(Debug, Clone, Default)]
    struct Narrow {
        most: usize,
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        is_full: bool,
    }

    impl Narrow {
        fn of(most: usize) -> Self {
            Self { most, ..Self::default() }
        }

        fn writes(&self) -> Vec<usize> {
            self.writes.lock().unwrap().iter().map(Vec::len).collect()
        }

        fn bytes(&self) -> Vec<u8> {
            self.writes.lock().unwrap().concat()
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.is_full = !self.is_full;
            if self.is_full {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let most = self.most;
            let taken: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(most).collect();
            let count = taken.len();
            self.writes.lock().unwrap().push(taken);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn short_pieces_are_sent_together_once_they_are_flushed() {
        let narrow = Narrow::of(usize::MAX);
        let mut stream = Gathering::new(narrow.clone());
        for _ in 0..10 {
            stream.write_all(b"some bytes").await.unwrap();
        }
        assert_eq!(narrow.writes(), []);
        stream.flush().await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(narrow.writes(), [100]);
        stream.write_all(b"last").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(narrow.writes(), [100, 4]);
    }

    #[tokio::test]
    async fn a_long_piece_goes_with_what_came_before_it() {
        let narrow = Narrow::of(usize::MAX);
        let mut stream = Gathering::new(narrow.clone());
        stream.write_all(b"head").await.unwrap();
        stream.write_all(&[7; HELD_BYTES]).await.unwrap();
        assert_eq!(narrow.writes(), [4 + HELD_BYTES]);
    }

    #[tokio::test]
    async fn every_byte_arrives_once_and_in_order_however_little_is_taken_at_a_time() {
        for most in [1, 7, 1_000, HELD_BYTES + 1] {
            let narrow = Narrow::of(most);
            let mut stream = Gathering::new(narrow.clone());
            let mut expected = Vec::new();
            for (piece, length) in
                [10, 3_000, 1, HELD_BYTES, 2 * HELD_BYTES, 0, 5_000].into_iter().enumerate()
            {
                let bytes = vec![piece as u8; length];
                stream.write_all(&bytes).await.unwrap();
                expected.extend(bytes);
                if piece == 2 {
                    stream.flush().await.unwrap();
                    assert_eq!(narrow.bytes(), expected);
                }
            }
            stream.flush().await.unwrap();
            assert_eq!(narrow.bytes(), expected, "{most} at a time");
        }
    }

    #[tokio::test]
    async fn tasks_that_are_ready_write_before_anything_is_sent() {
        let narrow = Narrow::of(usize::MAX);
        let (sender, mut pieces) = tokio::sync::mpsc::channel::<&[u8]>(3);
        let mut stream = Gathering::new(narrow.clone());
        let writing = tokio::spawn(async move {
            while let Some(piece) = pieces.recv().await {
                stream.write_all(piece).await.unwrap();
                while let Ok(piece) = pieces.try_recv() {
                    stream.write_all(piece).await.unwrap();
                }
                stream.flush().await.unwrap();
            }
        });
        sender.try_send(b"first ").unwrap();
        for _ in 0..2 {
            let sender = sender.clone();
            tokio::spawn(async move { sender.try_send(b"another ").unwrap() });
        }
        drop(sender);
        writing.await.unwrap();
        assert_eq!(narrow.writes(), [22]);
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_is_an_error() {
        let mut stream = Gathering::new(Narrow::of(0));
        stream.write_all(b"some bytes").await.unwrap();
        assert_eq!(stream.flush().await.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }
}
