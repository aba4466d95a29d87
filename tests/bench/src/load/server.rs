//! The server: one thread, one epoll, two ports. The echo port answers what it reads; the close port answers the first
//! byte and closes.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, Socket, Type};

/// Larger than any burst of connections that a work makes.
const BACKLOG: i32 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Echo,
    Close,
}

enum Entry {
    Listener(TcpListener, Kind),
    Connection(TcpStream, Kind),
}

/// What is registered, by descriptor: they are small numbers.
struct Table {
    epoll: Epoll,
    entries: Vec<Option<Entry>>,
}

/// Serves both ports on all addresses of both families, for ever.
pub fn serve(echo: u16, close: u16) -> io::Result<()> {
    let mut table = Table { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, entries: Vec::new() };
    for (port, kind) in [(echo, Kind::Echo), (close, Kind::Close)] {
        table.add(Entry::Listener(listen(port)?, kind))?;
    }
    let mut events = vec![EpollEvent::empty(); 256];
    let mut buffer = vec![0; 64 << 10];
    loop {
        let ready = match table.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        for event in &events[..ready] {
            table.serve_one(event.data() as RawFd, &mut buffer)?;
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Table {
    fn add(&mut self, entry: Entry) -> io::Result<()> {
        let fd = match &entry {
            Entry::Listener(listener, _) => listener.as_fd(),
            Entry::Connection(stream, _) => stream.as_fd(),
        };
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, fd.as_raw_fd() as u64))?;
        let index = fd.as_raw_fd() as usize;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        self.entries[index] = Some(entry);
        Ok(())
    }

    fn serve_one(&mut self, fd: RawFd, buffer: &mut [u8]) -> io::Result<()> {
        let (stream, kind) = match &mut self.entries[fd as usize] {
            Some(Entry::Listener(listener, kind)) => {
                let kind = *kind;
                return match listener.accept() {
                    Ok((stream, _)) => self.welcome(stream, kind, buffer),
                    // Gone again, or taken already: the next one will come.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
                    Err(error) => Err(error),
                };
            }
            Some(Entry::Connection(stream, kind)) => (stream, *kind),
            None => return Ok(()),
        };
        if !answer(stream, kind, buffer) {
            // Closing takes it out of the epoll.
            self.entries[fd as usize] = None;
        }
        Ok(())
    }

    /// The first bytes are often there already.
    fn welcome(&mut self, mut stream: TcpStream, kind: Kind, buffer: &mut [u8]) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        if kind == Kind::Echo {
            // A connection that was reset meanwhile has no options any more.
            let _ = stream.set_nodelay(true);
        }
        if answer(&mut stream, kind, buffer) { self.add(Entry::Connection(stream, kind)) } else { Ok(()) }
    }
}

/// Answers what can be read; whether the connection goes on.
fn answer(stream: &mut TcpStream, kind: Kind, buffer: &mut [u8]) -> bool {
    match stream.read(buffer) {
        Ok(0) => false,
        // Clients wait for an answer before they go on, so it fits into the socket's buffer.
        Ok(count) if kind == Kind::Echo => stream.write_all(&buffer[..count]).is_ok(),
        Ok(_) => {
            let _ = stream.write_all(&buffer[..1]);
            false
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}
