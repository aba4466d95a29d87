//! A little HTTP/1.1 client for the mesh's admin sockets and metrics ports. One GET per connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Gets `path` from a unix socket; a status that is not 200 is an error.
pub fn get_unix(socket: &Path, path: &str) -> Result<Vec<u8>> {
    let what = || format!("GET {path} on {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(what)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    exchange(stream, path).with_context(what)
}

/// The same over TCP, from the calling thread's network namespace.
pub fn get_tcp(address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let what = || format!("GET http://{address}{path}");
    let stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(what)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, path).with_context(what)
}

fn exchange(mut stream: impl Read + Write, path: &str) -> Result<Vec<u8>> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Vec<u8>> {
    let end = memchr::memmem::find(answer, b"\r\n\r\n").context("an answer without a head")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let body = &answer[end + 4..];
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        dechunk(body)?
    } else {
        body.to_vec()
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("status {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(body)
}

fn dechunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = memchr::memmem::find(rest, b"\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end])?.trim(), 16)?;
        if size == 0 {
            return Ok(body);
        }
        let chunk = rest.get(end + 2..end + 2 + size).context("a chunk that is cut off")?;
        body.extend_from_slice(chunk);
        rest = rest.get(end + 2 + size + 2..).context("a chunk without an end")?;
    }
}

#[cfg(test)]
mod tests;
