//! Clients that connect once and report.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::words;

/// For how many seconds the first-instruction client tries, if it is not told.
pub(crate) const PERSISTENCE: u64 = 1;
/// How often it tries.
const RETRY: Duration = Duration::from_millis(20);
/// How long it waits for one connect, and for the line, at least; as long as it goes on trying, if that is longer.
const STEP: Duration = Duration::from_secs(3);

pub(crate) fn connect_once(
    to: SocketAddr,
    send: Option<&str>,
    shutdown: bool,
    timeout: Duration,
    most: usize,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut stream = match connect(to, timeout) {
        Ok(stream) => stream,
        Err(error) => {
            let micros = start.elapsed().as_micros() as u64;
            println!("{}", json!({ "ok": false, "errno": words::errno(&error), "connect_us": micros }));
            return Ok(());
        }
    };
    let connect_us = start.elapsed().as_micros() as u64;
    // Asked at once: a program that logs its peer does so before it reads.
    let (peer, local) = (words::address(stream.peer_addr()), words::address(stream.local_addr()));
    stream.set_read_timeout(Some(timeout))?;
    let mut sent = Value::Null;
    if let Some(text) = send {
        sent = match stream.write_all(text.as_bytes()) {
            Ok(()) => true.into(),
            Err(error) => words::errno(&error).into(),
        };
    }
    if shutdown {
        // A connection that was reset meanwhile is reported by the read.
        let _ = stream.shutdown(Shutdown::Write);
    }
    let (bytes, end) = read(&mut stream, most);
    let line = json!({
        "ok": true,
        "errno": null,
        "connect_us": connect_us,
        "peer": peer,
        "local": local,
        "sent": sent,
        "read": String::from_utf8_lossy(&bytes),
        "end": end,
        "total_us": start.elapsed().as_micros() as u64,
    });
    println!("{line}");
    Ok(())
}

/// One connect(2) that blocks, as most programs call it; the timeout is the socket's (socket(7), SO_SNDTIMEO).
fn connect(to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
    };
    use nix::sys::time::TimeVal;
    use std::os::fd::AsRawFd;
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = |time: Duration| TimeVal::new(time.as_secs() as i64, i64::from(time.subsec_micros()));
    setsockopt(&socket, sockopt::SendTimeout, &limit(timeout))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).map_err(|errno| match errno {
        nix::errno::Errno::EINPROGRESS => io::ErrorKind::TimedOut.into(),
        errno => io::Error::from(errno),
    })?;
    setsockopt(&socket, sockopt::SendTimeout, &limit(Duration::ZERO))?;
    Ok(socket.into())
}

/// Reads to the end, an error, a timeout or `most` bytes, and says which it was.
fn read(stream: &mut TcpStream, most: usize) -> (Vec<u8>, String) {
    let mut bytes = vec![0; most];
    let mut count = 0;
    while count < most {
        match stream.read(&mut bytes[count..]) {
            Ok(0) => {
                bytes.truncate(count);
                return (bytes, "eof".to_owned());
            }
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                bytes.truncate(count);
                return (bytes, words::errno(&error));
            }
        }
    }
    (bytes, "full".to_owned())
}

pub(crate) fn first_instruction(to: SocketAddr, persistence: Duration) -> anyhow::Result<()> {
    let step = persistence.max(STEP);
    let start = Instant::now();
    let micros = || start.elapsed().as_micros() as u64;
    let mut refusals = Vec::new();
    let stream = loop {
        match connect(to, step) {
            Ok(stream) => break Some(stream),
            Err(error) => refusals.push(json!({ "at_us": micros(), "errno": words::errno(&error) })),
        }
        if start.elapsed() >= persistence {
            break None;
        }
        thread::sleep(RETRY);
    };
    let connected_us = micros();
    let Some(mut stream) = stream else {
        println!("{}", json!({ "connected": false, "refusals": refusals }));
        return Ok(());
    };
    let peer = words::address(stream.peer_addr());
    let local = words::address(stream.local_addr());
    stream.set_read_timeout(Some(step))?;
    let mut bytes = Vec::new();
    let mut byte = [0];
    let end = loop {
        match stream.read(&mut byte) {
            Ok(0) => break "eof".to_owned(),
            Ok(_) if byte[0] == b'\n' => break "line".to_owned(),
            Ok(_) => bytes.push(byte[0]),
            Err(error) => break words::errno(&error),
        }
    };
    let line = json!({
        "connected": true,
        "connected_us": connected_us,
        "refusals": refusals,
        "peer": peer,
        "local": local,
        "read": String::from_utf8_lossy(&bytes),
        "end": end,
    });
    println!("{line}");
    Ok(())
}
