//! A connection on which an answer can be read although the other end takes no more of the request.
//!
//! A daemon that refuses an upload may answer and close before it has read all of it. The write
//! that then fails must not end the exchange: the answer, which says why, is still to be read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// After the first failed write, further writes go nowhere and reads go on.
#[derive(Debug)]
pub struct SinkOnError<I> {
    inner: I,
    is_deaf: bool,
}

impl<I> SinkOnError<I> {
    /// Around this connection.
    pub fn new(inner: I) -> Self {
        Self { inner, is_deaf: false }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for SinkOnError<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> SinkOnError<I> {
    fn forgive<T>(&mut self, written: Poll<io::Result<T>>, otherwise: T) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.is_deaf = true;
                Poll::Ready(Ok(otherwise))
            }
            other => other,
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for SinkOnError<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.forgive(written, bytes.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_deaf {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.forgive(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_is_read_although_the_request_is_no_longer_taken() {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let mut near = SinkOnError::new(near);
        far.write_all(b"refused").await.expect("answered");
        drop(far);
        for _ in 0..100 {
            near.write_all(&[0; 4096]).await.expect("goes nowhere");
        }
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.expect("read");
        assert_eq!(answer, "refused");
    }
}
