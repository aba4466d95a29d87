//! One application socket: non-blocking reads and writes that try first and wait after, and its end.
//!
//! A read or write that moved less than it could is taken as "nothing more for now" at once, which saves the call that
//! would say so; the event that comes meanwhile is not lost, because the readiness is cleared as of before the call. A
//! FIN that came with the data is remembered by the reactor.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// One read.
pub(super) const READ_SIZE: usize = 64 << 10;

thread_local! {
    /// What all sockets of this thread are read into, as long as reads are small.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_SIZE]);
}

/// A socket that is reset when it is dropped, unless it ended well.
pub(super) struct Socket {
    tcp: TcpStream,
    clean: bool,
}

impl Socket {
    /// Takes a socket that sends at once (TCP_NODELAY): the relay hands on what it got when it got it.
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, clean: false }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Closes it with FIN.
    pub(super) fn close(mut self) {
        self.clean = true;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.clean {
            // Close then sends RST. Fails on a socket that is dead already.
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Reading or writing, with what is known about its readiness.
pub(super) struct Direction {
    /// Nothing was tried yet: the reactor may not have looked at the socket since it was made.
    fresh: bool,
}

impl Default for Direction {
    fn default() -> Self {
        Self { fresh: true }
    }
}

impl Direction {
    /// Reads into `buf`, at most its length. 0 is FIN.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &TcpStream,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let whole = buf.len();
        let op = |tcp: &TcpStream| {
            let socket = SockRef::from(tcp);
            (&*socket).read(buf)
        };
        self.poll(cx, tcp, Interest::READABLE, whole, op)
    }

    /// Reads into the room that `buf` has after its content. 0 is FIN.
    pub(super) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &TcpStream,
        buf: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let whole = buf.capacity() - buf.len();
        let op = |tcp: &TcpStream| {
            let read = SockRef::from(tcp).recv(buf.spare_capacity_mut())?;
            // SAFETY: recv(2) wrote the first `read` bytes of the room that is behind the present length.
            unsafe { buf.set_len(buf.len() + read) };
            Ok(read)
        };
        self.poll(cx, tcp, Interest::READABLE, whole, op)
    }

    /// Writes from `bufs`. With `last`, FIN is to follow at once, and goes in the same segment.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &TcpStream,
        bufs: &[IoSlice<'_>],
        last: bool,
    ) -> Poll<io::Result<usize>> {
        let whole = bufs.iter().map(|buf| buf.len()).sum();
        let flags = if last { libc::MSG_MORE | libc::MSG_NOSIGNAL } else { libc::MSG_NOSIGNAL };
        let op = |tcp: &TcpStream| SockRef::from(tcp).send_vectored_with_flags(bufs, flags);
        self.poll(cx, tcp, Interest::WRITABLE, whole, op)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        tcp: &TcpStream,
        interest: Interest,
        whole: usize,
        mut op: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if std::mem::take(&mut self.fresh) {
            match op(tcp) {
                Err(error) if would_block(&error) => {}
                done => return Poll::Ready(done),
            }
        }
        loop {
            if interest.is_readable() {
                ready!(tcp.poll_read_ready(cx))?;
            } else {
                ready!(tcp.poll_write_ready(cx))?;
            }
            let mut moved = None;
            let tried = tcp.try_io(interest, || {
                let n = op(tcp)?;
                moved = Some(n);
                if n > 0 && n < whole { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (moved, tried) {
                (Some(n), _) => return Poll::Ready(Ok(n)),
                (None, Err(error)) if !would_block(&error) => return Poll::Ready(Err(error)),
                (None, _) => {}
            }
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Lends the thread's buffer.
pub(super) fn with_scratch<R>(user: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| user(scratch))
}

/// Sends FIN. A socket that is dead already says so at the next read.
pub(super) fn finish(tcp: &TcpStream) {
    let _ = SockRef::from(tcp).shutdown(Shutdown::Write);
}
