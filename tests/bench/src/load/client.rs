//! The clients. Anything but the expected answer ends them with an error: a run with failures is no measurement.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::histogram::Histogram;
use super::{LoadReport, MESSAGE};

/// Requests on `connections` connections, one outstanding on each, for `window`.
pub fn request(to: SocketAddr, connections: usize, window: Duration) -> io::Result<LoadReport> {
    let mut streams = (0..connections).map(|_| open_used(to)).collect::<io::Result<Vec<_>>>()?;
    let mut histogram = Histogram::default();
    let start = Instant::now();
    match streams.as_mut_slice() {
        [one] => request_on_one(one, start + window, &mut histogram)?,
        many => request_on_many(many, start + window, &mut histogram)?,
    }
    let elapsed = start.elapsed();
    let exchanges = histogram.count() + connections as u64;
    Ok(LoadReport::new(&histogram, elapsed, exchanges * 2 * MESSAGE as u64))
}

/// A connection on which one exchange was made: the tunnel is up, the far side has accepted.
fn open_used(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; MESSAGE];
    stream.write_all(&buffer)?;
    stream.read_exact(&mut buffer)?;
    Ok(stream)
}

fn request_on_one(stream: &mut TcpStream, end: Instant, histogram: &mut Histogram) -> io::Result<()> {
    let mut buffer = [0; MESSAGE];
    let mut before = Instant::now();
    while before < end {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        let after = Instant::now();
        histogram.record((after - before).as_nanos() as u64);
        before = after;
    }
    Ok(())
}

/// One connection among many: when its request went out, and how much of the answer is still to come.
struct Exchange<'a> {
    stream: &'a mut TcpStream,
    sent: Instant,
    missing: usize,
}

fn request_on_many(streams: &mut [TcpStream], end: Instant, histogram: &mut Histogram) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut exchanges = Vec::with_capacity(streams.len());
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.set_nonblocking(true)?;
        epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        exchanges.push(Exchange { stream, sent: Instant::now(), missing: 0 });
    }
    for exchange in &mut exchanges {
        exchange.send()?;
    }
    let mut events = vec![EpollEvent::empty(); exchanges.len()];
    let mut outstanding = exchanges.len();
    // All that was asked is also waited for, so that connections end between two messages.
    while outstanding > 0 {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        for event in &events[..ready] {
            let exchange = &mut exchanges[event.data() as usize];
            let Some(answered) = exchange.receive()? else { continue };
            if answered < end {
                histogram.record((answered - exchange.sent).as_nanos() as u64);
                exchange.send()?;
            } else {
                outstanding -= 1;
            }
        }
    }
    Ok(())
}

impl Exchange<'_> {
    fn send(&mut self) -> io::Result<()> {
        self.sent = Instant::now();
        self.missing = MESSAGE;
        self.stream.write_all(&[0; MESSAGE])
    }

    /// When the answer was complete, if it is.
    fn receive(&mut self) -> io::Result<Option<Instant>> {
        match self.stream.read(&mut [0; MESSAGE][..self.missing]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.missing -= count;
                Ok((self.missing == 0).then(Instant::now))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Connections from `threads` threads, one after the other on each, for `window`.
pub fn connect(to: SocketAddr, threads: usize, window: Duration) -> io::Result<LoadReport> {
    let barrier = Barrier::new(threads);
    let connect_until_end = || -> io::Result<(Histogram, Duration)> {
        let mut histogram = Histogram::default();
        barrier.wait();
        let start = Instant::now();
        let mut before = start;
        while before - start < window {
            connect_once(to)?;
            let after = Instant::now();
            histogram.record((after - before).as_nanos() as u64);
            before = after;
        }
        Ok((histogram, before - start))
    };
    let results: Vec<io::Result<(Histogram, Duration)>> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(connect_until_end)).collect();
        let joined = handles.into_iter().map(|handle| handle.join());
        joined.map(|result| result.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))).collect()
    });
    let (mut all, mut longest) = (Histogram::default(), Duration::ZERO);
    for result in results {
        let (histogram, elapsed) = result?;
        all.merge(&histogram);
        longest = longest.max(elapsed);
    }
    Ok(LoadReport::new(&all, longest, all.count() * 2))
}

fn connect_once(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(&[1])?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer[..1])?;
    match stream.read(&mut answer[1..])? {
        0 => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// Opens `connections` connections, uses each once, calls `ready` and holds them until the process is killed.
pub fn idle(to: SocketAddr, connections: usize, ready: impl FnOnce()) -> io::Result<()> {
    let _held = (0..connections).map(|_| open_used(to)).collect::<io::Result<Vec<_>>>()?;
    ready();
    loop {
        thread::park();
    }
}
