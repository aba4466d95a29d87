//! Many connections that stay open, from one process: opened, said, held until SIGTERM, and then each is tried once more.
//!
//! The echo server of so many is here too: one thread, because as many threads as connections are more than a machine has.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::tally::{Tally, raise_open_files, step};

/// The most that `net.core.somaxconn` allows by default.
const BACKLOG: i32 = 4096;
/// Threads that dial.
const DIALLERS: usize = 32;

/// Opens `connections` in turn to all of `to`; `silent`: says nothing on them.
pub(crate) fn hold(
    to: &[SocketAddr],
    connections: usize,
    silent: bool,
    timeout: Duration,
) -> anyhow::Result<()> {
    raise_open_files()?;
    let mut until = SigSet::empty();
    until.add(Signal::SIGTERM);
    // Inherited by every thread, so that the wait below gets it.
    until.thread_block()?;
    let start = Instant::now();
    let (next, held) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(connections)));
    let opened = Tally::default();
    each_on(DIALLERS, || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= connections {
                return;
            }
            let begun = Instant::now();
            let outcome = open(to[number % to.len()], timeout)
                .and_then(|stream| if silent { Ok(stream) } else { talk(&stream, number).map(|()| stream) });
            opened.count(match outcome {
                Ok(stream) => {
                    held.lock().unwrap_or_else(PoisonError::into_inner).push((number, stream));
                    Ok(begun.elapsed())
                }
                Err(reason) => Err(reason),
            });
        }
    });
    let mut report = opened.report();
    report.insert("opened".into(), true.into());
    report.insert("seconds".into(), start.elapsed().as_secs_f64().into());
    println!("{}", serde_json::Value::from(report));

    until.wait()?;
    let held = held.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (next, alive) = (AtomicUsize::new(0), Tally::default());
    each_on(DIALLERS, || {
        while let Some((number, stream)) = held.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begun = Instant::now();
            let outcome = if silent { Ok(()) } else { talk(stream, number + connections) };
            alive.count(outcome.map(|()| begun.elapsed()));
        }
    });
    println!("{}", serde_json::Value::from(alive.report()));
    Ok(())
}

fn each_on(threads: usize, work: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

fn open(to: SocketAddr, timeout: Duration) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&to, timeout).map_err(step("connect"))?;
    stream.set_read_timeout(Some(timeout)).map_err(step("option"))?;
    Ok(stream)
}

/// Something that no other connection says, and the same back.
fn talk(mut stream: &TcpStream, number: usize) -> Result<(), String> {
    let (word, mut heard) = (number.to_le_bytes(), [0; size_of::<usize>()]);
    stream.write_all(&word).map_err(step("write"))?;
    stream.read_exact(&mut heard).map_err(step("read"))?;
    if heard == word { Ok(()) } else { Err("read:garbled".to_owned()) }
}

/// Sends back what comes, on one thread, for any number of connections that say little at a time.
pub(crate) fn echo(listen: SocketAddr) -> anyhow::Result<()> {
    raise_open_files()?;
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    // The standard library asks for less than the kernel gives: what is tested is not how long this one's backlog is.
    // SAFETY: takes no pointers; listen(2) on a listening socket sets its backlog anew.
    if unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) } < 0 {
        return Err(io::Error::last_os_error().into());
    }
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd())?;
    let mut streams: HashMap<RawFd, TcpStream> = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        for fd in epoll.wait()? {
            if fd == listener.as_raw_fd() {
                accept_all(&listener, &epoll, &mut streams)?;
            } else if let Some(stream) = streams.get(&fd)
                && !send_back(stream, &mut buffer)
            {
                streams.remove(&fd);
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    epoll: &Epoll,
    streams: &mut HashMap<RawFd, TcpStream>,
) -> anyhow::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                epoll.add(stream.as_raw_fd())?;
                streams.insert(stream.as_raw_fd(), stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => {
                eprintln!("accept: {error}");
                thread::sleep(Duration::from_millis(10));
                return Ok(());
            }
        }
    }
}

/// Whether the connection goes on.
fn send_back(mut stream: &TcpStream, buffer: &mut [u8]) -> bool {
    match stream.read(buffer) {
        Ok(0) => false,
        // What a client says here fits into its socket's buffer.
        Ok(count) => stream.write_all(&buffer[..count]).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// epoll(7), level-triggered, for reading.
struct Epoll(OwnedFd);

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; the result is checked before it becomes an OwnedFd, which alone owns it.
        unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(OwnedFd::from_raw_fd(fd))) }
        }
    }

    fn add(&self, fd: RawFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
        // SAFETY: the event is a live local; the kernel copies it.
        let result = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn wait(&self) -> io::Result<Vec<RawFd>> {
        const MOST: usize = 256;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MOST];
        // SAFETY: the pointer is to as many live events as are named.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), MOST as i32, -1) };
        match usize::try_from(count) {
            Ok(count) => Ok(events[..count].iter().map(|event| event.u64 as RawFd).collect()),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
                error => Err(error),
            },
        }
    }
}
