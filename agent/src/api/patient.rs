//! A connection whose writes have a limit: a reader who takes nothing for so long is gone, and what was kept
//! for it is let go. One that became a user's terminal has none: it may wait in a pager for hours, and holds
//! no more than a few frames.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Streams send something every 15 s, so that one without a reader is found out.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A stream whose writes fail once they stood still for [`PATIENCE`].
pub(super) struct Patient<S> {
    inner: S,
    /// Set while a write is waited for.
    limit: Option<Pin<Box<Sleep>>>,
    endless: Endless,
}

/// Takes the limit from a connection. Calls find that of theirs among the request's extensions.
#[derive(Debug, Clone, Default)]
pub(super) struct Endless(Arc<AtomicBool>);

impl Endless {
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S> Patient<S> {
    pub(super) fn new(inner: S, endless: Endless) -> Self {
        Self { inner, limit: None, endless }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() || self.endless.0.load(Ordering::Relaxed) {
            self.limit = None;
            return written;
        }
        let limit = self.limit.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + PATIENCE)));
        limit.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (ours, theirs) = tokio::io::duplex(1000);
        let mut ours = Patient::new(ours, Endless::default());
        let reader = tokio::spawn(async move {
            let (mut theirs, mut buffer) = (theirs, [0; 1000]);
            for _ in 0..5 {
                tokio::time::sleep(PATIENCE / 2).await;
                theirs.read_exact(&mut buffer).await.expect("reads");
            }
            theirs
        });
        ours.write_all(&[7; 5000]).await.expect("it is slow, and takes all");
        let _theirs = reader.await.expect("reads to the end");
        ours.write_all(&[7; 1000]).await.expect("there is room");
        let began = Instant::now();
        let error = ours.write_all(&[7; 1]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_limit_may_read_an_hour_later() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let endless = Endless::default();
        let mut ours = Patient::new(ours, endless.clone());
        endless.begin();
        let writing = tokio::spawn(async move { ours.write_all(&[7; 5000]).await });
        tokio::time::sleep(PATIENCE * 60).await;
        theirs.read_exact(&mut [0; 5000]).await.expect("reads");
        writing.await.expect("ends").expect("all was taken");
    }
}
