//! What stands between h2 and the socket: TLS over TCP, with the reading and writing arranged for few system calls.
//!
//! - Reads take up to 64 KiB from the socket at once, into a buffer of the thread that a connection holds only while it
//!   has bytes in it. An idle connection holds none.
//! - Writes are gathered. h2 asks for a flush after every frame of size; that is ignored, and the connection's driver
//!   flushes at the end of its turn ([`Wire::flush_turn`]): what is large at once, what is small after one more look at
//!   what came in, so that what many streams say, and a stream's last words and its end, go out together. Small frames
//!   share a TLS record, large payloads are sealed where they lie, without a copy in between.
//!
//! Invariants: what was accepted for writing reaches the socket at the latest one turn of the loop later; more than
//! [`QUEUE_LIMIT`] is never queued before the socket takes some (back-pressure); an end of the TCP stream is the end of
//! the connection, with or without close_notify (h2's own framing tells whether a stream was complete).

use std::cell::RefCell;
use std::io::{self, BufRead, IoSlice, Read, Write};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use rustls::Connection;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::{ALPN, AcceptError, Link, OpenError, ServerConfig};

#[cfg(test)]
mod tests;

/// One read from the socket.
const READ_SIZE: usize = 64 << 10;

/// Plaintext below this is gathered before it is sealed; a write above it is sealed where it lies.
const GATHER_SIZE: usize = 8 << 10;

/// What is not kept for another turn.
const LARGE: usize = 16 << 10;

/// Sealed and unsent bytes at which the socket is tried before more is taken.
const QUEUE_LIMIT: usize = 64 << 10;

/// The fatal alert 120 in a record of its own, before there are keys (RFC 8446, sections 5.1 and 6).
const NO_APPLICATION_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

thread_local! {
    /// Read buffers that no connection of this thread holds.
    static READ_BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A connection whose TLS handshake is done.
pub struct TlsStream {
    tcp: TcpStream,
    tls: Connection,
    /// Read from the socket and not yet given to `tls`: `raw[taken..filled]`.
    raw: Vec<u8>,
    taken: usize,
    filled: usize,
    eof: bool,
    /// A write failed between two polls of h2, which is told at its next read.
    failed: Option<io::Error>,
    /// Plaintext that waits for company.
    gathered: BytesMut,
    /// Plaintext sealed since the last time that the socket took everything.
    queued: usize,
    /// The socket did not take everything.
    blocked: bool,
    turn: Arc<Turn>,
    /// Reads that brought something, for the keep-alive.
    reads: Arc<AtomicU64>,
}

/// Makes a TLS connection as the client. The caller bounds the time.
///
/// # Errors
/// `Tls`, `Identity` or `Alpn`.
pub async fn connect_tls(
    tcp: TcpStream,
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
) -> Result<TlsStream, OpenError> {
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.map_err(OpenError::tls)?;
    let (tcp, tls) = stream.into_inner();
    if tls.alpn_protocol() != Some(ALPN) {
        return Err(OpenError::Alpn);
    }
    Ok(TlsStream::new(tcp, tls.into()))
}

/// Takes a TLS connection as the server.
///
/// # Errors
/// See [`AcceptError`].
pub async fn accept_tls(
    tcp: TcpStream,
    tls: Arc<rustls::ServerConfig>,
    config: &ServerConfig,
) -> Result<TlsStream, AcceptError> {
    tune(&tcp, config.tcp_user_timeout, config.tcp_notsent_lowat).map_err(AcceptError::Socket)?;
    let handshake = async {
        let acceptor = rustls::server::Acceptor::default();
        let mut hello =
            tokio_rustls::LazyConfigAcceptor::new(acceptor, tcp).await.map_err(AcceptError::tls)?;
        // rustls has an alert for a list without h2, and goes on where there is no list.
        if hello.client_hello().alpn().is_none() {
            // If it does not arrive, the end of the connection says enough.
            let _ = hello.io.write_all(&NO_APPLICATION_PROTOCOL).await;
            return Err(AcceptError::Alpn);
        }
        hello.into_stream(tls).await.map_err(AcceptError::tls)
    };
    let stream = tokio::time::timeout(config.handshake_timeout, handshake)
        .await
        .map_err(|_| AcceptError::Timeout)??;
    let (tcp, tls) = stream.into_inner();
    if tls.alpn_protocol() != Some(ALPN) {
        return Err(AcceptError::Alpn);
    }
    Ok(TlsStream::new(tcp, tls.into()))
}

/// Sets what every tunnel's socket has.
pub(crate) fn tune(tcp: &TcpStream, user_timeout: Duration, notsent: Option<u32>) -> io::Result<()> {
    let socket = socket2::SockRef::from(tcp);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    if let Some(bytes) = notsent {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    Ok(())
}

impl TlsStream {
    fn new(tcp: TcpStream, mut tls: Connection) -> Self {
        // The bound is QUEUE_LIMIT, below; rustls' own would cut writes into pieces.
        tls.set_buffer_limit(None);
        Self {
            tcp,
            tls,
            raw: Vec::new(),
            taken: 0,
            filled: 0,
            eof: false,
            failed: None,
            gathered: BytesMut::new(),
            queued: 0,
            blocked: false,
            turn: Arc::default(),
            reads: Arc::default(),
        }
    }

    /// The TLS session, for the peer's certificates.
    pub fn session(&self) -> &rustls::CommonState {
        &self.tls
    }

    /// The socket, for its addresses.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Gives h2 one handle and the driver another.
    pub(crate) fn share(self) -> (Wire, Arc<AtomicU64>) {
        let reads = self.reads.clone();
        (Wire(Arc::new(Mutex::new(self))), reads)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let before = out.filled().len();
        loop {
            self.take_plaintext(out)?;
            if out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if self.taken < self.filled {
                self.unseal(cx)?;
                continue;
            }
            if self.eof {
                return Poll::Ready(Ok(()));
            }
            match self.poll_fill(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending if out.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Moves decrypted bytes to the caller.
    fn take_plaintext(&mut self, out: &mut ReadBuf<'_>) -> io::Result<()> {
        let mut reader = self.tls.reader();
        while out.remaining() > 0 {
            let chunk = match reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The peer closed TCP without close_notify; see the module's invariants.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                // close_notify.
                self.eof = true;
                return Ok(());
            }
            let n = chunk.len().min(out.remaining());
            out.put_slice(&chunk[..n]);
            reader.consume(n);
        }
        Ok(())
    }

    /// Gives TLS the next of what was read.
    fn unseal(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut raw = &self.raw[self.taken..self.filled];
        let before = raw.len();
        if self.tls.read_tls(&mut raw as &mut dyn Read)? == 0 {
            // After close_notify nothing counts.
            self.eof = true;
            self.taken = self.filled;
            return Ok(());
        }
        self.taken += before - raw.len();
        if let Err(error) = self.tls.process_new_packets() {
            // The alert that tells the peer why, if the socket takes it.
            let _ = self.poll_send(cx);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        Ok(())
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.raw.is_empty() {
            let idle = READ_BUFFERS.with_borrow_mut(Vec::pop);
            self.raw = idle.unwrap_or_else(|| vec![0; READ_SIZE]);
        }
        let mut buf = ReadBuf::new(&mut self.raw);
        let polled = Pin::new(&mut self.tcp).poll_read(cx, &mut buf);
        (self.taken, self.filled) = (0, buf.filled().len());
        if polled.is_ready() && self.filled > 0 {
            self.reads.fetch_add(1, Ordering::Relaxed);
            return polled;
        }
        let idle = std::mem::take(&mut self.raw);
        READ_BUFFERS.with_borrow_mut(|buffers| {
            if buffers.len() < 4 {
                buffers.push(idle)
            }
        });
        ready!(polled)?;
        self.eof = true;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.queued >= QUEUE_LIMIT && self.poll_send(cx)?.is_pending() {
            return Poll::Pending;
        }
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if self.gathered.len() + total <= GATHER_SIZE {
            if self.gathered.capacity() == 0 {
                self.gathered.reserve(GATHER_SIZE);
            }
            bufs.iter().for_each(|buf| self.gathered.extend_from_slice(buf));
            return Poll::Ready(Ok(total));
        }
        let gathered = self.gathered.split();
        let mut all = [IoSlice::new(&[]); 8];
        all[0] = IoSlice::new(&gathered);
        let rest = bufs.len().min(all.len() - 1);
        all[1..=rest].copy_from_slice(&bufs[..rest]);
        let sealed = self.tls.writer().write_vectored(&all[..=rest])?;
        self.queued += sealed;
        Poll::Ready(Ok(sealed - gathered.len()))
    }

    /// Sends what is sealed. Ready when the socket took all of it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut TcpWriter { tcp: &mut self.tcp, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        (self.queued, self.blocked) = (0, false);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() {
            let gathered = std::mem::take(&mut self.gathered);
            self.tls.writer().write_all(&gathered)?;
            self.queued += gathered.len();
        }
        self.poll_send(cx)
    }

    /// Whether what is queued goes out now, or with what the next turn of the loop brings, for which the task is woken.
    fn is_due(&self, cx: &mut Context<'_>) -> bool {
        if self.gathered.is_empty() && !self.tls.wants_write() {
            return false;
        }
        if self.blocked || self.gathered.len() + self.queued >= LARGE {
            return true;
        }
        self.turn.over(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.tls.send_close_notify();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// The next turn of the loop: tasks that have something to do, and a look at what came in, lie in between.
#[derive(Default)]
struct Turn {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Turn {
    const NONE: u8 = 0;
    const WAITING: u8 = 1;
    const OVER: u8 = 2;

    /// True once in the turn after the one in which it was first asked. The task is woken for it.
    fn over(self: &Arc<Self>, cx: &mut Context<'_>) -> bool {
        self.task.register(cx.waker());
        match self.state.load(Ordering::Acquire) {
            Self::OVER => {
                self.state.store(Self::NONE, Ordering::Release);
                return true;
            }
            Self::WAITING => return false,
            _ => {}
        }
        self.state.store(Self::WAITING, Ordering::Release);
        let waker = Waker::from(self.clone());
        // Pending: the runtime wakes what it was polled with after it has looked at its sockets.
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        false
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.state.store(Self::OVER, Ordering::Release);
        self.task.wake();
    }
}

/// `io::Write` for the length of one poll.
struct TcpWriter<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Write for TcpWriter<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.tcp).poll_write(self.cx, buf) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, bufs) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The stream, shared between h2 and the driver that polls h2. Both run in the same task: the lock is never waited for.
#[derive(Clone)]
pub(crate) struct Wire(Arc<Mutex<TlsStream>>);

impl Wire {
    /// A look at the connection from outside.
    pub(crate) fn link(&self) -> Arc<Link> {
        Arc::new(Link::new(Arc::downgrade(&self.0)))
    }

    fn lock(&self) -> MutexGuard<'_, TlsStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn's one write, or none yet. The task is woken for the next turn, when the socket takes more, and to have h2
    /// see a failure.
    pub(crate) fn flush_turn(&self, cx: &mut Context<'_>) {
        let mut stream = self.lock();
        if stream.is_due(cx)
            && let Poll::Ready(Err(error)) = stream.poll_flush(cx)
        {
            stream.failed = Some(error);
            cx.waker().wake_by_ref();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_read(cx, out)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: see the module's head.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_shutdown(cx)
    }
}
