//! A visitor's socket as hyper sees it, with a limit on how long it may refuse what we write: hyper
//! itself waits for ever for a visitor that does not read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::connection::Visitor;
use crate::stall::Stall;

/// See the module.
#[derive(Debug)]
pub(crate) struct VisitorStream {
    stream: TokioIo<TcpStream>,
    visitor: Arc<Visitor>,
    /// Read before, and to be read again.
    unread: Bytes,
    stall: Option<Stall>,
}

impl VisitorStream {
    pub(crate) fn new(stream: TcpStream, visitor: Arc<Visitor>) -> Self {
        Self { stream: TokioIo::new(stream), visitor, unread: Bytes::new(), stall: None }
    }

    /// The same, with something that was read of it and not used. It is copied: be it empty, it
    /// would keep the whole buffer that it is a part of.
    pub(crate) fn with_unread(self, unread: &[u8]) -> Self {
        Self { unread: Bytes::copy_from_slice(unread), ..self }
    }

    /// Whether there is something that was read and not used.
    pub(crate) fn has_something_to_read(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Ready when the visitor has sent something, or has gone.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.stream.inner().readable().await
    }

    fn limited(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if self.stall.take().is_some() {
                self.visitor.is_blocked.store(false, Ordering::Relaxed);
            }
            return written;
        }
        self.visitor.is_blocked.store(true, Ordering::Relaxed);
        let limit = self.visitor.shared.limits.idle();
        let stall = self.stall.get_or_insert_with(|| Stall::new(limit));
        stall.poll_waiting(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Read for VisitorStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.has_something_to_read() {
            let length = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread[..length]);
            self.unread.advance(length);
            self.visitor.has_spoken.store(true, Ordering::Relaxed);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.visitor.has_spoken.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl Write for VisitorStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.limited(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.limited(cx, written)
    }
}
