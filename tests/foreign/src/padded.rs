//! What stands between h2 and TLS in the server: pads DATA frames, which h2 does not do by itself, and keeps the first
//! bytes that the client said.
//!
//! h2 counts no padding against the client's windows, so this is for conversations below them.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const HEAD: usize = 9;
const DATA: u8 = 0;
const PADDED: u8 = 8;
const KEPT: usize = 512;

/// The first bytes that came.
pub type Heard = Arc<Mutex<Vec<u8>>>;

/// Wraps a stream.
#[derive(Debug)]
pub struct Padded<S> {
    inner: S,
    /// How much to pad each DATA frame, if at all.
    padding: Option<u8>,
    /// Taken from h2, not a whole frame yet.
    partial: BytesMut,
    /// Whole frames, not written yet.
    ready: BytesMut,
    heard: Heard,
}

impl<S> Padded<S> {
    /// Pads with so many bytes; not at all for none.
    pub fn new(inner: S, padding: Option<u8>, heard: Heard) -> Self {
        Self { inner, padding, partial: BytesMut::new(), ready: BytesMut::new(), heard }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some(padding) = self.padding else {
            self.ready.extend_from_slice(bytes);
            return;
        };
        self.partial.extend_from_slice(bytes);
        while self.partial.len() >= HEAD {
            let length = u32::from_be_bytes([0, self.partial[0], self.partial[1], self.partial[2]]) as usize;
            if self.partial.len() < HEAD + length {
                return;
            }
            let mut frame = self.partial.split_to(HEAD + length);
            let (kind, flags) = (frame[3], frame[4]);
            if kind != DATA {
                self.ready.extend_from_slice(&frame);
                continue;
            }
            let longer = (length + 1 + usize::from(padding)) as u32;
            self.ready.put_slice(&longer.to_be_bytes()[1..]);
            self.ready.put_u8(kind);
            self.ready.put_u8(flags | PADDED);
            self.ready.put_slice(&frame[5..HEAD]);
            self.ready.put_u8(padding);
            frame.advance(HEAD);
            self.ready.extend_from_slice(&frame);
            self.ready.put_bytes(0, padding.into());
        }
    }
}

impl<S: AsyncWrite + Unpin> Padded<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ready.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.ready))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.ready.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Padded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, out))?;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(heard.len());
        heard.extend(out.filled()[before..].iter().take(room));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Padded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
