//! `meshctl ready`: does an end say that it is ready? For the chart's test: its image has no shell and no other client.
//!
//! The one verb that speaks to an address and not to a socket. It asks again until the timeout, as an end that comes up is no
//! failure yet.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use super::{Answer, Failure};
use crate::args::ReadyArgs;
use crate::render::printable;

#[cfg(test)]
mod tests;

/// The longest answer that is read.
const ANSWER: u64 = 64 * 1024;

pub(super) fn run(args: &ReadyArgs, timeout: Duration) -> Result<Answer, Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = ask(&args.address, left.clamp(Duration::from_millis(100), Duration::from_secs(5)));
        if left.is_zero() || matches!(&answer, Ok((200, _))) {
            let (status, body) =
                answer.map_err(|source| Failure::Ready { address: args.address.clone(), source })?;
            return Ok(Answer {
                stdout: body.lines().map(|line| printable(line) + "\n").collect(),
                note: String::new(),
                exit_code: u8::from(status != 200),
            });
        }
        std::thread::sleep(left.min(Duration::from_millis(200)));
    }
}

/// Status and body of `GET /readyz`, from the first address of the name that answers.
fn ask(address: &str, limit: Duration) -> io::Result<(u16, String)> {
    let mut last = io::Error::other("the name has no address");
    for one in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&one, limit).and_then(|stream| get(stream, address, limit)) {
            Ok(answer) => return Ok(answer),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn get(mut stream: TcpStream, host: &str, limit: Duration) -> io::Result<(u16, String)> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    // In one piece: a server that answers the first line and closes would reset what comes after it.
    let request = format!("GET /readyz HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = Vec::new();
    stream.take(ANSWER).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP answer"))?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|line| line.split(' ').nth(1)?.get(..3)?.parse().ok())
        .ok_or_else(|| io::Error::other("no HTTP answer"))?;
    Ok((status, body.to_owned()))
}
