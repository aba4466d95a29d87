//! What both ends of a connection are told about its addresses, word for word: an IPv4 address that is mapped into IPv6
//! stays written so, because that is what the application has in its hands.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::words;

/// Tells every client what accept(2), getpeername(2) and getsockname(2) said here.
pub(crate) fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)?;
    loop {
        // One at a time: the line is all there is to a conversation.
        match listener.accept().and_then(|(stream, accepted)| tell(stream, accepted)) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("connection: {error}"),
        }
    }
}

fn tell(mut stream: TcpStream, accepted: SocketAddr) -> io::Result<Value> {
    let line = json!({
        "accepted": accepted.to_string(),
        "peer": raw(stream.peer_addr()),
        "local": raw(stream.local_addr()),
    });
    stream.write_all(format!("{line}\n").as_bytes())?;
    Ok(line)
}

/// Prints what this end is told, and what the server says of its own.
pub(crate) fn ask(to: SocketAddr) -> anyhow::Result<()> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // Before the first byte and after it: the answer must not depend on who has noticed what.
    let before = json!({ "peer": raw(stream.peer_addr()), "local": raw(stream.local_addr()) });
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let after = json!({ "peer": raw(stream.peer_addr()), "local": raw(stream.local_addr()) });
    let server: Value = serde_json::from_str(&line)?;
    println!("{}", json!({ "client": before, "later": after, "server": server }));
    Ok(())
}

fn raw(address: io::Result<SocketAddr>) -> Value {
    match address {
        Ok(address) => address.to_string().into(),
        Err(error) => words::errno(&error).into(),
    }
}
