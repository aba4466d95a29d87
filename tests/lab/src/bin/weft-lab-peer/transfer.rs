//! Bulk in one direction or the other, with digests, and conversations that close one half first.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Instant;

use lab::pattern::{BLOCK, Pattern, digest, hex};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::server::serve;
use crate::words;

/// Sends the pattern; how far it came, and what stopped it.
fn send(stream: &mut TcpStream, bytes: u64) -> (u64, Option<io::Error>) {
    let mut pattern = Pattern::new(bytes);
    let mut sent = 0;
    loop {
        let block = pattern.next_block();
        if block.is_empty() {
            return (sent, None);
        }
        if let Err(error) = stream.write_all(block) {
            return (sent, Some(error));
        }
        sent += block.len() as u64;
    }
}

/// Reads to the end of the stream: how much, its digest, and what stopped it.
fn receive(stream: &mut TcpStream) -> (u64, String, Option<io::Error>) {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    let mut count = 0;
    let error = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break None,
            Ok(more) => {
                hash.update(&buffer[..more]);
                count += more as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Some(error),
        }
    };
    (count, hex(&hash.finalize()), error)
}

fn word(error: Option<io::Error>) -> Value {
    error.map_or(Value::Null, |error| words::errno(&error).into())
}

pub(crate) fn sink_server(listen: SocketAddr) -> anyhow::Result<()> {
    serve(listen, |mut stream| {
        let (bytes, sha256, error) = receive(&mut stream);
        println!("{}", json!({ "bytes": bytes, "sha256": sha256, "error": word(error) }));
        stream.write_all(format!("{bytes} {sha256}\n").as_bytes())
    })
}

pub(crate) fn sink_client(to: SocketAddr) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(to)?;
    let (bytes, sha256, error) = receive(&mut stream);
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", json!({ "bytes": bytes, "sha256": sha256, "error": word(error), "seconds": seconds }));
    Ok(())
}

pub(crate) fn source_server(listen: SocketAddr, bytes: u64) -> anyhow::Result<()> {
    serve(listen, move |mut stream| {
        let (sent, error) = send(&mut stream, bytes);
        println!("{}", json!({ "sent": sent, "error": word(error) }));
        stream.shutdown(Shutdown::Write)
    })
}

pub(crate) fn source_client(to: SocketAddr, bytes: u64) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(to)?;
    let (sent, error) = send(&mut stream, bytes);
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    let end = stream.read_to_string(&mut answer).err();
    let expected = digest(bytes);
    let line = json!({
        "sent": sent,
        "sha256": expected,
        "error": word(error.or(end)),
        "match": answer.trim() == format!("{bytes} {expected}"),
        "answer": answer.trim(),
        "seconds": start.elapsed().as_secs_f64(),
    });
    println!("{line}");
    Ok(())
}

/// Both directions of a conversation, and whether the other side's part came whole.
fn converse(stream: &mut TcpStream, speaks_first: bool, bytes: u64) -> io::Result<Value> {
    let mut sent = (0, None);
    let mut received = None;
    for speak in [speaks_first, !speaks_first] {
        if speak {
            sent = send(stream, bytes);
            if sent.1.is_none() {
                stream.shutdown(Shutdown::Write)?;
            }
        } else {
            received = Some(receive(stream));
        }
    }
    let (count, sha256, error) = received.unwrap_or_default();
    Ok(json!({
        "sent": sent.0,
        "send_error": word(sent.1),
        "received": count,
        "match": sha256 == digest(count),
        "receive_error": word(error),
    }))
}

pub(crate) fn half_close_server(listen: SocketAddr, server_first: bool, bytes: u64) -> anyhow::Result<()> {
    serve(listen, move |mut stream| {
        println!("{}", converse(&mut stream, server_first, bytes)?);
        Ok(())
    })
}

pub(crate) fn half_close_client(to: SocketAddr, server_first: bool, bytes: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    println!("{}", converse(&mut stream, !server_first, bytes)?);
    Ok(())
}
